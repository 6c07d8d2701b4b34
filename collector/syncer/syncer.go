// Package syncer reads pages of Opper's list until the ledger is satisfied: the
// whole list in the initial sync, and then what is new, what has expired, and the
// pages that hold traces due for a recheck.
package syncer

import (
	"context"
	"errors"
	"iter"
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

// FullScanPause is how many times its own duration passes between two full scans.
const FullScanPause = 10

// errForeign says that the list holds none of the traces that it held before.
var errForeign = errors.New("the list holds none of the known traces, and expiry does not explain that: the key belongs to another project, or the response is wrong")

// errEmpty says that nothing is listed, though it was a moment ago.
var errEmpty = errors.New("the list is empty, and expiry does not explain that")

// ErrOtherUpstream is errForeign where the upstream has changed: its list is not the
// one that was counted.
var ErrOtherUpstream = errors.New("the list of the new upstream holds none of the known traces")

// errNoIDs says that nothing tells whose list it is.
var errNoIDs = errors.New("no row of the list has an id, so none can be counted: the response is wrong")

// errAborted says that no further part is wanted.
var errAborted = errors.New("aborted")

// Config is what a Syncer needs besides its ledger.
type Config struct {
	Now           func() time.Time
	Interval      time.Duration // the minimum time between two sweeps
	SweepInterval time.Duration // the time between two sweeps if nothing asks for one; 0 is never
	Concurrency   int           // concurrent requests in the initial sync
	MaxTaken      int           // traces that are first seen or counted in one sync, or a page or two more; 0 is maxUntied
	IsUnproven    bool          // the list may be another one than that of the ledger: only a known row shows that it is not
	Key           func() string // tells the key that is used from others
	Logger        log.Logger
}

// Syncer reads one project's list. It is not safe for concurrent use.
type Syncer struct {
	cfg    Config
	ledger *ledger.Ledger
	ev     ledger.Events

	unproven bool   // until a row of the list is known, see Config
	key      string // that the sync began with: it may change meanwhile

	known    state
	minTotal int // the minimum of total_count since the head was read, for the balance

	trend   trend
	sampled bool // the trend began at the start of the list

	moved   map[ledger.ID]struct{} // rows found out of place since the last head that ended well
	behind  bool                   // the last sync did not read all that it should have, see IsBehind
	skipped bool                   // a head of this sync was read without trying rows known to be unreadable
	reading span                   // of the rows read since the last successful sync
	foreign map[ledger.ID]struct{} // rows of a list that was found to be another one
	asked   int                    // known ids asked for in vain since a row was known

	emptySince time.Time // when the list was first empty where rows are known; zero if it had one since

	readers uint32 // made so far

	retryAt   time.Time     // when unreadable rows are read again; zero if there are none
	retryWait time.Duration // since they were last read
	retried   int           // stretches of them read again

	warnedOfTotal, warnedOfOrder bool // by this process
}

// New returns a Syncer that fills led.
func New(cfg Config, led *ledger.Ledger) *Syncer {
	if cfg.MaxTaken == 0 {
		cfg.MaxTaken = maxUntied
	}
	return &Syncer{cfg: cfg, ledger: led, unproven: cfg.IsUnproven, known: state{Total: -1}}
}

// Total returns how many traces Opper last said are listed, or -1.
func (s *Syncer) Total() int { return s.known.Total }

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
func (s *Syncer) Sync(ctx context.Context, src Source) iter.Seq2[Part, error] {
	return func(yield func(Part, error) bool) {
		s.ev = ledger.Events{}
		s.skipped, s.behind = false, false
		err := s.sync(ctx, s.newReader(src), func(p Part) bool { return yield(p, nil) })
		if s.unproven && errors.Is(err, errForeign) {
			err = ErrOtherUpstream
		}
		if !errors.Is(err, errAborted) {
			yield(Part{Events: s.ev, IsLast: true}, err)
		}
	}
}

func (s *Syncer) sync(ctx context.Context, r *reader, yield func(Part) bool) error {
	var whole, reached bool
	var headEnd int
	var err error
	began, initialSync := s.cfg.Now(), s.ledger.IsInitialSync()
	s.key = s.cfg.Key()
	if !initialSync || s.ledger.Listed() > 0 {
		if whole, headEnd, err = s.head(ctx, r); err != nil {
			return err
		}
	}
	if initialSync && !whole {
		if reached, err = s.initialSync(ctx, r, yield); err != nil {
			return err
		}
		// New rows must join those that were read.
		if whole, headEnd, err = s.head(ctx, r); err != nil {
			return err
		}
	}
	if err := s.readUnread(ctx, r); err != nil {
		return err
	}
	if !whole && !s.IsBehind() {
		if err := s.tail(ctx, r); err != nil {
			return err
		}
	}
	isComplete := !s.IsBehind()
	// A sweep that has ended waits until all rows that are listed were read.
	swept := isComplete && s.known.Sweep != nil && s.known.Sweep.Done
	whole = whole || reached || swept
	if err := s.recheckDue(ctx, r); err != nil {
		return err
	}
	// What arrived after the head was read is in total_count, and what expired is
	// no longer listed: only a head that is read after the tail can be compared.
	if isComplete && s.minTotal > s.ledger.Listed() && !s.known.TotalUnreliable && s.known.Refused == 0 && !s.known.NewestLast {
		if _, headEnd, err = s.head(ctx, r); err != nil {
			return err
		}
	}
	if isComplete {
		if err := s.balance(ctx, r, whole, headEnd); err != nil {
			return err
		}
	}
	now := s.cfg.Now()
	if swept {
		began, s.known.Sweep = s.known.Sweep.Began, nil
	}
	if isComplete && (swept || reached || whole && !s.skipped) {
		s.known.LastFullScan = now
		if s.ledger.Listed() > 0 {
			s.ledger.EndFullScan(began, now)
		}
	} else if initialSync {
		s.known.LastFullScan = now // it could not be complete: a sweep follows on schedule
	}
	s.ledger.EndInitialSync()
	s.known.LastSuccess, s.known.Key = now, s.key
	if s.known.span = s.known.and(s.reading); isComplete {
		s.known.span, s.reading = s.reading, span{}
	}
	return nil
}

// isOtherKey reports whether the key is not that of the last successful sync, whose list
// may then be another one. Before the first success, it is compared with that of the last
// sync that took in a page.
func (s *Syncer) isOtherKey() bool { return s.known.Key != "" && s.known.Key != s.cfg.Key() }

// ties reports whether one of the rows shows that they are of the list that we
// know: the key may come to belong to another project between two requests.
func (s *Syncer) ties(rows []ledger.Row) bool {
	return s.ledger.Listed() == 0 || hasListed(s.ledger, rows)
}

// observe takes in a run that is known to be of our list.
func (s *Syncer) observe(run ledger.Run) {
	if s.ties(run.Rows) {
		s.take(run)
	}
}

// take takes in a run of an incremental sync or a sweep.
func (s *Syncer) take(run ledger.Run) {
	if n := s.outOfPlace(run.Rows, s.moved); n > 0 {
		if s.moved == nil {
			s.moved = map[ledger.ID]struct{}{}
		}
		for _, row := range run.Rows[:n] {
			s.moved[row.ID] = struct{}{}
		}
	}
	s.takeScanned(run)
}

// takeScanned takes in a run of the initial sync, which continues behind it until it ends.
func (s *Syncer) takeScanned(run ledger.Run) {
	s.noteExpiry(run)
	before := s.ev.Gaps
	s.ledger.Observe(run, &s.ev)
	if gaps := s.ev.Gaps - before; gaps > 0 {
		s.retryWait = 0
		s.scheduleRetry()
		level.Warn(s.cfg.Logger).Log("msg", "unreadable rows skipped", "gaps", gaps)
	}
	for _, row := range run.Rows {
		s.reading.add(startOf(row), run.Read)
	}
	if s.known.LastSuccess.IsZero() {
		s.known.Key = s.key
	}
}
