// Package syncer reads pages of Opper's list until the ledger is satisfied: the
// whole list for a baseline, and then what is new, what has expired, and the
// pages on which pending traces stand.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// What one sync may spend on top of news: pages to look for rows that slipped
// in behind the head, and traces asked for by id.
const (
	maxWalkOn = 3
	maxByID   = 500
	maxMisses = 3 // pages that do not hold what should be on them, before ids are asked for instead
)

// maxRetention is longer than Opper keeps any trace.
const maxRetention = 31 * 24 * time.Hour

// fullPause is how many times its own duration passes between two complete
// walks.
const fullPause = 10

// ErrForeign says that the list holds none of the traces that it held before.
var ErrForeign = errors.New("the list holds none of the traces it held at the last good sync, and they can't all have expired: the key belongs to another project, or the answer is wrong")

// Config is what a Syncer needs besides its ledger.
type Config struct {
	Now           func() time.Time
	Interval      time.Duration // the least time between two sweeps
	SweepInterval time.Duration // the time between two sweeps if nothing asks for one; 0 is never
	Concurrency   int           // requests at once in the first walk
	Logger        log.Logger
	// Progress is called as the first walk goes on, with what it found since
	// the last call, how many rows were met, and how many are said to be listed.
	// The events are used again afterwards.
	Progress func(ev ledger.Events, met, total int)
}

// Syncer reads one project's list. It is not safe for concurrent use.
type Syncer struct {
	cfg    Config
	ledger *ledger.Ledger
	ev     ledger.Events

	total int // the newest meta.total_count, -1 if missing
	least int // the least since the head was read, for the balance

	trend      trend
	sampled    bool // the trend began at the start of the list
	sorted     bool // news and expiry stand at the ends of the list
	newestLast bool

	surplus         int  // rows listed beyond those believed to be, at the last sync
	unexplained     int  // complete walks in a row that did not explain it
	totalUnreliable bool // total_count does not agree with what is listed
	totalCapped     bool // more rows were found than total_count said: it is capped, perhaps
	skipped         bool // the last head was read without trying rows known to be unreadable
	refused         int  // the offset from which on Opper refuses to list, 0 if it does not
	fullScanWanted  bool // something slipped in where only a complete walk finds it
	nextFullScan    time.Time
	lastFullScan    time.Time       // end of the last complete walk, or the last try where deep rows are refused
	sweep           *sweep          // under way, or done and to be concluded by a sync; else nil
	warned          map[string]bool // warnings that this process has given

	lastSuccess time.Time
	span        span                   // of the rows read at the last good sync
	reading     span                   // of those read since
	retention   time.Duration          // age at which rows were last seen to expire
	expiries    int                    // how often they were
	foreign     map[ledger.ID]struct{} // rows of a list that was found to be another one
	asked       int                    // known ids asked for in vain since a row was known

	retryAt   time.Time     // when unreadable rows are read again; zero if there are none
	retryWait time.Duration // since they were last read
	retried   int           // stretches of them read again
}

// span is how old some rows were.
type span struct {
	newest time.Time     // latest start; zero if none had one
	age    time.Duration // of the oldest, when it was read
}

// add takes in a row that was read at some time.
func (s *span) add(start, read time.Time) {
	if start.IsZero() {
		return
	}
	if start.After(read) {
		start = read // a client's clock is fast
	}
	if start.After(s.newest) {
		s.newest = start
	}
	s.age = max(s.age, read.Sub(start))
}

// New returns a Syncer that fills led.
func New(cfg Config, led *ledger.Ledger) *Syncer {
	return &Syncer{cfg: cfg, ledger: led, total: -1, warned: map[string]bool{}}
}

// Total returns how many traces Opper last said are listed, or -1.
func (w *Syncer) Total() int { return w.total }

