package collector

import (
	"context"
	"sync"
	"time"

	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

const (
	// maxInitialSyncs is the maximum number of initial syncs that run at once: each
	// holds pages that it has read ahead, and commits a lot.
	maxInitialSyncs = 4
	// turnLength is how long one runs while others wait. Most end within it, so that
	// projects publish one after the other and not all at the end; a list of millions
	// of traces delays the others by no more.
	turnLength = 30 * time.Second
	// turnSilence is the time without an answer from Opper after which a turn ends.
	turnSilence = 10 * time.Second
)

// turns are the initial syncs of all projects that run; the others wait in the order
// in which Opper answered them.
type turns chan struct{}

func newTurns() turns { return make(turns, maxInitialSyncs) }

// syncSource returns where the next sync reads from, and what is to be called when it
// has ended.
func (p *project) syncSource() (src syncer.Source, end func()) {
	if !p.ledger.IsInitialSync() {
		return watchedSource{p.source(opper.PrioritySync, time.Time{}), p.metrics.stall}, func() {}
	}
	watched := watchedSource{p.source(opper.PriorityInitialSync, time.Time{}), p.metrics.stall}
	if p.deps.turns == nil {
		return watched, func() {}
	}
	s := &turnSource{Source: watched, turns: p.deps.turns, metrics: p.metrics, asking: make(chan struct{}, 1)}
	return s, s.close
}

// turnSource is the Source of one initial sync. It waits for a turn only after Opper
// has answered with a full page: who is refused, gets no answer, or has a short list
// takes none.
type turnSource struct {
	syncer.Source
	turns   turns
	metrics *instrumentation
	asking  chan struct{} // holds one while a page is asked for without a turn

	mu     sync.Mutex
	timer  *time.Timer // ends the turn; nil if there is none
	ends   time.Time   // when the turn ends at the latest
	closed bool
}

// List implements syncer.Source.
func (s *turnSource) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if s.hasTurn() {
		page, err := s.Source.List(ctx, offset, limit)
		if err == nil {
			s.answered()
		}
		return page, err
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return opper.Page{}, ctx.Err()
	}
	page, err := s.Source.List(ctx, offset, limit)
	if err == nil && len(page.Traces) >= limit && !s.hasTurn() {
		err = s.wait(ctx)
	}
	return page, err
}

func (s *turnSource) hasTurn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timer != nil
}

// wait waits for a turn. Opper answers meanwhile, for all that is known.
func (s *turnSource) wait(ctx context.Context) error {
	s.metrics.up.Set(1)
	s.metrics.stall.end()
	defer s.metrics.stall.begin()
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.turns
		return nil
	}
	s.ends = time.Now().Add(turnLength)
	s.timer = time.AfterFunc(turnSilence, s.end)
	return nil
}

// answered extends the turn, up to its length.
func (s *turnSource) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Reset(min(turnSilence, time.Until(s.ends)))
	}
}

// end ends the turn.
func (s *turnSource) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
		<-s.turns
	}
}

// close ends the turn, and lets no request that is still on its way take another.
func (s *turnSource) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
}
