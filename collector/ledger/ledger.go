// Package ledger decides which traces are counted, once each, from rows of a
// list that moves while it is read. It does no I/O and reads no clock: rows and
// times come in, events go out, so it can be simulated.
//
// An id is in one of four states: unknown; pending (met, and still open or not
// yet settled); judged and listed; judged and no longer believed listed. A
// judged trace never makes another count, whatever becomes of its row.
package ledger

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"
)

// forgetAfter is how far apart two complete walks that both missed an id must
// be, before it is forgotten: one walk alone may have been unlucky.
const forgetAfter = 24 * time.Hour

// Config holds the delays of a ledger.
type Config struct {
	SettleDelay     time.Duration // from when a trace is first seen ended until it is counted
	AbandonAfter    time.Duration // from when a trace is first seen until it is given up, if it has no end
	RecheckInterval time.Duration // the least time between two looks at an open trace
	// InitialLookback is how long before the baseline met it a trace may have ended to
	// be counted. If it is nil all are, and those that it finds abandoned.
	InitialLookback *time.Duration
	// Wall converts a time of the ledger's clock to wall-clock time, which is what
	// clients' times are compared with. Nil leaves it as it is.
	Wall func(time.Time) time.Time
}

// Row is one row of the list, as far as it matters for counting.
type Row struct {
	ID          ID
	Ref         string // the identifier as Opper writes it; empty if it is ID.String()
	Name        string
	Status      string
	HasStatus   bool
	Start, End  time.Time // to the microsecond; zero if unknown; End is zero while the trace runs
	Duration    time.Duration
	HasDuration bool
	Tokens      int64
	HasTokens   bool
	Kind        Kind
}

// Kind tells rows that stand for a trace from those that only take a place.
type Kind uint8

// The kinds of rows.
const (
	Normal     Kind = iota
	Unreadable      // Opper could not be made to say what stands here; has no ID
	NoID            // the row has no identifier, so it could not be counted once
)

// Run is a stretch of consecutive rows, in list order.
type Run struct {
	Rows    []Row
	AtStart bool // nothing is listed before the first row
	AtEnd   bool // nothing is listed after the last row
	When
}

// IsUnreadable reports whether an id stands for a row that could not be read.
func (id ID) IsUnreadable() bool { return isHole(id) }

// Stretch is a number of consecutive rows from an index on.
type Stretch struct{ Index, Rows int }

// When says between which times something was read. What Opper said may be as
// old as Asked, and was not known to us before Read.
type When struct {
	Asked, Read time.Time
}

// Counted is one trace, judged.
type Counted struct {
	Row       // with times as ClientTime returns them
	Abandoned bool
}

// Events says what an observation changed.
type Events struct {
	FirstSeen []Row     // met for the first time, with times as ClientTime returns them
	Counted   []Counted // settled or given up
	Vanished  []Row     // gone from the list before they ended; never counted
	LateEnds  []Row     // given up earlier, and ended after all
	NoID      uint64    // rows without an identifier met for the first time
	Gaps      uint64    // places that could not be read, met for the first time
}

// Clear empties the events, and keeps their memory for others.
func (e *Events) Clear() {
	*e = Events{FirstSeen: e.FirstSeen[:0], Counted: e.Counted[:0], Vanished: e.Vanished[:0], LateEnds: e.LateEnds[:0]}
}

// Pending is a trace that has been met and not yet judged.
type Pending struct {
	Row       Row       // as last read
	FirstSeen time.Time // when we first saw it
	Since     time.Time // when its age began: Met, or its own start if the baseline met it
	Ended     time.Time // when its settling began; zero while open
	EndBy     time.Time // when we first saw it ended, whoever met it
	Seen      time.Time // the last look; zero if it wants one at once
	Lost      bool      // not where it was: only Opper can say whether it still exists

	unstored bool // it was not part of Changes yet
}