// Sync reads what has changed since the last sync. While the ledger is in its
// baseline, it reads the whole list, going on where it stopped, and ends the
// baseline. The events are those since the last call, also if there is an
// error: they will not come again.
func (w *Syncer) Sync(ctx context.Context, src Source) (ledger.Events, error) {
	w.ev = ledger.Events{}
	w.reading = span{}
	err := w.sync(ctx, &reader{src: src, now: w.cfg.Now, good: -1})
	return w.ev, err
}

func (w *Syncer) sync(ctx context.Context, r *reader) error {
	var whole, reached bool
	var headEnd int
	var err error
	baseline := w.ledger.IsInitialSync()
	if !baseline || w.ledger.Listed() > 0 {
		if whole, headEnd, err = w.head(ctx, r); err != nil {
			return err
		}
	}
	if baseline && !whole {
		if reached, err = w.initialSync(ctx, r); err != nil {
			return err
		}
		// What arrived meanwhile must join what the walk met.
		if whole, headEnd, err = w.head(ctx, r); err != nil {
			return err
		}
	}
	if !whole {
		if err := w.tail(ctx, r); err != nil {
			return err
		}
	}
	swept := w.sweep != nil && w.sweep.Done
	whole = whole || reached || swept
	if err := w.recheckDue(ctx, r); err != nil {
		return err
	}
	// What arrived after the head was read is in total_count, and what expired is
	// no longer listed: only a head that is read after the tail can be compared.
	if w.least > w.ledger.Listed() && !w.totalUnreliable && w.refused == 0 && !w.newestLast {
		if _, headEnd, err = w.head(ctx, r); err != nil {
			return err
		}
	}
	if err := w.balance(ctx, r, whole, headEnd); err != nil {
		return err
	}
	now := w.cfg.Now()
	if swept {
		w.sweep = nil
	}
	if swept || reached || whole && !w.skipped {
		w.lastFullScan = now
		if w.ledger.Listed() > 0 {
			w.ledger.EndFullScan(now)
		}
	} else if baseline {
		w.lastFullScan = now // it could not be better: a sweep follows on schedule
	}
	w.ledger.EndInitialSync()
	w.lastSuccess, w.span = now, w.reading
	return nil
}

// head reads from the start of the list until rows are where they are believed
// to be. It reports whether it came to the end, and else how far it came.
// Nothing is taken in before a known row shows that this is the list that we
// know, and pages that share rows tie what came before it to that row.
func (w *Syncer) head(ctx context.Context, r *reader) (whole bool, end int, err error) {
	c := newCursor(r, w.ledger, 0, w.total)
	c.again = true
	if w.newestLast {
		c.size = overlap
	}
	w.least = -1
	holes := w.skipUnreadable(c)
	ev := evidence{walker: w, reader: r}
	for {
		run, err := c.page(ctx)
		if opper.OutOfRange(err) && c.next > 0 && holes == 0 {
			w.tooDeep(c.next, err)
			if err := ev.conclude(ctx); err != nil {
				return false, 0, err
			}
			break
		}
		if err != nil && (holes == 0 || !opper.OutOfRange(err)) {
			return false, 0, err
		}
		if n := holes; n > 0 {
			holes = 0
			if err != nil || len(run.Rows) <= n || w.ledger.Index(run.Rows[n].ID) != n {
				c = newCursor(r, w.ledger, 0, c.total)
				c.again = true
				continue
			}
		}
		w.skipped = w.skipped || c.blind
		whole = run.AtEnd
		settled := w.settledDown(run.Rows) // before its new rows are known
		err = ev.add(ctx, run, c)
		if errors.Is(err, ErrForeign) && w.skipped {
			// The row that we know may be one that could not be read before.
			w.skipped = false
			c = newCursor(r, w.ledger, 0, c.total)
			c.again, c.retry = true, true
			continue
		}
		if err != nil {
			return false, 0, err
		}
		if whole || ev.tied && settled {
			break
		}
	}
	w.note(c.total)
	return whole, c.next, nil
}

