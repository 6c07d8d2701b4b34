package ledger

import (
	"encoding/binary"
	"math/bits"
)

// table finds the chunk in which an id stands, at 4 bytes for each slot: the
// number of the chunk and 8 bits of the id's hash. The id itself is in the
// chunk, so a slot that looks right is checked there.
type table struct {
	slots   []uint32
	used    int // ids
	deleted int
}

const (
	emptySlot   = 0
	deletedSlot = 1
	firstNumber = 2 // of a chunk
	numberBits  = 24
	minSlots    = 64
)

func hashOf(id ID) uint64 {
	h := binary.LittleEndian.Uint64(id[:8]) ^ binary.LittleEndian.Uint64(id[8:])*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

func slotOf(hash uint64, number uint32) uint32 { return uint32(hash)<<numberBits | number }

// first returns the slot at which the search for a hash begins, and next the one
// that follows a slot. Tables of any length waste less than powers of two.
func (t *table) first(hash uint64) int {
	high, _ := bits.Mul64(hash, uint64(len(t.slots)))
	return int(high)
}

func (t *table) next(slot int) int {
	if slot++; slot < len(t.slots) {
		return slot
	}
	return 0
}

// find returns the first slot in which id may stand and is says so, given
// the number of its chunk. If two ids of one chunk look alike, the first slot
// is always right for the one, or as right for the other.
func (t *table) find(id ID, is func(number uint32) bool) (slot int, ok bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	hash := hashOf(id)
	mark := slotOf(hash, 0)
	for i := t.first(hash); ; i = t.next(i) {
		switch s := t.slots[i]; {
		case s == emptySlot:
			return 0, false
		case s == deletedSlot || s&^(1<<numberBits-1) != mark:
		case is(s & (1<<numberBits - 1)):
			return i, true
		}
	}
}

// fits reports whether there is room for n more ids.
func (t *table) fits(n int) bool { return 5*(t.used+t.deleted+n) <= 4*len(t.slots) }

// add notes that id, which is not in the table, stands in a chunk. There must
// be room.
func (t *table) add(id ID, number uint32) {
	hash := hashOf(id)
	i := t.first(hash)
	for t.slots[i] > deletedSlot {
		i = t.next(i)
	}
	if t.slots[i] == deletedSlot {
		t.deleted--
	}
	t.slots[i] = slotOf(hash, number)
	t.used++
}

func (t *table) remove(slot int) {
	t.slots[slot] = deletedSlot
	t.used--
	t.deleted++
}

// reset empties the table and makes room for n ids and some more.
func (t *table) reset(n int) {
	*t = table{slots: make([]uint32, max(minSlots, 5*n/3))}
}
