// Package syncer reads pages of Opper's list until the ledger is satisfied: the
// whole list for a baseline, and then what is new, what has expired, and the
// pages on which pending traces stand.
package syncer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
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

// ties reports whether one of the rows shows that they are of the list that we
// know: the key may come to belong to another project between two requests.
func (w *Syncer) ties(rows []ledger.Row) bool {
	return w.ledger.Listed() == 0 || slices.ContainsFunc(rows, func(r ledger.Row) bool { return isListed(w.ledger, r) })
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
