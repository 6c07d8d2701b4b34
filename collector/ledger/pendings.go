package ledger

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// blockSize is up to how many bytes a block of pending traces grows. All of it
// is moved when one of its traces changes.
const blockSize = 2048

// Pendings holds pending traces in about 45 bytes each and what their texts
// take, a quarter of what they take in maps: a list may have a million of them.
// They are encoded one after the other in blocks, in which the garbage collector
// has nothing to look for. Times are kept to the microsecond, as they are stored.
type Pendings struct {
	table  table    // finds the block of an id
	blocks [][]byte // by number; nil if free
	free   []uint32
	fill   uint32 // the block that takes the next one; 0 if none does

	// Names and statuses that entries refer to by their place here. The first ones
	// stay: those of most traces come soon.
	shared      []string
	sharedPlace map[string]int

	body, entry []byte // of the last put, to be used again
}

const (
	maxShared     = 1024
	maxSharedSize = 128
)

// NewPendings returns Pendings that hold nothing yet.
func NewPendings() *Pendings {
	ps := &Pendings{blocks: make([][]byte, firstNumber), sharedPlace: map[string]int{}}
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
func (ps *Pendings) find(id ID) (number uint32, at, slot int, ok bool) {
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

func (ps *Pendings) has(id ID) bool {
	_, _, _, ok := ps.find(id)
	return ok
}

// get returns a copy of a pending trace, nil if there is none. Changes of it are
// taken over by put.
func (ps *Pendings) get(id ID) *Pending {
	number, at, _, ok := ps.find(id)
	if !ok {
		return nil
	}
	return ps.decode(ps.blocks[number][at:])
}

// Add takes in a stored pending trace.
func (ps *Pendings) Add(p *Pending) { ps.put(p) }

// All calls f with a copy of each pending trace.
func (ps *Pendings) All(f func(*Pending)) {
	for _, b := range ps.blocks {
		for len(b) > 0 {
			f(ps.decode(b))
			_, b = entryAt(b)
		}
	}
}

func (ps *Pendings) put(p *Pending) {
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

func (ps *Pendings) newBlock() uint32 {
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
func (ps *Pendings) grow() {
	ps.table.reset(ps.table.used + 1)
	for number, b := range ps.blocks {
		for len(b) > 0 {
			ps.table.add(ID(b[:len(ID{})]), uint32(number))
			_, b = entryAt(b)
		}
	}
}

func (ps *Pendings) remove(id ID) {
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

// The yes or no of a pending trace, as bits; the kind stands above them.
const (
	bitStatus = 1 << iota
	bitDuration
	bitTokens
	bitLost
	bitUnstored
	kindUnit
)

// encode returns the entry of a pending trace, until it is called again.
func (ps *Pendings) encode(p *Pending) []byte {
	r := &p.Row
	b := binary.AppendUvarint(ps.body[:0], bit(r.HasStatus, bitStatus)|bit(r.HasDuration, bitDuration)|bit(r.HasTokens, bitTokens)|
		bit(p.Lost, bitLost)|bit(p.unstored, bitUnstored)|uint64(r.Kind)*kindUnit)
	known := len(b)
	b = append(b, 0) // which times are known
	var base int64
	for i, t := range p.times() {
		if !t.IsZero() {
			b[known] |= 1 << i
			b = binary.AppendVarint(b, t.UnixMicro()-base)
			base = t.UnixMicro()
		}
	}
	b = binary.AppendVarint(b, int64(r.Duration))
	b = binary.AppendVarint(b, r.Tokens)
	b = appendText(b, r.Ref)
	b = ps.appendShared(b, r.Status)
	b = ps.appendShared(b, r.Name)
	ps.body = b
	ps.entry = append(ps.entry[:0], r.ID[:]...)
	ps.entry = binary.AppendUvarint(ps.entry, uint64(len(b)))
	ps.entry = append(ps.entry, b...)
	return ps.entry
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, 2*uint64(len(text))), text...)
}

// appendShared appends the place of a text among the shared ones, or the text if
// it has none.
func (ps *Pendings) appendShared(b []byte, text string) []byte {
	place, ok := ps.sharedPlace[text]
	if !ok {
		if len(ps.shared) == maxShared || len(text) > maxSharedSize {
			return appendText(b, text)
		}
		place = len(ps.shared)
		text = strings.Clone(text) // of a page that would stay with it
		ps.shared = append(ps.shared, text)
		ps.sharedPlace[text] = place
	}
	return binary.AppendUvarint(b, 2*uint64(place)+1)
}

// decode returns the pending trace of the entry at the start of b.
func (ps *Pendings) decode(entry []byte) *Pending {
	b, _ := bodyOf(entry)
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	signed := func() int64 {
		v, n := binary.Varint(b)
		b = b[n:]
		return v
	}
	bits := number()
	p := &Pending{Lost: bits&bitLost != 0, unstored: bits&bitUnstored != 0, Row: Row{
		ID: ID(entry[:len(ID{})]), Kind: Kind(bits / kindUnit),
		HasStatus: bits&bitStatus != 0, HasDuration: bits&bitDuration != 0, HasTokens: bits&bitTokens != 0,
	}}
	known := b[0]
	b = b[1:]
	var base int64
	for i, t := range p.times() {
		if known>>i&1 == 1 {
			base += signed()
			*t = time.UnixMicro(base).UTC()
		}
	}
	p.Row.Duration, p.Row.Tokens = time.Duration(signed()), signed()
	for _, text := range []*string{&p.Row.Ref, &p.Row.Status, &p.Row.Name} {
		n := number()
		if n%2 == 1 {
			*text = ps.shared[n/2]
			continue
		}
		*text, b = string(b[:n/2]), b[n/2:]
	}
	return p
}

// times are in an order in which each is close to the one before it, most of the
// time.
func (p *Pending) times() [7]*time.Time {
	return [...]*time.Time{&p.Row.Start, &p.Since, &p.FirstSeen, &p.Seen, &p.Row.End, &p.Ended, &p.EndBy}
}

func bit(set bool, value uint64) uint64 {
	if set {
		return value
	}
	return 0
}
