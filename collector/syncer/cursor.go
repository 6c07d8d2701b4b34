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

// NewRowsPerPage is how many rows of a whole page are not of the one before it.
const NewRowsPerPage = maxLimit - overlap

// A list is taken to have no end when it goes on far beyond total_count, which may be
// capped.
const (
	totalFactor  = 10
	totalSlack   = 20_000
	maxUncounted = 5_000_000 // without a total_count
	maxStalled   = 100       // whole pages in a row that end before another one did
	maxRepeats   = 3         // whole pages in a row that lead no further; of smaller ones, maxLimit
	sampleOf     = 16        // how many rows one stands for, in the search for a list without an end
	minRound     = 5         // pages after which a row is taken to come again
	maxOldPages  = 20        // pages in a row with such rows only
	// maxUnreadableBeyond is how many rows in a row may be unreadable where nothing shows
	// that there are any.
	maxUnreadableBeyond = maxLimit / 2
)

var (
	// errMoving says that no shared row could be found at a border between pages.
	errMoving = errors.New("the list changes faster than it can be read")
	// errRepeated says that pages of different offsets hold the same rows.
	errRepeated = errors.New("offset is ignored: pages at different offsets hold the same rows")
	// errEndless says that reading on does not come to an end.
	errEndless = errors.New("the list does not end")
)

// cursor reads consecutive pages, each stitched to the one before it.
type cursor struct {
	reader  *reader
	ledger  *ledger.Ledger
	next    int // offset of the next page
	size    int // rows to ask for; less than maxLimit near unreadable rows
	limit   int // rows to ask for at most until a page was read; maxLimit after that
	overlap int
	known   int // rows of the list that were read before; 0 in an initial sync
	total   int // the newest meta.total_count, or -1
	repeats int // pages in a row that led no further, by their weight
	inPlace int // offset from which on all rows up to the last page's stand where they are believed to
	stalled int // pages in a row that ended before furthest, by their weight
	// furthest is the end of the page that ended furthest down since the start was read.
	furthest int

	firstTotal int               // the first meta.total_count that a page had; -1 before that
	pages      int               // that were read
	sample     map[ledger.ID]int // the pages in which some of their rows were read first
	oldPages   int               // pages in a row that brought only rows read long before

	canRestart bool // pages that can't be stitched may be read again from the start
	restarted  bool // they were, and what they may miss is left to the next head
	restarts   int  // how often it went back to the start of the list; at most maxSteps

	last       lastPage
	border     border
	unreadable unreadableRows
	waiting    waitingRows
	prefetch   prefetch
}

// lastPage is the last page that was read.
type lastPage struct {
	offset, end int // of its first row, and behind its last
	ids         []ledger.ID
	row         ledger.Row // the last one
	asked       time.Time  // when it was asked for
	isLoose     bool       // its run begins with new rows that were not read together with the others
}

// border is where the next page follows the last one.
type border struct {
	ids     []ledger.ID  // the next page has to share one of them; nil if there is nothing to stitch to
	shared  int          // rows of the last page that the next one is to begin with
	carried []ledger.Row // the last row if the next page does not share it, and unreadable rows
	rereads int          // how often it was read again beside an unreadable row
	wasEnd  bool         // no row stood behind the last page
}

// unreadableRows is what a cursor knows of rows that can't be read.
type unreadableRows struct {
	retry       bool // try again to read those that are known
	skipped     bool // those that are known were not tried
	within      int  // one of so many rows behind the last page can't be read; 0 if that is not known
	shift       int  // how much further down than believed rows stand
	isShiftSure bool // the last row that was read says so
	returns     int  // how often the cursor went back because of one
}

// waitingRows are those that were read from the start of the list on, while they wait for
// a row that the ledger knows.
type waitingRows struct {
	places      map[ledger.ID]int // nil where the ledger takes in each page at once
	atMismatch  int               // how many these were when a page could last not be stitched
	isReturning bool              // going back from such a page, which led further than the one before
}

func newCursor(r *reader, led *ledger.Ledger, offset, total int) *cursor {
	c := &cursor{reader: r, ledger: led, next: max(offset, 0), inPlace: max(offset, 0), size: maxLimit, limit: maxLimit, overlap: overlap, total: total, firstTotal: -1, sample: map[ledger.ID]int{}}
	if !led.IsInitialSync() {
		c.known = led.Listed()
	}
	return c
}

// stitchTo makes the next page share one of some ids at least.
func (c *cursor) stitchTo(ids []ledger.ID) { c.border.ids = ids }

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
		case isUnreadable(p):
			c.passUnreadable(p)
		case c.mustCheck(p):
			if follows, err := c.check(ctx, p); err != nil {
				return ledger.Run{}, err
			} else if follows {
				return c.take(p), nil
			}
		case c.isLastUnshared() && c.unreadable.returns < maxBacks:
			c.stitchTo(c.last.ids)
			c.border.carried, c.border.shared, c.next, c.size, c.unreadable.retry = nil, 1, c.next-1, max(c.size, 2), true
			c.border.wasEnd = len(p.rows) == 0
			c.unreadable.returns++
		case c.border.ids == nil || c.stitched(p.rows) || p.offset == 0 && (c.canRestart || hasListed(c.ledger, p.rows)):
			return c.take(p), nil
		default:
			if err := c.goBack(steps); err != nil {
				return ledger.Run{}, err
			}
			steps++
		}
	}
}

