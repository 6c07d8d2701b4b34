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
	// slotDuration is the maximum time that one holds a slot. Most end within it, so that
	// projects publish one after the other and not all at the end; a list of millions
	// of traces delays the others by no more.
	slotDuration = 30 * time.Second
	// slotIdleTime is the maximum time without an answer from Opper that one holds a slot.
	slotIdleTime = 10 * time.Second
)

// slots has one entry for each initial sync that runs; the others wait in the order in
// which Opper answered them.
type slots chan struct{}

func newSlots() slots { return make(slots, maxInitialSyncs) }

// syncSource returns where the next sync reads from, and what is to be called when it
// has ended.
func (p *project) syncSource() (src syncer.Source, end func()) {
	if !p.ledger.IsInitialSync() {
		return watchedSource{p.source(opper.PrioritySync, time.Time{}), p.metrics.stall}, func() {}
	}
	watched := watchedSource{p.source(opper.PriorityInitialSync, time.Time{}), p.metrics.stall}
	if p.deps.slots == nil {
		return watched, func() {}
	}
	s := &slotSource{Source: watched, slots: p.deps.slots, metrics: p.metrics, isFailing: p.failing, asking: make(chan struct{}, 1)}
	return s, s.close
}

// slotSource is the Source of one initial sync. It waits for a slot only after Opper
// has answered with a full page: a project that is refused, gets no answer, or has a
// short list takes none.
type slotSource struct {
	syncer.Source
	slots     slots
	metrics   *instrumentation
	isFailing bool          // the sync before failed
	asking    chan struct{} // holds one while a page is asked for without a slot

	mu     sync.Mutex
	timer  *time.Timer // ends the slot; nil if there is none
	ends   time.Time   // when the slot ends at the latest
	closed bool
}

// List implements syncer.Source.
func (s *slotSource) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if s.hasSlot() {
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
	if err == nil && len(page.Traces) >= limit && !s.hasSlot() {
		err = s.wait(ctx)
	}
	return page, err
}

func (s *slotSource) hasSlot() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timer != nil
}

// wait waits for a slot. Meanwhile a project that has not failed counts as up: it waits
// for other projects, and not for Opper.
func (s *slotSource) wait(ctx context.Context) error {
	if !s.isFailing {
		s.metrics.up.Set(1)
	}
	s.metrics.stall.end()
	defer s.metrics.stall.begin()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.slots
		return nil
	}
	s.ends = time.Now().Add(slotDuration)
	s.timer = time.AfterFunc(slotIdleTime, s.end)
	return nil
}

// answered extends the slot, up to its length.
func (s *slotSource) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Reset(min(slotIdleTime, time.Until(s.ends)))
	}
}

// end ends the slot.
func (s *slotSource) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
		<-s.slots
	}
}

// close ends the slot, and lets no request that is still on its way take another.
func (s *slotSource) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
}
