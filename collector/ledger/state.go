package ledger

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Chunk is a stretch of ids as it is stored. Chunks sorted by their keys make
// up the list.
type Chunk struct {
	Key    uint64
	IDs    []ID      // none if the chunk is no more
	Missed time.Time // see Complete; only of ids that have left the list
}

// State is a ledger, or what has changed in it, in a form that can be stored.
type State struct {
	Listed, Delisted []Chunk
	Pending          map[ID]*Pending // nil if it is pending no more
	Stored           *Pendings       // further ones, if this is all that is stored; may be nil
	Abandoned        map[ID]bool     // false if it is so no more
	Unreadable       uint64
	InitialSync      bool
}

// Changes returns what has changed since Saved was called. It is valid until
// the ledger is used again.
func (l *Ledger) Changes() State {
	s := State{
		Listed:      l.order.changes(),
		Delisted:    l.delisted.changes(),
		Pending:     make(map[ID]*Pending, len(l.touchedPending)),
		Abandoned:   make(map[ID]bool, len(l.touchedAbandoned)),
		Unreadable:  l.unreadable,
		InitialSync: l.initialSync,
	}
	for id := range l.touchedPending {
		p := l.pending.get(id)
		if p != nil && p.unstored {
			p.unstored = false
			l.pending.put(p)
		}
		s.Pending[id] = p
	}
	for id := range l.touchedAbandoned {
		_, s.Abandoned[id] = l.abandoned[id]
	}
	return s
}

// Unsaved returns how many entries with an id of their own Changes would return.
// They have no order, so each falls on another page of a store.
func (l *Ledger) Unsaved() int { return len(l.touchedPending) + len(l.touchedAbandoned) }

// Committed says that all that Changes returned is stored.
func (l *Ledger) Committed() {
	clear(l.order.dirty)
	clear(l.delisted.dirty)
	clear(l.touchedPending)
	clear(l.touchedAbandoned)
}

// Restore returns the ledger that was stored, and takes over what s holds. Times later than now are taken to
// be now: the clock may have been set back meanwhile.
func Restore(cfg Config, s State, now time.Time) *Ledger {
	l := New(cfg)
	l.order.restore(s.Listed, now)
	l.delisted.restore(s.Delisted, now)
	l.unreadable, l.initialSync = s.Unreadable, s.InitialSync
	if s.Stored != nil {
		l.pending = s.Stored
	}
	for _, p := range s.Pending {
		l.pending.Add(p)
	}
	var ahead []*Pending
	l.pending.All(func(p *Pending) {
		before := *p
		for _, t := range []*time.Time{&p.FirstSeen, &p.Since, &p.Ended, &p.EndBy, &p.Seen} {
			*t = earliest(*t, now)
		}
		if *p != before {
			ahead = append(ahead, p)
		}
	})
	for _, p := range ahead {
		l.pending.put(p)
	}
	for id := range maps.Keys(s.Abandoned) {
		l.abandoned[id] = struct{}{}
	}
	return l
}

func (o *order) changes() []Chunk {
	out := make([]Chunk, 0, len(o.dirty))
	live := make(map[uint64]*chunk, len(o.dirty))
	for _, c := range o.chunks {
		if _, ok := o.dirty[c.key]; ok {
			live[c.key] = c
		}
	}
	for key := range o.dirty {
		if c := live[key]; c != nil {
			out = append(out, Chunk{Key: key, IDs: c.ids, Missed: c.missed})
		} else {
			out = append(out, Chunk{Key: key})
		}
	}
	slices.SortFunc(out, func(a, b Chunk) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func (o *order) restore(chunks []Chunk, now time.Time) {
	n := 0
	for _, c := range chunks {
		n += len(c.IDs)
	}
	o.table.reset(n)
	for _, stored := range chunks {
		c := o.addChunk(len(o.chunks))
		c.key, c.missed, c.ids = stored.Key, earliest(stored.Missed, now), stored.IDs
		for _, id := range c.ids {
			o.table.add(id, c.number)
		}
	}
	clear(o.dirty)
}