// goBack makes the next page begin further up, after so many that could not be stitched.
func (c *cursor) goBack(steps int) error {
	if steps > maxSteps || steps == maxSteps && !c.canRestart || c.next == 0 {
		return errMoving
	}
	c.border.shared, c.unreadable.within = 0, 0
	clear(c.sample) // what follows is read again
	if steps == 0 {
		// A list that moves as fast as it is read would never end.
		c.waiting.isReturning, c.waiting.atMismatch = len(c.waiting.places) > c.waiting.atMismatch, len(c.waiting.places)
	}
	c.overlap = min(4*c.overlap, maxOverlap)
	c.next = max(0, c.next-maxOverlap<<steps)
	if steps == maxSteps {
		c.next, c.restarted = 0, true
	}
	if c.next > 0 {
		return nil
	}
	if c.restarts++; c.restarts > maxSteps {
		return errMoving
	}
	// Small pages share too few rows to keep up with the list, also those that end where
	// rows were unreadable: others may be there by now.
	c.size, c.unreadable.retry = maxLimit, true
	return nil
}

// hasListed reports whether a row is believed to be listed and tells its list from
// others: one without an id and a start is the same in each project.
func hasListed(l *ledger.Ledger, rows []ledger.Row) bool {
	return slices.ContainsFunc(rows, func(r ledger.Row) bool { return l.Index(r.ID) >= 0 && (r.Kind != ledger.NoID || !r.Start.IsZero()) })
}

// take makes a run of a page and moves on behind it.
func (c *cursor) take(p page) ledger.Run {
	n := len(p.rows)
	end := p.offset + n
	rows := p.rows
	c.last.isLoose = slices.ContainsFunc(c.border.carried, func(r ledger.Row) bool { return r.Kind != ledger.Unreadable && !c.ledger.HasSeen(r.ID) })
	if len(c.border.carried) > 0 {
		rows = append(c.border.carried, rows...)
	}
	run := ledger.Run{
		Rows:    rows,
		AtStart: p.offset == len(c.border.carried),
		AtEnd:   c.isEnd(p),
		When:    p.when,
	}
	if len(c.border.carried) > 0 && !c.last.asked.IsZero() {
		run.Asked = c.last.asked
	}
	before := c.last.ids
	c.border.carried, c.border.ids, c.border.wasEnd, c.waiting.isReturning = nil, nil, false, false
	if n == 0 {
		return run
	}
	c.remember(run)
	c.last = lastPage{offset: p.offset, end: end, ids: make([]ledger.ID, n), row: p.rows[n-1], asked: p.when.Asked, isLoose: c.last.isLoose}
	for i, r := range p.rows {
		c.last.ids[i] = r.ID
	}
	i := c.ledger.Index(c.last.row.ID)
	if c.unreadable.isShiftSure = i >= 0; c.unreadable.isShiftSure {
		c.unreadable.shift = end - 1 - i
	}
	c.border.rereads = 0
	c.approach(p, before)
	c.moveBehind(p)
	return run
}

// isEnd reports whether the list ends with a page. A server may give fewer rows than
// asked for before that.
func (c *cursor) isEnd(p page) bool {
	n := len(p.rows)
	switch end := p.offset + n; {
	case n == 0:
		return true
	case n >= p.asked:
		return false
	case c.total <= end:
		return true
	case end > c.last.end || hasNew(p.rows, c.border.ids):
		return false
	}
	// Its rows have moved down from the page before it, or it is that one, read again.
	return p.offset > c.last.offset || c.border.wasEnd
}

// moveBehind sets what to read behind the last page.
func (c *cursor) moveBehind(p page) {
	n := len(p.rows)
	c.border.shared = min(c.overlap, n/2)
	switch {
	case c.unreadableFrom(c.last.end) == c.last.end:
		c.border.shared, c.size = 0, maxLimit
	case c.unreadable.within == 1:
		c.border.shared, c.size = 0, 1
	case c.unreadable.within > 1:
		c.size = c.border.shared + c.unreadable.within/2
	case p.asked == c.limit:
		c.size = maxLimit
	default:
		c.size = min(2*p.asked, maxLimit)
	}
	c.limit, c.next = maxLimit, c.last.end-c.border.shared
	if c.border.shared == 0 {
		c.border.carried = slices.Clone(p.rows[n-1:])
	} else {
		c.stitchTo(c.last.ids)
	}
}

// fetch reads the page at c.next, with those after it on their way if there may
// be several requests at once.
func (c *cursor) fetch(ctx context.Context) (page, error) {
	if c.prefetch.requests > 1 && c.size == maxLimit {
		p, err := c.prefetch.page(ctx, c)
		if err == nil || !opper.Unreadable(err) {
			return p, err
		}
	}
	c.prefetch.close()
	size := min(c.size, c.limit)
	switch h := c.unreadableFrom(c.next); {
	case h > c.next:
		size = min(size, h-c.next)
	case h == c.next && c.unreadable.isShiftSure:
		p := page{offset: h, asked: 1, total: -1, isSkipped: true, when: ledger.When{Asked: c.reader.now()}}
		p.when.Read = p.when.Asked
		p.rows = []ledger.Row{{Kind: ledger.Unreadable}}
		return p, nil
	case h == c.next:
		// New rows may be here by now, and the unreadable one behind them.
		size = 1
	}
	return c.reader.read(ctx, c.next, size, min(c.border.shared, size-1))
}
