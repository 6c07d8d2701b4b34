package collector

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

// minStall is the shortest time without progress after which opper_up is 0.
const minStall = time.Minute

// stall sets opper_up to 0 while a sync or a page of a sweep makes no progress:
// Opper may take minutes to fail, and retries longer. Only a sync that succeeds
// sets it to 1 again. It is safe for concurrent use.
type stall struct {
	now   func() time.Time
	limit time.Duration
	up    prometheus.Gauge

	mu       sync.Mutex
	reading  bool
	progress time.Time // the last answer, or the start if there was none yet
}

func newStall(now func() time.Time, interval time.Duration, up prometheus.Gauge) *stall {
	return &stall{now: now, limit: max(3*interval, minStall), up: up}
}

func (s *stall) begin() { s.set(true) }
func (s *stall) end()   { s.set(false) }

func (s *stall) set(reading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading, s.progress = reading, s.now()
}

// answered takes in progress.
func (s *stall) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	s.progress = s.now()
}

// update sets opper_up as it is to be exposed now. It returns for how long there has
// been no progress, if that is too long, else 0.
func (s *stall) update() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.check()
}

// hasPaused reports whether there has been no progress for minStall, however long the
// interval is: a first sync that waits for longer must not keep a process from being ready.
func (s *stall) hasPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pause() >= minStall
}

func (s *stall) check() time.Duration {
	passed := s.pause()
	if passed < s.limit {
		return 0
	}
	s.up.Set(0)
	return passed
}

func (s *stall) pause() time.Duration {
	if !s.reading {
		return 0
	}
	return s.now().Sub(s.progress)
}

// watchedSource reports the answers of a Source as progress.
type watchedSource struct {
	syncer.Source
	stall *stall
}

// List implements syncer.Source.
func (s watchedSource) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	page, err := s.Source.List(ctx, offset, limit)
	if err == nil {
		s.stall.answered()
	}
	return page, err
}

// Get implements syncer.Source.
func (s watchedSource) Get(ctx context.Context, id string) (opper.Trace, error) {
	trace, err := s.Source.Get(ctx, id)
	if err == nil {
		s.stall.answered()
	}
	return trace, err
}
