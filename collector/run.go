package collector

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// run syncs until ctx ends: at once, then at the project's own time in each interval
// or, if that is 0, whenever refresh is called. Between syncs it reads pages of sweeps,
// and counts the usage that is read meanwhile.
// It returns an error only if the store breaks.
func (p *project) run(ctx context.Context) error {
	ctx, p.halt = context.WithCancel(ctx)
	p.requests.setStopped(false)
	defer p.requests.setStopped(true)
	defer p.usage.stop()
	defer p.halt()
	var timer *time.Timer
	var tick <-chan time.Time
	next := time.Now().Add(offset(p.cfg.Name, p.cfg.Interval))
	if p.cfg.Interval > 0 {
		timer = time.NewTimer(time.Until(next))
		defer timer.Stop()
		tick = timer.C
	}
	for ctx.Err() == nil {
		synced := p.sync(ctx)
		sweeping := synced
		p.requests.end()
		for waiting := true; waiting; {
			var page, more <-chan time.Time
			if synced && p.state.err == nil && p.syncer.IsBehind() {
				more = time.After(0)
			}
			if sweeping && p.syncer.IsSweepDue() {
				page = time.After(time.Until(p.sweptAt.Add(p.sweepPause())))
			}
			select {
			case <-ctx.Done():
				if synced {
					p.commitDocuments()
				}
				return p.state.broken
			case <-tick:
				waiting = false
				missed := max(time.Since(next), 0).Truncate(p.cfg.Interval)
				next = next.Add(missed + p.cfg.Interval)
				timer.Reset(time.Until(next))
			case <-more:
				waiting = false
			case <-p.requests.wanted:
				waiting = false
			case <-p.usage.tick():
				p.readUsage(ctx)
			case a := <-p.usage.answers:
				if ctx.Err() == nil {
					p.countUsage(a)
				}
			case <-page:
				sweeping = p.sweep(ctx, next)
			}
		}
	}
	return p.state.broken
}

// readOnce runs syncs until one is published. What a failed one has read of the initial
// sync is not read again, so the next one may get further, unless nothing was read.
func (p *project) readOnce(ctx context.Context) error {
	for read := 0; ; {
		p.sync(ctx)
		st := p.status()
		succeeded := st.Initial == nil && st.Sync.FailingSince.IsZero() && p.state.err == nil
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case succeeded && p.syncer.IsBehind():
			continue
		case succeeded:
			return nil
		case st.Initial == nil || st.Initial.Read <= read || p.state.err != nil:
			return fmt.Errorf("project %q: %w", p.cfg.Name, errors.New(st.Sync.LastError))
		}
		read = st.Initial.Read
	}
}

// offset returns when in each interval a project syncs: so that of many, which begin
// at once, few do at the same time.
func offset(name string, interval time.Duration) time.Duration {
	if interval <= 0 {
		return 0
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(name))
	return time.Duration(hash.Sum64() % uint64(interval))
}

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

// setStopped notes whether run runs, so that no call waits for a sync that never begins.
func (r *syncRequests) setStopped(isStopped bool) {
	r.mu.Lock()
	r.isStopped = isStopped
	r.mu.Unlock()
	if isStopped {
		r.end()
	}
}
