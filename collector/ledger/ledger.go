// Package ledger decides which traces are counted, once each, from rows of a
// list that moves while it is read. It does no I/O and reads no clock: rows and
// times come in, events go out, so it can be simulated.
//
// An id is in one of four states: unknown; pending, which is open or not yet
// settled; settled or abandoned, and listed; the same, and delisted. A trace is
// counted once at most, when it leaves the second, whatever becomes of its row.
package ledger

import (
	"slices"
	"time"
)

// forgetAfter is how far apart two full scans that both missed an id must be
// before it is forgotten: the list may have moved under one of them.
const forgetAfter = 24 * time.Hour

// Config holds the delays of a ledger.
type Config struct {
	SettleDelay     time.Duration // from when a trace is first seen ended until it is counted
	AbandonAfter    time.Duration // from when a trace is first seen until it is abandoned, if it has no end
	RecheckInterval time.Duration // minimum time between two checks of an open trace
	// InitialLookback is how long before it was first seen in the initial sync a
	// trace may have ended to be counted. If it is nil all are, and those abandoned.
	InitialLookback *time.Duration
	// Wall converts a time of the ledger's clock to wall-clock time, which is what
	// clients' times are compared with. Nil leaves it as it is.
	Wall func(time.Time) time.Time
}

// Events says what an observation changed.
type Events struct {
	FirstSeen []Row     // with times as ClientTime returns them
	Counted   []Counted // settled or abandoned
	Vanished  []Row     // delisted before they ended; not counted unless they are listed again
	LateEnds  []Row     // abandoned earlier, and ended after all
	NoID      uint64    // rows without an id, first seen
	Gaps      uint64    // stretches of unreadable rows, first seen
}

// Clear empties the events, whose memory is used again.
func (e *Events) Clear() {
	*e = Events{FirstSeen: e.FirstSeen[:0], Counted: e.Counted[:0], Vanished: e.Vanished[:0], LateEnds: e.LateEnds[:0]}
}

// Ledger is not safe for concurrent use.
type Ledger struct {
	cfg         Config
	order       *order
	pending     *pendings
	delisted    *order          // in the order in which they were delisted
	abandoned   map[ID]struct{} // and no end seen yet
	unreadable  uint64
	initialSync bool

	// When Opper first failed to say what became of these pending traces, since
	// they were last seen. Not stored: a restart gives it as long again.
	unanswered map[ID]time.Time

	arrivals uint64 // the number of the last pending trace

	// What has changed since the last commit.
	touchedPending   map[uint64]ID // by number
	touchedAbandoned map[ID]struct{}

	// Of the rows of one observation, to be used again: where they are believed
	// to stand, and whether they were seen before.
	at    []int
	known []bool
}

// New returns an empty ledger, in its initial sync: until EndInitialSync, a trace's
// own times decide whether it has settled or was abandoned.
func New(cfg Config) *Ledger {
	return &Ledger{
		cfg:              cfg,
		order:            newOrder(),
		pending:          newPendings(),
		delisted:         newOrder(),
		abandoned:        map[ID]struct{}{},
		initialSync:      true,
		touchedPending:   map[uint64]ID{},
		touchedAbandoned: map[ID]struct{}{},

		unanswered: map[ID]time.Time{},
	}
}

// EndInitialSync ends that: from now on traces count by when we saw them.
func (l *Ledger) EndInitialSync() { l.initialSync = false }

// IsInitialSync reports whether the initial sync is still to be finished.
func (l *Ledger) IsInitialSync() bool { return l.initialSync }

// Listed returns how many rows the list is believed to have.
func (l *Ledger) Listed() int { return l.order.len() }

// Index returns how many rows are believed to stand before id, or -1 if id is
// not believed to be listed.
func (l *Ledger) Index(id ID) int { return l.order.index(id) }

// IsListed reports whether id is believed to be listed.
func (l *Ledger) IsListed(id ID) bool { return l.order.has(id) }

// IDs returns the ids believed to stand at index i and after, up to j.
func (l *Ledger) IDs(i, j int) []ID { return l.order.slice(max(i, 0), min(j, l.order.len())) }

// HasSeen reports whether the trace was seen before, and is not forgotten.
func (l *Ledger) HasSeen(id ID) bool {
	return l.pending.has(id) || l.order.has(id) || l.delisted.has(id)
}

// Find returns the key of a trace whose UUID another endpoint may write in another way
// than the list, and whether the trace was seen.
func (l *Ledger) Find(id string) (key ID, hasSeen bool) {
	keys := spellings(id)
	if i := slices.IndexFunc(keys, l.HasSeen); i >= 0 {
		return keys[i], true
	}
	return keys[0], false
}

// HasCounted reports whether a trace was counted, and whether as abandoned, if no end was
// seen since. Those that ended before the initial lookback are not known from those that
// were counted.
func (l *Ledger) HasCounted(id ID) (counted, abandoned bool) {
	_, abandoned = l.abandoned[id]
	return !l.pending.has(id) && (l.order.has(id) || l.delisted.has(id)), abandoned
}

// Open calls f for each open trace, in no order.
func (l *Ledger) Open(f func(Row)) {
	l.pending.all(func(p *Pending) {
		if p.Ended.IsZero() {
			f(p.Row)
		}
	})
}

// Observe takes in a run of rows, and adds what that changed to ev. Where the
// rows show that ids are not where they were believed to be, these are no longer
// believed to be listed.
func (l *Ledger) Observe(run Run, ev *Events) {
	rows := distinct(run.Rows)
	gaps := l.identifyUnreadable(rows)
	at, known := slices.Grow(l.at[:0], len(rows))[:len(rows)], slices.Grow(l.known[:0], len(rows))[:len(rows)]
	l.at, l.known = at, known
	for i := range rows {
		id := rows[i].ID
		at[i] = l.order.index(id)
		known[i] = at[i] >= 0 || l.pending.has(id) || l.delisted.has(id)
	}
	// Rows that nothing ties to the list that we know may be of another one.
	if !l.place(rows, at, run.AtStart, run.AtEnd) {
		return
	}
	ev.Gaps += gaps
	for i := range rows {
		switch r := &rows[i]; {
		case r.Kind == NoID && !known[i]:
			ev.NoID++
		case r.Kind != Normal:
		case !known[i] || l.pending.has(r.ID):
			l.recheck(r, run.When, ev)
		default:
			l.recheckSettled(r, ev)
		}
	}
}

// EndFullScan takes in that a full scan, from its beginning to its end, saw every row
// that kept its place. An id that two of them, at least a day apart, have missed is
// forgotten. What came back while the second one ran may be missing in it.
func (l *Ledger) EndFullScan(began, ended time.Time) {
	for _, c := range slices.Clone(l.delisted.chunks) {
		switch {
		case c.missed.IsZero():
			c.missed = ended
			l.delisted.touch(c)
		case began.Sub(c.missed) >= forgetAfter:
			for _, id := range c.ids {
				l.setAbandoned(id, false)
			}
			from := l.delisted.start(c.at)
			l.delisted.remove(from, from+len(c.ids))
		}
	}
}