// skipUnreadable makes a cursor begin behind unreadable rows that are believed to
// stand at the start, and returns how many. If another row stands behind them,
// there are news, and what stands at the start has to be read after all.
func (w *Syncer) skipUnreadable(c *cursor) int {
	n := 0
	w.skipped = false
	for n < maxLimit && w.ledger.Hole(n, 1) == n {
		c.carry = append(c.carry, ledger.Row{Kind: ledger.Unreadable})
		n++
	}
	c.next, c.blind = n, n > 0
	return n
}

func (w *Syncer) anyKnown(rows []ledger.Row) bool {
	for _, row := range rows {
		if row.Kind == ledger.Normal && w.ledger.HasSeen(row.ID) {
			return true
		}
	}
	return false
}

// settledDown reports whether the last rows are listed in the order in which
// they are believed to be.
func (w *Syncer) settledDown(rows []ledger.Row) bool {
	before := -1
	for _, row := range rows[max(len(rows)-overlap, 0):] {
		if row.Kind == ledger.Unreadable {
			continue
		}
		i := w.ledger.Index(row.ID)
		if i <= before {
			return false
		}
		before = i
	}
	return true
}

// initialSync reads the whole list for the baseline, from where it stopped. It
// reports whether it came to the end.
func (w *Syncer) initialSync(ctx context.Context, r *reader) (bool, error) {
	began := w.cfg.Now()
	from := max(w.ledger.Listed()-overlap, 0)
	c := w.fullScan(r, from)
	defer func() { c.close() }()
	reached, tied := false, false // a start of unreadable rows may tie only further on
	for !reached {
		run, err := c.page(ctx)
		ties := w.ties(run.Rows)
		if err == nil && len(run.Rows) > 0 && tied && !ties {
			err = fmt.Errorf("initial sync: no row is known before offset %d: %w", c.end, errMoving)
		}
		if errors.Is(err, errMoving) && from > 0 {
			// The rows at which it stopped may all have left since.
			c.close()
			from, tied = 0, false
			c = w.fullScan(r, from)
			continue
		}
		if opper.OutOfRange(err) && c.next > 0 {
			w.tooDeep(c.next, err)
			break
		}
		if err != nil {
			return false, err
		}
		tied = tied || ties
		w.note(c.total)
		w.observe(run)
		w.trend.addAll(run.Rows)
		if w.cfg.Progress != nil {
			w.cfg.Progress(w.ev, w.ledger.Listed(), c.total)
			w.ev.Clear()
		}
		reached = run.AtEnd
		release(run)
	}
	if reached {
		w.refused = 0
	}
	w.judgeOrder()
	w.pause(w.cfg.Now().Sub(began))
	return reached, nil
}

// fullScan returns a cursor that reads the whole list from a row on.
func (w *Syncer) fullScan(r *reader, from int) *cursor {
	c := newCursor(r, w.ledger, from, w.total)
	c.retry, c.ahead = true, w.cfg.Concurrency
	if from > 0 {
		c.stitchTo(w.ledger.IDs(from, from+overlap))
	} else {
		c.overlap = longOverlap
		w.trend, w.sampled = trend{}, true
	}
	return c
}

// pause puts off the next complete walk after one that took so long.
func (w *Syncer) pause(took time.Duration) {
	w.nextFullScan = w.cfg.Now().Add(max(w.cfg.Interval, fullPause*took))
}

// judgeOrder decides from what a complete walk met where news are to be found.
func (w *Syncer) judgeOrder() {
	if !w.sampled && !w.ledger.IsInitialSync() {
		return // after a restart in the middle: what was known says more than half a sample
	}
	w.sorted, w.newestLast = w.trend.sorted()
	if w.IsUnsorted() && w.warnOnce(noOrder) {
		level.Warn(w.cfg.Logger).Log("msg", "the list does not stand by age, so news are found by reading all of it", "listed", w.ledger.Listed())
	}
}

