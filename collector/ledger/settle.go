package ledger

import (
	"cmp"
	"slices"
	"time"
)

// Counted is one trace, settled or abandoned.
type Counted struct {
	Row       // with times as ClientTime returns them
	Abandoned bool
}

// Pending is a trace that is open or not yet settled.
type Pending struct {
	Row        Row       // as last read
	FirstSeen  time.Time // when we first saw it
	Since      time.Time // when its age began: FirstSeen, or its own start if the initial sync saw it
	Ended      time.Time // when its settle delay began; zero while open
	EndBy      time.Time // when we first saw it ended
	Seen       time.Time // when it was last checked; zero if it is due at once
	OutOfPlace bool      // not where it was: only Opper can say whether it is still listed

	number   uint64 // by arrival, from 1 on: its key among the stored ones
	unstored bool   // Changes has not put it yet
}

// Due is a pending trace that is to be checked.
type Due struct {
	ID    ID
	Ref   string
	Index int // where it is believed to stand; -1 if only Opper can say
}

// Due returns the traces that are to be checked at now, in list order, first those
// that are not believed to be listed. Of more than a maximum, it returns those that
// have been due for longest.
func (l *Ledger) Due(now time.Time, maximum int) []Due {
	type waiting struct {
		Due
		since time.Time
	}
	var all []waiting
	keepLongest := func() {
		if len(all) > maximum {
			// Those that stand together are read together.
			slices.SortFunc(all, func(a, b waiting) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.Index, b.Index)) })
			all = all[:maximum]
		}
	}
	l.pending.all(func(p *Pending) {
		if at := l.dueAt(p); !now.Before(at) {
			all = append(all, waiting{Due{ID: p.Row.ID, Ref: p.Row.Ref, Index: l.order.index(p.Row.ID)}, at})
			if len(all) == 2*maximum {
				keepLongest()
			}
		}
	})
	keepLongest()
	due := make([]Due, len(all))
	for i := range all {
		due[i] = all[i].Due
	}
	slices.SortFunc(due, func(a, b Due) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), slices.Compare(a.ID[:], b.ID[:]))
	})
	return due
}

// Pending calls f for each trace that is open or not settled, in no order.
func (l *Ledger) Pending(f func(Row)) { l.pending.all(func(p *Pending) { f(p.Row) }) }

// dueAt returns when a pending trace is to be checked again. The older an open
// trace is, the rarer the checks: an end is found late by an eighth of its age at
// most.
func (l *Ledger) dueAt(p *Pending) time.Time {
	switch settled := p.Ended.Add(l.cfg.SettleDelay); {
	case p.OutOfPlace && p.Seen.IsZero():
		return time.Time{}
	case p.Ended.IsZero():
		wait := max(l.cfg.RecheckInterval, p.Seen.Sub(p.Since)/8)
		return earliest(p.Seen.Add(wait), p.Since.Add(l.cfg.AbandonAfter))
	case p.OutOfPlace && settled.Before(p.Seen.Add(l.cfg.RecheckInterval)):
		return p.Seen.Add(l.cfg.RecheckInterval)
	default:
		return settled
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
// counted as last seen. If not, it is forgotten: it was never counted, and may be
// listed again where Opper was only in trouble.
func (l *Ledger) Delist(id ID, ev *Events) {
	p := l.pending.get(id)
	if p == nil {
		return
	}
	l.order.drop(id)
	if p.Ended.IsZero() {
		ev.Vanished = append(ev.Vanished, p.Row)
		l.settle(p)
		l.delisted.drop(id)
	} else {
		l.count(p, false, ev)
	}
}

// Unanswered takes in that at now Opper failed to say what became of a trace that
// is not where it was. It is asked again later. A while after the trace would have
// been abandoned, if that was in vain for as long, it is counted as last seen.
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
	// Opper may only be in trouble. The age alone says nothing: the trace may not
	// have been asked for in a long time, as the process was stopped or syncs failed.
	more := l.cfg.AbandonAfter / 4
	if now.Sub(p.Since) >= l.cfg.AbandonAfter+more && now.Sub(first) >= more {
		l.count(p, p.Ended.IsZero(), ev)
	} else {
		l.pending.put(p)
	}
}

// recheck takes in a row of a trace that is pending or was not seen before.
func (l *Ledger) recheck(r *Row, when When, ev *Events) {
	p := l.pending.get(r.ID)
	if p == nil {
		l.firstSee(r, when, ev)
		return
	}
	delete(l.unanswered, r.ID)
	// When it was last checked only says when to do so again, so that is not worth
	// a commit by itself.
	if outOfPlace := !l.order.has(r.ID); p.Row != *r || p.OutOfPlace != outOfPlace {
		p.Row, p.OutOfPlace = *r, outOfPlace
		l.touchedPending[p.number] = r.ID
	}
	switch l.decide(p, when) {
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
	seen := &ev.FirstSeen[len(ev.FirstSeen)-1]
	seen.Start, seen.End = ClientTime(r.Start, when.Asked), ClientTime(r.End, when.Asked)
	if r.Start.After(when.Asked) {
		seen.Start = time.Time{} // it says nothing about the age of the trace
	}
	// Most traces of an initial sync have settled, and are never pending.
	p := Pending{Row: *r, FirstSeen: when.Asked, Since: when.Read, unstored: true}
	if l.initialSync {
		// Without a start it is old: history is classified at once.
		p.Since = when.Asked.Add(-l.cfg.AbandonAfter)
		if !r.Start.IsZero() {
			p.Since = earliest(r.Start, when.Read)
		}
	}
	switch l.decide(&p, when) {
	case settled:
		l.add(&p, false, ev)
	case abandoned:
		l.add(&p, true, ev)
	case beforeLookback:
	case waits:
		l.arrivals++
		p.number = l.arrivals
		l.put(&p)
	}
}

// put takes a pending trace in, and has it stored.
func (l *Ledger) put(p *Pending) {
	l.pending.put(p)
	l.touchedPending[p.number] = p.Row.ID
}

// decision is what becomes of a pending trace when it is checked.
type decision int

const (
	waits decision = iota
	settled
	abandoned
	beforeLookback // it ended before what the initial sync counts
)

// decide notes in p what its row says.
func (l *Ledger) decide(p *Pending, when When) decision {
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
	// Most traces of an initial sync settle before they are ever stored.
	if !p.unstored {
		l.touchedPending[p.number] = id
	} else {
		delete(l.touchedPending, p.number)
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

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
