package ledger

import "encoding/binary"

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

func slotOf(hash uint64, number uint32) uint32 { return uint32(hash>>56)<<numberBits | number }

// find returns the first slot in which id may stand and is says so, given
// the number of its chunk. If two ids of one chunk look alike, the first slot
// is always right for the one, or as right for the other.
func (t *table) find(id ID, is func(number uint32) bool) (slot int, ok bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	hash, mask := hashOf(id), len(t.slots)-1
	mark := slotOf(hash, 0)
	for i := int(hash) & mask; ; i = (i + 1) & mask {
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
	hash, mask := hashOf(id), len(t.slots)-1
	i := int(hash) & mask
	for t.slots[i] > deletedSlot {
		i = (i + 1) & mask
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
	size := minSlots
	for 5*n > 3*size {
		size *= 2
	}
	*t = table{slots: make([]uint32, size)}
}
