package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"opper_exporter/collector/codec"
)

// The kinds of entries that are stored, the first byte of their keys. Behind it:
const (
	kindAbandoned = "a" // the id
	kindDelisted  = "d" // the key of the chunk, big-endian: the order of the list
	kindListed    = "l" // the same
	kindPending   = "p" // the number, big-endian: those that arrive together stand together
	kindScalars   = "s" // nothing
)

// Changes calls put with each entry that has changed since Committed was called,
// and no body if it is no more.
func (l *Ledger) Changes(put func(key string, body []byte)) {
	l.order.changes(kindListed, put)
	l.delisted.changes(kindDelisted, put)
	for number, id := range l.touchedPending {
		var body []byte
		// A trace that was forgotten may be pending again, under another number.
		if p := l.pending.get(id); p != nil && p.number == number {
			if p.unstored {
				p.unstored = false
				l.pending.put(p)
			}
			body = codec.Encode(func(c *codec.Coder) { p.code(c, nil) })
		}
		put(kindPending+bigEndian(number), body)
	}
	for id := range l.touchedAbandoned {
		var body []byte
		if _, ok := l.abandoned[id]; ok {
			body = []byte{}
		}
		put(kindAbandoned+string(id[:]), body)
	}
	put(kindScalars, codec.Encode(l.codeScalars))
}

func (l *Ledger) codeScalars(c *codec.Coder) {
	codec.Int(c, &l.unreadable)
	c.Bools(&l.initialSync)
}

// Unsaved returns how many entries Changes would put whose key is an id. They have no
// order, so each falls on another page of a store.
func (l *Ledger) Unsaved() int { return len(l.touchedAbandoned) }

// Committed says that all that Changes has put is stored.
func (l *Ledger) Committed() {
	clear(l.order.dirty)
	clear(l.delisted.dirty)
	clear(l.touchedPending)
	clear(l.touchedAbandoned)
}

// Restore adds a stored entry to a new ledger. Entries come in the order of their
// keys, and EndRestore follows them.
func (l *Ledger) Restore(key string, body []byte) error {
	kind, rest := key[:min(len(key), 1)], []byte(key[min(len(key), 1):])
	switch {
	case key == kindScalars:
		return codec.Decode(body, l.codeScalars)
	case kind == kindListed && len(rest) == 8:
		return codec.Decode(body, l.order.addStored(rest).code)
	case kind == kindDelisted && len(rest) == 8:
		return codec.Decode(body, l.delisted.addStored(rest).code)
	case kind == kindAbandoned && len(rest) == len(ID{}):
		l.abandoned[ID(rest)] = struct{}{}
		return codec.Decode(body, func(*codec.Coder) {})
	case kind == kindPending && len(rest) == 8:
		return l.restorePending(binary.BigEndian.Uint64(rest), body)
	}
	return errors.New("unknown key")
}

func (l *Ledger) restorePending(number uint64, body []byte) error {
	p := new(Pending)
	if err := codec.Decode(body, func(c *codec.Coder) { p.code(c, nil) }); err != nil {
		return err
	}
	if l.pending.has(p.Row.ID) {
		return fmt.Errorf("%s appears twice: %w", p.Row.ID, codec.ErrDamaged)
	}
	p.number, p.unstored = number, false
	l.arrivals = max(l.arrivals, number)
	l.pending.put(p)
	return nil
}

func bigEndian(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// EndRestore makes the ledger usable. Times later than now are taken to be now:
// the clock may have been set back meanwhile.
func (l *Ledger) EndRestore(now time.Time) error {
	for _, o := range []*order{l.order, l.delisted} {
		if err := o.endRestore(now); err != nil {
			return err
		}
	}
	var ahead []*Pending
	l.pending.all(func(p *Pending) {
		before := *p
		for _, t := range []*time.Time{&p.FirstSeen, &p.Since, &p.Ended, &p.EndBy, &p.Seen} {
			*t = earliest(*t, now)
		}
		if *p != before {
			changed := *p
			ahead = append(ahead, &changed)
		}
	})
	for _, p := range ahead {
		l.pending.put(p)
	}
	return nil
}

func (c *chunk) code(cd *codec.Coder) {
	cd.Times(&c.missed)
	codec.Slice(cd, &c.ids, func(id *ID) { cd.Fixed(id[:]) })
}

func (o *order) changes(kind string, put func(key string, body []byte)) {
	live := make(map[uint64]*chunk, len(o.dirty))
	for _, c := range o.chunks {
		if _, ok := o.dirty[c.key]; ok {
			live[c.key] = c
		}
	}
	for key := range o.dirty {
		var body []byte
		if c := live[key]; c != nil {
			body = codec.Encode(c.code)
		}
		put(kind+bigEndian(key), body)
	}
}

// addStored adds a chunk under its stored key.
func (o *order) addStored(key []byte) *chunk {
	c := o.addChunk(len(o.chunks))
	c.key = binary.BigEndian.Uint64(key)
	return c
}

func (o *order) endRestore(now time.Time) error {
	n := 0
	for _, c := range o.chunks {
		c.missed = earliest(c.missed, now)
		n += len(c.ids)
	}
	o.table.reset(n)
	for _, c := range o.chunks {
		ids := c.ids
		for i, id := range ids {
			c.ids = ids[:i] // those in the table
			if o.has(id) {
				return fmt.Errorf("%s appears twice: %w", id, codec.ErrDamaged)
			}
			o.table.add(id, c.number)
		}
		c.ids = ids
	}
	clear(o.dirty)
	return nil
}
