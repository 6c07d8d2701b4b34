package collector

import (
	"context"
	"sync"
)

// refresh syncs, if there is no interval, and returns when that is done or ctx ends; in
// that case the sync continues in the background. Concurrent calls share one sync. It
// does not wait for the initial sync, nor for one that is late if other projects wait.
func (p *project) refresh(ctx context.Context, othersWait bool) {
	if p.cfg.Interval > 0 {
		return
	}
	ended, isLate := p.requests.join()
	if ended == nil || !p.snapshots.isPublished() || othersWait && isLate {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
		p.requests.late(ended)
	}
}

// syncRequests are the syncs that calls of refresh ask for.
type syncRequests struct {
	wanted chan struct{} // asks for a sync; holds one

	mu        sync.Mutex
	ended     chan struct{} // closed when the sync that is wanted or running ends; nil if none is
	isLate    bool          // a call of refresh has waited for it in vain
	isStopped bool          // run has ended
}

// join asks for a sync, unless one is wanted or running. It returns what is closed when
// that ends, nil if none would begin.
func (r *syncRequests) join() (ended chan struct{}, isLate bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended == nil && !r.isStopped {
		r.ended = make(chan struct{})
		r.wanted <- struct{}{}
	}
	return r.ended, r.isLate
}

// late notes that a sync was waited for in vain.
func (r *syncRequests) late(ended chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isLate = r.ended == ended
}

// end ends the wait of those who wanted the sync that has just ended.
func (r *syncRequests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.wanted:
		// Asked for while this sync ran: it is the one that they share.
	default:
	}
	if r.ended != nil {
		close(r.ended)
		r.ended, r.isLate = nil, false
	}
}

// setStopped notes whether run runs. Nobody waits for a sync that would not begin.
func (r *syncRequests) setStopped(isStopped bool) {
	r.mu.Lock()
	r.isStopped = isStopped
	r.mu.Unlock()
	if isStopped {
		r.end()
	}
}
