// Package syncer reads pages of Opper's list until the ledger is satisfied: the
// whole list in the initial sync, and then what is new, what has expired, and the
// pages that hold traces due for a recheck.
package syncer

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
)

// What one sync may spend on top of new rows: pages to look for rows that were
// inserted behind the head, and traces asked for by id.
const (
	maxSearch = 3
	maxByID   = 500
	maxMisses = 3 // pages that do not hold what should be on them, before ids are asked for instead
)

// fullPause is how many times its own duration passes between two full scans.
const fullPause = 10

// ErrForeign says that the list holds none of the traces that it held before.
var ErrForeign = errors.New("the list holds none of the known traces, and expiry does not explain that: the key belongs to another project, or the response is wrong")

// ErrOtherList is ErrForeign of a list that was not known to be ours.
var ErrOtherList = errors.New("the list holds none of the known traces")

// errAborted says that no further part is wanted.
var errAborted = errors.New("aborted")

// Config is what a Syncer needs besides its ledger.
type Config struct {
	Now           func() time.Time
	Interval      time.Duration // the least time between two sweeps
	SweepInterval time.Duration // the time between two sweeps if nothing asks for one; 0 is never
	Concurrency   int           // concurrent requests in the initial sync
	IsUnproven    bool          // the list may be another one than that of the ledger: only a known row shows that it is not
	Logger        log.Logger
}

// Syncer reads one project's list. It is not safe for concurrent use.
type Syncer struct {
	cfg    Config
	ledger *ledger.Ledger
	ev     ledger.Events

	unproven bool // until a row of the list is known, see Config

	total int // the newest meta.total_count, -1 if missing
	least int // the least since the head was read, for the balance

	trend      trend
	sampled    bool // the trend began at the start of the list
	sorted     bool // new rows and expiry are at the ends of the list
	newestLast bool

	surplus         int                    // rows listed beyond those believed to be, at the last sync
	unexplained     int                    // full scans in a row that did not explain it
	totalUnreliable bool                   // total_count does not agree with what is listed
	totalCapped     bool                   // more rows were found than total_count said: it is capped, perhaps
	moved           map[ledger.ID]struct{} // rows found out of place since the last head that ended well
	skipped         bool                   // a head of this sync was read without trying rows known to be unreadable
	refused         int                    // the offset from which on Opper refuses to list, 0 if it does not
	fullScanWanted  bool                   // a row was inserted where only a full scan finds it
	nextFullScan    time.Time
	lastFullScan    time.Time       // end of the last full scan, or of the last try where deep rows are refused
	sweep           *sweep          // running, or done and to be completed by a sync; else nil
	warned          map[string]bool // warnings that this process has given

	lastSuccess time.Time
	span        span                   // of the rows read by the last successful sync
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
	return &Syncer{cfg: cfg, ledger: led, unproven: cfg.IsUnproven, total: -1, warned: map[string]bool{}}
}

// Total returns how many traces Opper last said are listed, or -1.
func (w *Syncer) Total() int { return w.total }

// Part is what a part of a sync read. An incremental sync has one part, the
// initial sync one for each page and one more.
type Part struct {
	Events ledger.Events // valid until the next part
	Read   int           // rows that the initial sync has read
	Total  int           // rows that Opper says are listed, negative if it does not
	IsLast bool
}

// Sync reads what has changed since the last sync. During the initial sync it
// reads the whole list, going on where it stopped. The last part has the error, if
// there is one. Parts must all be taken in, also if the sync fails: their events
// do not come again.
func (w *Syncer) Sync(ctx context.Context, src Source) iter.Seq2[Part, error] {
	return func(yield func(Part, error) bool) {
		w.ev = ledger.Events{}
		w.reading, w.skipped = span{}, false
		err := w.sync(ctx, w.newReader(src), func(p Part) bool { return yield(p, nil) })
		if w.unproven && errors.Is(err, ErrForeign) {
			err = ErrOtherList
		}
		if !errors.Is(err, errAborted) {
			yield(Part{Events: w.ev, IsLast: true}, err)
		}
	}
}

func (w *Syncer) sync(ctx context.Context, r *reader, yield func(Part) bool) error {
	var whole, reached bool
	var headEnd int
	var err error
	began, initialSync := w.cfg.Now(), w.ledger.IsInitialSync()
	if !initialSync || w.ledger.Listed() > 0 {
		if whole, headEnd, err = w.head(ctx, r); err != nil {
			return err
		}
	}
	if initialSync && !whole {
		if reached, err = w.initialSync(ctx, r, yield); err != nil {
			return err
		}
		// New rows must join those that were read.
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
		began, w.sweep = w.sweep.Began, nil
	}
	if swept || reached || whole && !w.skipped {
		w.lastFullScan = now
		if w.ledger.Listed() > 0 {
			w.ledger.EndFullScan(began, now)
		}
	} else if initialSync {
		w.lastFullScan = now // it could not be complete: a sweep follows on schedule
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

// take takes in a run of an incremental sync or a sweep.
func (w *Syncer) take(run ledger.Run) {
	if n := w.outOfPlace(run.Rows, w.moved); n > 0 {
		if w.moved == nil {
			w.moved = map[ledger.ID]struct{}{}
		}
		for _, row := range run.Rows[:n] {
			w.moved[row.ID] = struct{}{}
		}
	}
	w.takeScanned(run)
}

// takeScanned takes in a run of the initial sync, which continues behind it until it ends.
func (w *Syncer) takeScanned(run ledger.Run) {
	w.noteExpiry(run)
	before := w.ev.Gaps
	w.ledger.Observe(run, &w.ev)
	if gaps := w.ev.Gaps - before; gaps > 0 {
		w.retryWait = 0
		w.scheduleRetry()
		level.Warn(w.cfg.Logger).Log("msg", "unreadable rows skipped", "gaps", gaps)
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
