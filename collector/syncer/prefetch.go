package syncer

import "context"

// prefetch reads pages that are to follow while others are taken in.
type prefetch struct {
	requests int // at once
	queue    []future
	wanted   chan future // takes all of the queue without waiting
	cancel   context.CancelFunc
}

// future is a page that is on its way or waits to be taken.
type future struct {
	offset int
	done   chan result
}

type result struct {
	page page
	err  error
}

// aheadOf is how many times as many pages as are asked for at once may be on
// their way or wait to be taken.
const aheadOf = 2

// page reads the next page of a cursor, with those after it on their way.
func (f *prefetch) page(ctx context.Context, c *cursor) (page, error) {
	if len(f.queue) > 0 && f.queue[0].offset != c.next {
		f.close()
	}
	if f.cancel == nil {
		flight, cancel := context.WithCancel(ctx)
		f.wanted, f.cancel = make(chan future, aheadOf*f.requests), cancel
		// They last as long as the full scan: a stack deep enough to decode a page is
		// not grown again for each.
		for range f.requests {
			go c.reader.listAll(flight, f.wanted)
		}
	}
	step := maxLimit - c.overlap
	for at := c.next + len(f.queue)*step; len(f.queue) < aheadOf*f.requests; at += step {
		if len(f.queue) > 0 && at >= c.total {
			break
		}
		next := future{offset: at, done: make(chan result, 1)}
		f.wanted <- next
		f.queue = append(f.queue, next)
	}
	got := <-f.queue[0].done
	f.queue = f.queue[1:]
	return got.page, got.err
}

// listAll lists one page after the other until no more is wanted.
func (r *reader) listAll(ctx context.Context, wanted <-chan future) {
	for f := range wanted {
		p, err := r.list(ctx, f.offset, maxLimit)
		f.done <- result{p, err}
	}
}

// close cancels the pages that are on their way.
func (f *prefetch) close() {
	if f.cancel != nil {
		f.cancel()
		close(f.wanted)
	}
	f.queue, f.wanted, f.cancel = nil, nil, nil
}