// Ledger is not safe for concurrent use.
type Ledger struct {
	cfg         Config
	order       *order
	pending     *Pendings
	delisted    *order          // judged and not listed, in the order in which they went
	abandoned   map[ID]struct{} // judged as abandoned, no end seen yet
	unreadable  uint64
	initialSync bool

	// When Opper first would not say what became of these pending traces, since
	// they were last seen. Not stored: after a restart it has as long again.
	unanswered map[ID]time.Time

	// What has changed since it was last saved.
	touchedPending   map[ID]struct{} // pending
	touchedAbandoned map[ID]struct{} // abandoned

	// Of the rows of one observation, to be used again: where they are believed
	// to stand, and whether they have been met.
	at    []int
	known []bool
}

// New returns an empty ledger, in its baseline: until EndInitialSync, a trace's
// own times decide whether it has settled or was abandoned.
func New(cfg Config) *Ledger {
	return &Ledger{
		cfg:              cfg,
		order:            newOrder(),
		pending:          NewPendings(),
		delisted:         newOrder(),
		abandoned:        map[ID]struct{}{},
		initialSync:      true,
		touchedPending:   map[ID]struct{}{},
		touchedAbandoned: map[ID]struct{}{},

		unanswered: map[ID]time.Time{},
	}
}

// EndInitialSync ends the baseline: from now on traces count by when we saw them.
func (l *Ledger) EndInitialSync() { l.initialSync = false }

// IsInitialSync reports whether the first complete walk is still to be finished.
func (l *Ledger) IsInitialSync() bool { return l.initialSync }

// Listed returns how many rows the list is believed to have.
func (l *Ledger) Listed() int { return l.order.len() }

// Index returns how many rows are believed to stand before id, or -1 if id is
// not believed to be listed.
func (l *Ledger) Index(id ID) int { return l.order.index(id) }

// IDs returns the ids believed to stand at index i and after, up to j.
func (l *Ledger) IDs(i, j int) []ID { return l.order.slice(max(i, 0), min(j, l.order.len())) }

// HasSeen reports whether the trace has been met before.
func (l *Ledger) HasSeen(id ID) bool {
	return l.pending.has(id) || l.order.has(id) || l.delisted.has(id)
}

// Open calls f for each trace that has been met and not ended, in no order.
func (l *Ledger) Open(f func(Row)) {
	l.pending.All(func(p *Pending) {
		if p.Ended.IsZero() {
			f(p.Row)
		}
	})
}

// Due is a pending trace that wants a look.
type Due struct {
	ID    ID
	Ref   string
	Index int // where it is believed to stand; -1 if only Opper can say
}

// Due returns the traces that want a look at now, in list order, those that are
// not believed to be listed first.
func (l *Ledger) Due(now time.Time) []Due {
	var due []Due
	l.pending.All(func(p *Pending) {
		if !now.Before(l.dueAt(p)) {
			due = append(due, Due{ID: p.Row.ID, Ref: p.Row.Ref, Index: l.order.index(p.Row.ID)})
		}
	})
	slices.SortFunc(due, func(a, b Due) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), slices.Compare(a.ID[:], b.ID[:]))
	})
	return due
}

// dueAt returns when a pending trace is to be looked at again. The older an
// open trace is, the rarer the looks: what is found late is late by an eighth
// of its age at most.
func (l *Ledger) dueAt(p *Pending) time.Time {
	switch settled := p.Ended.Add(l.cfg.SettleDelay); {
	case p.Lost && p.Seen.IsZero():
		return time.Time{}
	case p.Ended.IsZero():
		wait := max(l.cfg.RecheckInterval, p.Seen.Sub(p.Since)/8)
		return earliest(p.Seen.Add(wait), p.Since.Add(l.cfg.AbandonAfter))
	case p.Lost && settled.Before(p.Seen.Add(l.cfg.RecheckInterval)):
		return p.Seen.Add(l.cfg.RecheckInterval)
	default:
		return settled
	}
}

