package ledger

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"
)

// blockSize is up to how many bytes a block of pending traces grows. All of it
// is moved when one of its traces changes.
const blockSize = 2048

// Pendings holds pending traces in about 60 bytes each and what their texts
// take, a third of what they take in maps: a list may have a million of them.
// They are encoded one after the other in blocks, in which the garbage collector
// has nothing to look for.
type Pendings struct {
	table  table    // finds the block of an id
	blocks [][]byte // by number; nil if free
	free   []uint32
	fill   uint32 // the block that takes the next one; 0 if none does
}

// NewPendings returns Pendings that hold nothing yet.
func NewPendings() *Pendings {
	ps := &Pendings{blocks: make([][]byte, firstNumber)}
	ps.table.reset(0)
	return ps
}

// In a block, each entry is the id, the size of its body in four bytes, and the
// body: states of earlier versions have names of any length.
const headSize = len(ID{}) + 4

// entryAt returns the entry at the start of b, and what follows it.
func entryAt(b []byte) (entry, rest []byte) {
	size := headSize + int(binary.LittleEndian.Uint32(b[len(ID{}):]))
	return b[:size], b[size:]
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
	entry, _ := entryAt(ps.blocks[number][at:])
	return decodePending(entry)
}

// Add takes in a stored pending trace.
func (ps *Pendings) Add(p *Pending) { ps.put(p) }

// All calls f with a copy of each pending trace.
func (ps *Pendings) All(f func(*Pending)) {
	for _, b := range ps.blocks {
		for len(b) > 0 {
			var entry []byte
			entry, b = entryAt(b)
			f(decodePending(entry))
		}
	}
}

func (ps *Pendings) put(p *Pending) {
	entry := encodePending(p)
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

// The yes or no of a pending trace, as bits.
const (
	bitStatus = 1 << iota
	bitDuration
	bitTokens
	bitLost
	bitUnstored
)

func encodePending(p *Pending) []byte {
	r := &p.Row
	b := make([]byte, headSize, headSize+64+len(r.Name)+len(r.Status)+len(r.Ref))
	b = binary.AppendUvarint(b, bit(r.HasStatus, bitStatus)|bit(r.HasDuration, bitDuration)|bit(r.HasTokens, bitTokens)|bit(p.Lost, bitLost)|bit(p.unstored, bitUnstored))
	b = append(b, byte(r.Kind))
	var base int64
	for _, t := range p.times() {
		if t.IsZero() {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(t.Nanosecond())+1)
		b = binary.AppendVarint(b, t.Unix()-base)
		base = t.Unix()
	}
	b = binary.AppendVarint(b, int64(r.Duration))
	b = binary.AppendVarint(b, r.Tokens)
	for _, text := range []string{r.Ref, r.Status, r.Name} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	copy(b, r.ID[:])
	binary.LittleEndian.PutUint32(b[len(r.ID):], uint32(len(b)-headSize))
	return b
}

func decodePending(entry []byte) *Pending {
	b := entry[headSize:]
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
		ID: ID(entry[:len(ID{})]), Kind: Kind(number()),
		HasStatus: bits&bitStatus != 0, HasDuration: bits&bitDuration != 0, HasTokens: bits&bitTokens != 0,
	}}
	var base int64
	for _, t := range p.times() {
		if nanos := number(); nanos > 0 {
			base += signed()
			*t = time.Unix(base, int64(nanos-1)).UTC()
		}
	}
	p.Row.Duration, p.Row.Tokens = time.Duration(signed()), signed()
	for _, text := range []*string{&p.Row.Ref, &p.Row.Status, &p.Row.Name} {
		size := number()
		*text, b = string(b[:size]), b[size:]
	}
	return p
}

// times are in an order in which each is close to the one before it, most of the
// time.
func (p *Pending) times() [7]*time.Time {
	return [...]*time.Time{&p.Row.Start, &p.Since, &p.Met, &p.Seen, &p.Row.End, &p.Ended, &p.EndBy}
}

func bit(set bool, value uint64) uint64 {
	if set {
		return value
	}
	return 0
}
