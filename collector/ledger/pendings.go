package ledger

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"opper_exporter/collector/codec"
)

// blockSize is the maximum number of bytes of a block of pending traces. All of
// it may be moved when one of its traces changes; the room at its end that is too
// small for another one is the same in smaller blocks.
const blockSize = 4096

// pendings holds pending traces in about 45 bytes each and what their texts
// take, a quarter of what they take in maps: a list may have a million of them.
// They are encoded one after the other in blocks, in which the garbage collector
// has nothing to look for. Times are kept to the microsecond, as they are stored.
type pendings struct {
	table  table    // finds the block of an id
	blocks [][]byte // by number; nil if free
	free   []uint32
	fill   uint32 // the block that takes the next one; 0 if none does

	// Names and statuses that entries refer to by their place here, from 1 on. The
	// first ones stay: those of most traces come soon.
	shared      []string
	sharedPlace map[string]uint

	body, entry []byte // of the last put, to be used again
}

const (
	maxShared     = 1024
	maxSharedSize = 128
)

func newPendings() *pendings {
	ps := &pendings{blocks: make([][]byte, firstNumber), sharedPlace: map[string]uint{}}
	ps.table.reset(0)
	return ps
}

// In a block, each entry is the id, the size of its body, and the body.

// bodyOf returns the body of the entry at the start of b, and what follows it.
func bodyOf(b []byte) (body, rest []byte) {
	size, n := binary.Uvarint(b[len(ID{}):])
	from := len(ID{}) + n
	to := from + int(size)
	return b[from:to], b[to:]
}

// entryAt returns the entry at the start of b, and what follows it.
func entryAt(b []byte) (entry, rest []byte) {
	_, rest = bodyOf(b)
	return b[:len(b)-len(rest)], rest
}

// find returns the block of an id, where its entry is, and its slot in the table.
func (ps *pendings) find(id ID) (number uint32, at, slot int, ok bool) {
	slot, ok = ps.table.find(id, func(n uint32) bool {
		at = 0
		for rest := ps.blocks[n]; len(rest) > 0; {
			if bytes.Equal(rest[:len(id)], id[:]) {
				number = n
				return true
			}
			var entry []byte
			entry, rest = entryAt(rest)
			at += len(entry)
		}
		return false
	})
	return number, at, slot, ok
}

func (ps *pendings) has(id ID) bool {
	_, _, _, ok := ps.find(id)
	return ok
}

// get returns a copy of a pending trace, nil if there is none. Changes of it are
// taken over by put.
func (ps *pendings) get(id ID) *Pending {
	number, at, _, ok := ps.find(id)
	if !ok {
		return nil
	}
	p := &Pending{}
	ps.decode(p, ps.blocks[number][at:])
	return p
}

// all calls f with a copy of each pending trace, one after the other in the same place:
// each sync looks at all of them, which may be a million.
func (ps *pendings) all(f func(*Pending)) {
	p := &Pending{}
	for _, b := range ps.blocks {
		for len(b) > 0 {
			*p = Pending{}
			b = ps.decode(p, b)
			f(p)
		}
	}
}

func (ps *pendings) put(p *Pending) {
	entry := ps.encode(p)
	number, at, _, ok := ps.find(p.Row.ID)
	if ok {
		old, _ := entryAt(ps.blocks[number][at:])
		ps.blocks[number] = slices.Replace(ps.blocks[number], at, at+len(old), entry...)
		return
	}
	if !ps.table.fits(1) {
		ps.grow()
	}
	if ps.fill == 0 || len(ps.blocks[ps.fill])+len(entry) > blockSize {
		ps.fill = ps.newBlock()
	}
	ps.blocks[ps.fill] = append(ps.blocks[ps.fill], entry...)
	ps.table.add(p.Row.ID, ps.fill)
}

func (ps *pendings) newBlock() uint32 {
	block := make([]byte, 0, blockSize)
	if n := len(ps.free); n > 0 {
		number := ps.free[n-1]
		ps.free = ps.free[:n-1]
		ps.blocks[number] = block
		return number
	}
	ps.blocks = append(ps.blocks, block)
	return uint32(len(ps.blocks) - 1)
}

// grow makes room in the table for one more id.
func (ps *pendings) grow() {
	ps.table.reset(ps.table.used + 1)
	for number, b := range ps.blocks {
		for len(b) > 0 {
			ps.table.add(ID(b[:len(ID{})]), uint32(number))
			_, b = entryAt(b)
		}
	}
}

func (ps *pendings) remove(id ID) {
	number, at, slot, ok := ps.find(id)
	if !ok {
		return
	}
	ps.table.remove(slot)
	entry, _ := entryAt(ps.blocks[number][at:])
	b := slices.Delete(ps.blocks[number], at, at+len(entry))
	switch {
	case number == ps.fill:
	case len(b) == 0:
		b = nil
		ps.free = append(ps.free, number)
	case 2*len(b) < cap(b):
		b = bytes.Clone(b)
	}
	ps.blocks[number] = b
}

// encode returns the entry of a pending trace, until it is called again.
func (ps *pendings) encode(p *Pending) []byte {
	body := codec.NewEncoder(ps.body[:0])
	p.code(body, ps)
	ps.body = body.Bytes()
	ps.entry = append(ps.entry[:0], p.Row.ID[:]...)
	ps.entry = binary.AppendUvarint(ps.entry, uint64(len(ps.body)))
	ps.entry = append(ps.entry, ps.body...)
	return ps.entry
}

// decode sets a pending trace to the entry at the start of b, and returns what follows it.
func (ps *pendings) decode(p *Pending, b []byte) (rest []byte) {
	body, rest := bodyOf(b)
	p.Row.ID = ID(b[:len(ID{})])
	p.code(codec.NewDecoder(body), ps)
	return rest
}

// codeShared codes the place of a text among the shared ones, from 1 on, or the
// text if it has none.
func (ps *pendings) codeShared(c *codec.Coder, text *string) {
	var place uint
	if !c.IsDecoding() {
		place = ps.share(*text)
	}
	codec.Int(c, &place)
	switch {
	case place == 0:
		c.Text(text)
	case !c.IsDecoding():
	case ps == nil || place > uint(len(ps.shared)):
		c.Fail()
	default:
		*text = ps.shared[place-1]
	}
}

// share returns the place of a text, 0 if it has none.
func (ps *pendings) share(text string) uint {
	if ps == nil {
		return 0
	}
	place, ok := ps.sharedPlace[text]
	if !ok && len(ps.shared) < maxShared && len(text) <= maxSharedSize {
		text = strings.Clone(text) // of a page that would stay with it
		ps.shared = append(ps.shared, text)
		place = uint(len(ps.shared))
		ps.sharedPlace[text] = place
	}
	return place
}

// code codes all but the id. Texts are shared within ps. If that is nil, it is for a store,
// with the id and without the number, which is the key there.
func (p *Pending) code(c *codec.Coder, ps *pendings) {
	r := &p.Row
	if ps == nil {
		c.Fixed(r.ID[:])
	} else {
		codec.Int(c, &p.number)
	}
	c.Bools(&r.HasStatus, &r.HasDuration, &r.HasTokens, &p.OutOfPlace, &p.unstored)
	codec.Int(c, &r.Kind)
	c.Times(&r.Start, &p.Since, &p.FirstSeen, &p.Seen, &r.End, &p.Ended, &p.EndBy)
	codec.Int(c, &r.Duration)
	codec.Int(c, &r.Tokens)
	c.Text(&r.Ref)
	ps.codeShared(c, &r.Status)
	ps.codeShared(c, &r.Name)
}