// Observe takes in a run of rows, and adds what that changed to ev. Where the
// rows show that ids are not where they were believed to be, these are no longer
// believed to be listed.
func (l *Ledger) Observe(run Run, ev *Events) {
	rows := distinct(run.Rows)
	gaps := l.nameHoles(rows)
	at, known := slices.Grow(l.at[:0], len(rows))[:len(rows)], slices.Grow(l.known[:0], len(rows))[:len(rows)]
	l.at, l.known = at, known
	for i := range rows {
		id := rows[i].ID
		at[i] = l.order.index(id)
		known[i] = at[i] >= 0 || l.pending.has(id) || l.delisted.has(id)
	}
	// What nothing ties to the list that we know may be of another one.
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

// Resolve takes in the row that Opper gave for one id.
func (l *Ledger) Resolve(row Row, when When, ev *Events) {
	if l.pending.has(row.ID) {
		l.recheck(&row, when, ev)
	} else {
		l.recheckSettled(&row, ev)
	}
}

// Delist takes in that Opper no longer has a trace. If it had ended, it is
// counted as last seen.
func (l *Ledger) Delist(id ID, ev *Events) {
	p := l.pending.get(id)
	if p == nil {
		return
	}
	l.order.drop(id)
	if p.Ended.IsZero() {
		ev.Vanished = append(ev.Vanished, p.Row)
		l.settle(p)
	} else {
		l.count(p, false, ev)
	}
}

// Unanswered takes in that at now Opper would not say what became of a trace
// that is not where it was. It is asked again later, and judged as last seen a
// while after it would have been given up, if it was asked in vain for as long.
func (l *Ledger) Unanswered(id ID, now time.Time, ev *Events) {
	p := l.pending.get(id)
	if p == nil {
		return
	}
	p.Seen = now
	first, again := l.unanswered[id]
	if !again {
		first = now
		l.unanswered[id] = now
	}
	// Opper may only have trouble. The age alone says nothing: nobody may have
	// asked for long, as the process was stopped or syncs failed.
	more := l.cfg.AbandonAfter / 4
	if now.Sub(p.Since) >= l.cfg.AbandonAfter+more && now.Sub(first) >= more {
		l.count(p, p.Ended.IsZero(), ev)
	} else {
		l.pending.put(p)
	}
}

// EndFullScan takes in that at now a walk met every row that kept its place. An id
// that two such walks at least a day apart have missed is forgotten.
func (l *Ledger) EndFullScan(now time.Time) {
	for _, c := range slices.Clone(l.delisted.chunks) {
		switch {
		case c.missed.IsZero():
			c.missed = now
			l.delisted.touch(c)
		case now.Sub(c.missed) >= forgetAfter:
			for _, id := range c.ids {
				l.setAbandoned(id, false)
			}
			from := l.delisted.start(c.at)
			l.delisted.remove(from, from+len(c.ids))
		}
	}
}

// recheck takes in a row of a trace that has not been judged.
func (l *Ledger) recheck(r *Row, when When, ev *Events) {
	p := l.pending.get(r.ID)
	if p == nil {
		l.firstSee(r, when, ev)
		return
	}
	delete(l.unanswered, r.ID)
	// When it was last seen only says when to look again, so it is not worth
	// being saved by itself.
	if lost := !l.order.has(r.ID); p.Row != *r || p.Lost != lost {
		p.Row, p.Lost = *r, lost
		l.touchedPending[r.ID] = struct{}{}
	}
	switch l.weigh(p, when) {
	case settled:
		l.count(p, false, ev)
	case abandoned:
		l.count(p, true, ev)
	case beforeLookback:
		l.settle(p)
	case waits:
		l.pending.put(p)
	}
}

// firstSee takes in a row of a trace for the first time. It has its place in the
// order by now.
func (l *Ledger) firstSee(r *Row, when When, ev *Events) {
	ev.FirstSeen = append(ev.FirstSeen, *r)
	met := &ev.FirstSeen[len(ev.FirstSeen)-1]
	met.Start, met.End = ClientTime(r.Start, when.Asked), ClientTime(r.End, when.Asked)
	if r.Start.After(when.Asked) {
		met.Start = time.Time{} // it says nothing about the age of the trace
	}
	// Most traces of a first walk are judged at once, and never pending.
	p := Pending{Row: *r, FirstSeen: when.Asked, Since: when.Read, unstored: true}
	if l.initialSync {
		// Without a start it is old: history is judged at once.
		p.Since = when.Asked.Add(-l.cfg.AbandonAfter)
		if !r.Start.IsZero() {
			p.Since = earliest(r.Start, when.Read)
		}
	}
	switch l.weigh(&p, when) {
	case settled:
		l.add(&p, false, ev)
	case abandoned:
		l.add(&p, true, ev)
	case beforeLookback:
	case waits:
		l.pending.put(&p)
		l.touchedPending[r.ID] = struct{}{}
	}
}

// verdict is what becomes of a pending trace when it is looked at.
type verdict int

const (
	waits verdict = iota
	settled
	abandoned
	beforeLookback // it ended before what the baseline counts
)

// weigh notes in p what its row says, and judges it.
func (l *Ledger) weigh(p *Pending, when When) verdict {
	p.Seen = when.Read
	if p.Row.End.IsZero() {
		p.Ended, p.EndBy = time.Time{}, time.Time{}
		if when.Asked.Sub(p.Since) >= l.cfg.AbandonAfter {
			return abandoned
		}
		return waits
	}
	if p.Ended.IsZero() {
		p.Ended, p.EndBy = when.Read, when.Asked
		if l.initialSync {
			p.Ended = earliest(p.Row.End, when.Read)
			if l.cfg.InitialLookback != nil && p.FirstSeen.Sub(p.Ended) > *l.cfg.InitialLookback {
				return beforeLookback
			}
		}
	}
	if when.Asked.Sub(p.Ended) >= l.cfg.SettleDelay {
		return settled
	}
	return waits
}

func (l *Ledger) recheckSettled(r *Row, ev *Events) {
	if _, ok := l.abandoned[r.ID]; ok && !r.End.IsZero() {
		l.setAbandoned(r.ID, false)
		ev.LateEnds = append(ev.LateEnds, *r)
	}
}

// count ends the pending state of a trace with a count.
func (l *Ledger) count(p *Pending, abandoned bool, ev *Events) {
	l.settle(p)
	l.add(p, abandoned, ev)
}

// add makes a count of a trace.
func (l *Ledger) add(p *Pending, abandoned bool, ev *Events) {
	if abandoned {
		l.setAbandoned(p.Row.ID, true)
	}
	if abandoned && l.initialSync && l.cfg.InitialLookback != nil {
		return
	}
	ev.Counted = append(ev.Counted, Counted{Row: p.Row, Abandoned: abandoned})
	c := &ev.Counted[len(ev.Counted)-1]
	c.Start, c.End = ClientTime(c.Start, l.wall(p.FirstSeen)), ClientTime(c.End, l.wall(p.EndBy))
}

// wall converts a time of the ledger's clock to wall-clock time.
func (l *Ledger) wall(t time.Time) time.Time {
	if l.cfg.Wall == nil {
		return t
	}
	return l.cfg.Wall(t)
}

// settle ends the pending state of a trace.
func (l *Ledger) settle(p *Pending) {
	id := p.Row.ID
	// Most traces of a first walk are judged before they are ever stored.
	if !p.unstored {
		l.touchedPending[id] = struct{}{}
	} else {
		delete(l.touchedPending, id)
	}
	l.pending.remove(id)
	delete(l.unanswered, id)
	if !l.order.has(id) {
		l.delisted.push(id)
	}
}

func (l *Ledger) setAbandoned(id ID, abandoned bool) {
	if _, ok := l.abandoned[id]; ok == abandoned {
		return
	}
	if abandoned {
		l.abandoned[id] = struct{}{}
	} else {
		delete(l.abandoned, id)
	}
	l.touchedAbandoned[id] = struct{}{}
}

// place makes the order agree with the rows, which are believed to stand at
// the indices in at, or nowhere. It reports false if nothing says where in the
// order they belong.
func (l *Ledger) place(rows []Row, at []int, atStart, atEnd bool) bool {
	kept := rising(at)
	if len(kept) == 0 && !atStart && (!atEnd || l.order.len() > 0) {
		return false
	}
	if len(rows) == 0 {
		// An empty page says something only if it is the whole list.
		if atStart && atEnd {
			l.unlist(0, l.order.len())
		}
		return true
	}
	inPlace := len(kept) == len(rows)
	for k := 1; k < len(kept) && inPlace; k++ {
		inPlace = at[kept[k]] == at[kept[k-1]]+1
	}
	if !inPlace {
		l.rewrite(rows, at, kept)
	}
	if atStart {
		l.unlist(0, l.order.index(rows[0].ID))
	}
	if atEnd {
		l.unlist(l.order.index(rows[len(rows)-1].ID)+1, l.order.len())
	}
	return true
}

// rewrite puts the rows, as they are, in the place of what was believed to
// stand from the first to the last of those that kept their place.
func (l *Ledger) rewrite(rows []Row, at, kept []int) {
	for i := range rows {
		if at[i] >= 0 && !slices.Contains(kept, i) {
			l.order.drop(rows[i].ID)
		}
	}
	from := 0
	if len(kept) > 0 {
		from = l.order.index(rows[kept[0]].ID)
		to := l.order.index(rows[kept[len(kept)-1]].ID) + 1
		between := l.order.slice(from, to)
		l.order.remove(from, to)
		if len(between) > len(kept) {
			onPage := make(map[ID]struct{}, len(rows))
			for _, r := range rows {
				onPage[r.ID] = struct{}{}
			}
			for _, id := range between {
				if _, ok := onPage[id]; !ok {
					l.unlisted(id)
				}
			}
		}
	}
	ids := make([]ID, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
		l.delisted.drop(ids[i])
	}
	l.order.insert(from, ids)
}

// unlist takes the ids from index i up to j out of the order.
func (l *Ledger) unlist(i, j int) {
	if i >= j {
		return
	}
	ids := l.order.slice(i, j)
	l.order.remove(i, j)
	for _, id := range ids {
		l.unlisted(id)
	}
}

func (l *Ledger) unlisted(id ID) {
	switch p := l.pending.get(id); {
	case isHole(id):
	case p != nil:
		p.Lost, p.Seen = true, time.Time{}
		l.pending.put(p)
		l.touchedPending[id] = struct{}{}
	default:
		l.delisted.push(id)
	}
}

// The ids of holes are numbers in a space that neither UUIDs nor hashes reach
// by accident.
var holeSpace = [8]byte{0xff, 0xff, 0xff, 0xff, 'h', 'o', 'l', 'e'}

func isHole(id ID) bool { return [8]byte(id[:8]) == holeSpace }

// nameHoles gives unreadable rows their ids: that of the hole that is believed
// to stand beside the same neighbour, or a new one. It returns how many
// stretches of new holes there are.
func (l *Ledger) nameHoles(rows []Row) (stretches uint64) {
	if !slices.ContainsFunc(rows, func(r Row) bool { return r.Kind == Unreadable }) {
		return 0
	}
	taken := map[ID]bool{}
	match := func(i, neighbour, step int) {
		if rows[i].Kind != Unreadable || rows[i].ID != (ID{}) {
			return
		}
		if id, ok := l.holeAt(rows[neighbour].ID, step); ok && !taken[id] {
			rows[i].ID, taken[id] = id, true
		}
	}
	for i := 1; i < len(rows); i++ {
		match(i, i-1, +1)
	}
	for i := len(rows) - 2; i >= 0; i-- {
		match(i, i+1, -1)
	}
	for i := range rows {
		if rows[i].Kind != Unreadable || rows[i].ID != (ID{}) {
			continue
		}
		l.unreadable++
		copy(rows[i].ID[:8], holeSpace[:])
		binary.BigEndian.PutUint64(rows[i].ID[8:], l.unreadable)
		if i == 0 || rows[i-1].Kind != Unreadable {
			stretches++
		}
	}
	return stretches
}

// holeAt returns the hole believed to stand next to id.
func (l *Ledger) holeAt(id ID, step int) (ID, bool) {
	i := l.order.index(id)
	if i < 0 || i+step < 0 || i+step >= l.order.len() {
		return ID{}, false
	}
	hole := l.order.slice(i+step, i+step+1)[0]
	return hole, isHole(hole)
}

// Hole returns the first index from i on, looking at n places, at which an
// unreadable row is believed to stand, or -1.
func (l *Ledger) Hole(i, n int) int {
	if l.unreadable == 0 {
		return -1
	}
	j := i + n
	i = max(i, 0)
	for k, id := range l.IDs(i, j) {
		if isHole(id) {
			return i + k
		}
	}
	return -1
}

// HasUnreadable reports whether there has been an unreadable row.
func (l *Ledger) HasUnreadable() bool { return l.unreadable > 0 }

// Unreadable returns the indexes of the listed rows that could not be read, and
// for each stretch of them how many there are.
func (l *Ledger) Unreadable() (stretches []Stretch) {
	if l.unreadable == 0 {
		return nil
	}
	i := 0
	for _, c := range l.order.chunks {
		for _, id := range c.ids {
			switch n := len(stretches); {
			case !isHole(id):
			case n > 0 && stretches[n-1].Index+stretches[n-1].Rows == i:
				stretches[n-1].Rows++
			default:
				stretches = append(stretches, Stretch{Index: i, Rows: 1})
			}
			i++
		}
	}
	return stretches
}

// distinct returns rows in which each id stands once, as last read. Where
// something is to be changed about them, they are a copy.
func distinct(rows []Row) []Row {
	if plainRows(rows) {
		return rows
	}
	out := make([]Row, 0, len(rows))
	at := make(map[ID]int, len(rows))
	for _, r := range rows {
		if r.Kind != Unreadable {
			if i, ok := at[r.ID]; ok {
				out[i] = r
				continue
			}
			at[r.ID] = len(out)
		}
		out = append(out, r)
	}
	return out
}

// plainRows reports whether all rows can be read and no two of them seem to
// have one id. A map would cost more than all else that is done with a page.
func plainRows(rows []Row) bool {
	var seen [512]uint16 // positions, from 1 on
	if len(rows) > len(seen)/2 {
		return false
	}
	for i, r := range rows {
		if r.Kind == Unreadable {
			return false
		}
		slot := hashOf(r.ID) % uint64(len(seen))
		for ; seen[slot] != 0; slot = (slot + 1) % uint64(len(seen)) {
			if rows[seen[slot]-1].ID == r.ID {
				return false
			}
		}
		seen[slot] = uint16(i + 1)
	}
	return true
}

// rising returns the positions in at of a longest rising run of the values that
// are not negative: the rows that kept their order among themselves.
func rising(at []int) []int {
	var tails []int // positions; tails[k] ends the best run of length k+1
	before := make([]int, len(at))
	for i, v := range at {
		if v < 0 {
			continue
		}
		k, _ := slices.BinarySearchFunc(tails, v, func(pos, v int) int { return cmp.Compare(at[pos], v) })
		before[i] = -1
		if k > 0 {
			before[i] = tails[k-1]
		}
		if k == len(tails) {
			tails = append(tails, i)
		} else {
			tails[k] = i
		}
	}
	if len(tails) == 0 {
		return nil
	}
	out := make([]int, len(tails))
	for k, i := len(tails)-1, tails[len(tails)-1]; k >= 0; k, i = k-1, before[i] {
		out[k] = i
	}
	return out
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
