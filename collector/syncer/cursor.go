package syncer

import (
	"context"
	"errors"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// Consecutive pages share some rows, so that rows which moved up while we read
// are not skipped. A full scan begins with one shared row and takes more when it
// sees the list move.
const (
	longOverlap = 1
	overlap     = 10
	maxOverlap  = maxLimit / 2
	minFollow   = 3 // known rows in a row that show where a page stands
	maxSteps    = 4 // how often a border is read again
	// maxBacks is how often a cursor goes back because of an unreadable row. Where
	// pages are longer than asked for, rows may seem unreadable that are not.
	maxBacks = 10
	// idleRows is how many rows are read at an end of the list at which nothing is
	// new: enough to show that, and few, because each holds an input and an output.
	idleRows = 5
)

// A list is taken to have no end when it goes on far beyond what total_count
// says: it may be capped, so that is not meant literally.
const (
	totalFactor  = 10
	totalSlack   = 20_000
	maxUncounted = 5_000_000 // without a total_count
	maxRepeats   = 3         // whole pages in a row that lead no further; of smaller ones, maxLimit
)

var (
	// errMoving says that no shared row could be found at a border between pages.
	errMoving = errors.New("the list moves faster than it can be read")
	// errRepeated says that pages of different offsets hold the same rows.
	errRepeated = errors.New("offset is ignored: pages at different offsets hold the same rows")
	// errEndless says that reading on does not come to an end.
	errEndless = errors.New("the list does not end")
)

// cursor reads consecutive pages, each stitched to the one before it.
type cursor struct {
	r         *reader
	ledger    *ledger.Ledger
	next      int // offset of the next page
	size      int // rows to ask for; less than maxLimit near unreadable rows
	limit     int // rows to ask for at most until a page was read; maxLimit after that
	overlap   int
	ahead     int  // requests at once
	retry     bool // try again to read rows known to be unreadable
	again     bool // pages that can't be stitched may be read again from the start
	restarted bool // they were, and what they may miss is left to the next head
	restarts  int  // how often it went back to the start of the list; at most maxSteps
	known     int  // rows of the list that were read before; 0 in an initial sync
	total     int  // the newest meta.total_count, or -1

	prev    []ledger.ID  // the page before; nil if there is nothing to stitch to
	floor   int          // its offset
	first   ledger.ID    // its first row
	end     int          // the offset behind it
	asked   time.Time    // when it was asked for
	last    []ledger.ID  // its rows
	lastRow ledger.Row   // the last of them
	share   int          // how many of them the next page is to begin with
	near    int          // one of so many rows behind them can't be read; 0 if that is not known
	aims    int          // how often the border behind them was read again beside an unreadable row
	carry   []ledger.Row // its last row if the next page does not share it, and unreadable rows
	shift   int          // how much further down than believed rows stand
	sure    bool         // the last row that was read says so
	blind   bool         // rows known to be unreadable were not tried
	same    int          // pages in a row that led no further, by their weight
	backs   int          // how often it went back because of an unreadable row
	loose   bool         // the last run begins with new rows that were not read together with its others

	// read has the places of the rows that were read from the start of the list on,
	// while they wait for a row that the ledger knows. It is nil where the ledger
	// takes in each page at once.
	read map[ledger.ID]int
	lost int  // how many these were when a border was last lost
	back bool // going back from such a border, which led further than the one before

	queue  []future
	wanted chan future // takes all of the queue without waiting
	cancel context.CancelFunc
}

type future struct {
	offset int
	done   chan result
}

// aheadOf is how many times as many pages as are asked for at once may be on
// their way or wait to be taken.
const aheadOf = 2

type result struct {
	page page
	err  error
}

func newCursor(r *reader, led *ledger.Ledger, offset, total int) *cursor {
	c := &cursor{r: r, ledger: led, next: max(offset, 0), size: maxLimit, limit: maxLimit, overlap: overlap, total: total}
	if !led.IsInitialSync() {
		c.known = led.Listed()
	}
	return c
}

// stitchTo makes the next page share one of some ids at least.
func (c *cursor) stitchTo(ids []ledger.ID) {
	c.prev = ids
}

// page reads the next page. Rows that can't be read are part of the run that
// the next readable page gives.
func (c *cursor) page(ctx context.Context) (ledger.Run, error) {
	for steps := 0; ; {
		p, err := c.fetch(ctx)
		if err != nil {
			return ledger.Run{}, err
		}
		if p.total >= 0 {
			c.total = p.total
		}
		if err := c.progress(p); err != nil {
			return ledger.Run{}, err
		}
		switch {
		case isUnreadable(p) && c.prev != nil && !c.asked.IsZero() && c.backs < maxBacks:
			// A row that the last page should share: the list has moved, and
			// what follows has to be tied to a row before this one.
			c.next, c.size, c.share, c.near = max(0, c.next-maxOverlap), maxOverlap, 0, 0
			c.backs++
		case isUnreadable(p):
			c.carry = append(c.carry, p.rows[0])
			c.prev, c.share, c.near = nil, 0, 0
			c.next++
			if p.blind {
				c.blind = true
			} else {
				// It may be the one that is believed to stand further down.
				c.size, c.sure = 1, false
			}
		case c.mustCheck(p):
			if sure, err := c.check(ctx, p); err != nil {
				return ledger.Run{}, err
			} else if sure {
				return c.take(p), nil
			}
		case c.isLoose() && c.backs < maxBacks:
			c.stitchTo(c.last)
			c.carry, c.share, c.next, c.size, c.retry = nil, 1, c.next-1, max(c.size, 2), true
			c.backs++
		case c.prev == nil || c.stitched(p.rows) || p.offset == 0 && (c.again || slices.ContainsFunc(p.rows, c.listed)):
			return c.take(p), nil
		case steps > maxSteps || steps == maxSteps && !c.again || c.next == 0:
			return ledger.Run{}, errMoving
		default:
			c.share, c.near = 0, 0
			if steps == 0 {
				// A list that moves as fast as it is read would go on for ever.
				c.back, c.lost = len(c.read) > c.lost, len(c.read)
			}
			c.overlap = min(4*c.overlap, maxOverlap)
			c.next = max(0, c.next-maxOverlap<<steps)
			if steps == maxSteps {
				c.next, c.restarted = 0, true
			}
			if c.next == 0 {
				if c.restarts++; c.restarts > maxSteps {
					return ledger.Run{}, errMoving
				}
				// Small pages share too few rows to keep up with the list, also those
				// that end where rows were unreadable: others may be there by now.
				c.size, c.retry = maxLimit, true
			}
			steps++
		}
	}
}

func isUnreadable(p page) bool {
	return len(p.rows) == 1 && p.rows[0].Kind == ledger.Unreadable
}

// listed reports whether a row is believed to be listed.
func (c *cursor) listed(r ledger.Row) bool { return isListed(c.ledger, r) }

// isListed reports whether a row is believed to be listed and tells its list from
// others: one without an id and a start is the same in each project.
func isListed(l *ledger.Ledger, r ledger.Row) bool {
	return l.Index(r.ID) >= 0 && (r.Kind != ledger.NoID || !r.Start.IsZero())
}

// take makes a run of a page and moves on behind it.
func (c *cursor) take(p page) ledger.Run {
	n := len(p.rows)
	end := p.offset + n
	rows := p.rows
	c.loose = slices.ContainsFunc(c.carry, func(r ledger.Row) bool { return r.Kind != ledger.Unreadable && !c.ledger.HasSeen(r.ID) })
	if len(c.carry) > 0 {
		rows = append(c.carry, rows...)
	}
	run := ledger.Run{
		Rows:    rows,
		AtStart: p.offset == len(c.carry),
		// A server may give fewer rows than asked for before the list ends, and
		// rows that have moved down make a page that holds nothing new.
		AtEnd: n == 0 || (n < p.asked && (c.total <= end || end <= c.end && !hasNew(p.rows, c.prev))),
		When:  p.when,
	}
	if len(c.carry) > 0 && !c.asked.IsZero() {
		run.Asked = c.asked
	}
	before := c.last
	c.carry, c.prev, c.back = nil, nil, false
	if n == 0 {
		return run
	}
	c.remember(run)
	if i := c.ledger.Index(p.rows[n-1].ID); i >= 0 {
		c.shift, c.sure = end-1-i, true
	} else {
		c.sure = false
	}
	c.last, c.lastRow, c.aims = make([]ledger.ID, n), p.rows[n-1], 0
	for i, r := range p.rows {
		c.last[i] = r.ID
	}
	c.approach(p, before)
	c.share = min(c.overlap, n/2)
	switch {
	case c.unreadable(end) == end:
		c.share, c.size = 0, maxLimit
	case c.near == 1:
		c.share, c.size = 0, 1
	case c.near > 1:
		c.size = c.share + c.near/2
	case p.asked == c.limit:
		c.size = maxLimit
	default:
		c.size = min(2*p.asked, maxLimit)
	}
	c.limit = maxLimit
	if c.share == 0 {
		c.carry = slices.Clone(p.rows[n-1:])
	} else {
		c.stitchTo(c.last)
	}
	c.first, c.floor, c.next, c.end, c.asked = p.rows[0].ID, p.offset, end-c.share, end, p.when.Asked
	return run
}

// unreadable returns the offset of the first row from offset on that is known to be
// unreadable, or -1.
func (c *cursor) unreadable(offset int) int {
	if c.retry {
		return -1
	}
	i := c.ledger.NextUnreadable(offset-c.shift, maxLimit)
	if i < 0 {
		return -1
	}
	return i + c.shift
}

// fetch reads the page at c.next, with those after it on their way if there may
// be several requests at once.
func (c *cursor) fetch(ctx context.Context) (page, error) {
	if c.ahead > 1 && c.size == maxLimit {
		p, err := c.fetchAhead(ctx)
		if err == nil || !opper.Unreadable(err) {
			return p, err
		}
	}
	c.close()
	size := min(c.size, c.limit)
	switch h := c.unreadable(c.next); {
	case h > c.next:
		size = min(size, h-c.next)
	case h == c.next && c.sure:
		p := page{offset: h, asked: 1, total: -1, blind: true, when: ledger.When{Asked: c.r.now()}}
		p.when.Read = p.when.Asked
		p.rows = []ledger.Row{{Kind: ledger.Unreadable}}
		return p, nil
	case h == c.next:
		// New rows may be here by now, and the unreadable one behind them.
		size = 1
	}
	return c.r.read(ctx, c.next, size, min(c.share, size-1))
}

func (c *cursor) fetchAhead(ctx context.Context) (page, error) {
	if len(c.queue) > 0 && c.queue[0].offset != c.next {
		c.close()
	}
	if c.cancel == nil {
		flight, cancel := context.WithCancel(ctx)
		c.wanted, c.cancel = make(chan future, aheadOf*c.ahead), cancel
		// They last as long as the full scan: a stack deep enough to decode a page is
		// not grown again for each.
		for range c.ahead {
			go c.r.listAll(flight, c.wanted)
		}
	}
	for at := c.next + len(c.queue)*(maxLimit-c.overlap); len(c.queue) < aheadOf*c.ahead; at += maxLimit - c.overlap {
		if len(c.queue) > 0 && at >= c.total {
			break
		}
		f := future{offset: at, done: make(chan result, 1)}
		c.wanted <- f
		c.queue = append(c.queue, f)
	}
	got := <-c.queue[0].done
	c.queue = c.queue[1:]
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
func (c *cursor) close() {
	if c.cancel != nil {
		c.cancel()
		close(c.wanted)
	}
	c.queue, c.wanted, c.cancel = nil, nil, nil
}