// tooDeep notes that Opper does not list rows from offset on.
func (w *Syncer) tooDeep(offset int, err error) {
	if w.refused == 0 {
		w.refused = offset
		w.ev.Gaps++
		level.Warn(w.cfg.Logger).Log("msg", "Opper refuses to list deeper, traces beyond are not counted", "offset", offset, "err", err)
	}
}

// recheckDue looks at the pending traces that want it: page by page where they
// are believed to stand, and by id those that are not there.
func (w *Syncer) recheckDue(ctx context.Context, r *reader) error {
	var lost []ledger.Due
	shift := 0  // how much further down than believed the last page stood
	misses := 0 // pages in a row without any row that was looked for
	due := w.ledger.Due(w.cfg.Now())
	for len(due) > 0 {
		at := w.ledger.Index(due[0].ID)
		if at < 0 || misses == maxMisses {
			lost, due = append(lost, due[0]), due[1:]
			continue
		}
		if w.refused > 0 && at+shift-overlap >= w.refused {
			lost, due = append(lost, due[0]), due[1:]
			continue
		}
		c := newCursor(r, w.ledger, at+shift-overlap, w.total)
		from := c.next
		run, err := c.page(ctx)
		// An unreadable row ends a page before the row that it was read for.
		for err == nil && !run.AtEnd && c.hole(c.end) == c.end && c.end <= at+shift {
			w.observe(run)
			run, err = c.page(ctx)
			from = c.end - len(run.Rows)
		}
		if opper.OutOfRange(err) && w.refused > 0 {
			w.refused = min(w.refused, c.next)
			lost, due = append(lost, due[0]), due[1:]
			continue
		}
		if opper.OutOfRange(err) {
			// Nothing that a walk can read stands here, or Opper is not itself:
			// what it says of an id would be no better.
			w.ledger.Unanswered(due[0].ID, w.cfg.Now(), &w.ev)
			due = due[1:]
			continue
		}
		if err != nil {
			return err
		}
		w.observe(run)
		misses++
		met := make(map[ledger.ID]struct{}, len(run.Rows))
		for _, row := range run.Rows {
			met[row.ID] = struct{}{}
		}
		behind, before := at+maxLimit-overlap, shift
		if n := len(run.Rows); n > 0 {
			if last := w.ledger.Index(run.Rows[n-1].ID); last >= 0 {
				behind, shift = last-overlap, from+n-1-last
			}
		}
		for first := true; len(due) > 0; first = false {
			if _, ok := met[due[0].ID]; !ok {
				// If rows have moved, or close to the page's end, it may just stand
				// beside the page, and one of its own follows.
				if !first && (shift != before || w.ledger.Index(due[0].ID) >= behind) {
					break
				}
				lost = append(lost, due[0])
			} else {
				misses = 0
			}
			due = due[1:]
		}
	}
	var gone []ledger.ID
	for _, d := range lost[:min(len(lost), maxByID)] {
		there, err := w.ask(ctx, r, d)
		if err != nil {
			return err
		}
		if !there {
			gone = append(gone, d.ID)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	// Another project has none of our traces.
	if _, _, err := w.head(ctx, r); err != nil {
		return err
	}
	for _, id := range gone {
		w.ledger.Delist(id, &w.ev)
	}
	return nil
}

// ask asks Opper for one trace. It reports false if Opper has none.
func (w *Syncer) ask(ctx context.Context, r *reader, d ledger.Due) (there bool, err error) {
	id := d.Ref
	if id == "" {
		id = d.ID.String()
	}
	when := ledger.When{Asked: w.cfg.Now()}
	t, err := r.src.Get(ctx, id)
	when.Read = w.cfg.Now()
	switch {
	case err == nil:
		var row ledger.Row
		setRow(&row, &t)
		row.ID, row.Ref, row.Kind = d.ID, d.Ref, ledger.Normal
		w.ledger.Resolve(row, when, &w.ev)
	case errors.Is(err, opper.ErrNotFound):
		return false, nil
	case ctx.Err() != nil || opper.Refused(err):
		return true, fmt.Errorf("trace %s: %w", d.ID, err)
	default:
		w.ledger.Unanswered(d.ID, when.Read, &w.ev)
	}
	return true, nil
}

// balance compares what is believed to be listed with what Opper says. A
// surplus that lasts for two syncs slipped in behind the head.
func (w *Syncer) balance(ctx context.Context, r *reader, whole bool, headEnd int) error {
	if w.least < 0 {
		if w.warnOnce(noTotal) {
			level.Warn(w.cfg.Logger).Log("msg", "Opper does not say how many traces are listed, so what slips in behind the newest is found late")
		}
		return nil
	}
	if w.refused > 0 {
		return nil
	}
	before := w.surplus
	w.surplus = w.least - w.ledger.Listed()
	switch {
	case whole && w.surplus <= 0:
		w.unexplained, w.totalUnreliable, w.fullScanWanted = 0, false, false
	case whole:
		w.unexplained++
		w.fullScanWanted = w.unexplained == 1
		if w.unexplained == 2 {
			w.totalUnreliable = true
			w.ev.Gaps++
			level.Warn(w.cfg.Logger).Log("msg", "two complete walks met fewer traces than Opper says are listed", "listed", w.ledger.Listed(), "total_count", w.least)
		}
	case !w.totalUnreliable && !w.fullScanWanted && min(before, w.surplus) > 0:
		return w.searchInserted(ctx, r, headEnd)
	}
	return nil
}

// searchInserted reads some more pages at the end where news stand. If they do not
// explain the surplus, a complete walk has to.
func (w *Syncer) searchInserted(ctx context.Context, r *reader, headEnd int) error {
	at := headEnd
	if w.newestLast {
		at = max(w.ledger.Listed()-maxWalkOn*(maxLimit-overlap), 0)
	}
	c := newCursor(r, w.ledger, at, w.total)
	for range maxWalkOn {
		run, err := c.page(ctx)
		if err != nil {
			return err
		}
		w.observe(run)
		w.surplus = w.least - w.ledger.Listed()
		if w.surplus <= 0 || run.AtEnd {
			break
		}
	}
	w.fullScanWanted = w.surplus > 0
	return nil
}

// ties reports whether one of the rows shows that they are of the list that we
// know: the key may come to belong to another project between two requests.
func (w *Syncer) ties(rows []ledger.Row) bool {
	return w.ledger.Listed() == 0 || slices.ContainsFunc(rows, func(r ledger.Row) bool { return w.ledger.Index(r.ID) >= 0 })
}

// observe takes in a run that is known to be of our list.
func (w *Syncer) observe(run ledger.Run) {
	if w.ties(run.Rows) {
		w.take(run)
	}
}

func (w *Syncer) take(run ledger.Run) {
	w.noteExpiry(run)
	before := w.ev.Gaps
	w.ledger.Observe(run, &w.ev)
	if gaps := w.ev.Gaps - before; gaps > 0 {
		w.retryWait = 0
		w.scheduleRetry()
		level.Warn(w.cfg.Logger).Log("msg", "unreadable rows skipped, reading them again later", "gaps", gaps)
	}
	for _, row := range run.Rows {
		w.reading.add(startOf(row), run.Read)
	}
}

func (w *Syncer) note(total int) {
	w.total = total
	if total >= 0 && (w.least < 0 || total < w.least) {
		w.least = total
	}
}

// The warnings that are given once.
const (
	noTotal = "total"
	noOrder = "order"
)

// warnOnce reports whether a warning is to be given: once.
func (w *Syncer) warnOnce(what string) bool {
	if w.warned[what] {
		return false
	}
	w.warned[what] = true
	return true
}
