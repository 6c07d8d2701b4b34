package ledger

import (
	"math"
	"slices"
	"time"
)

// chunkSize bounds how many ids are written again when one of them changes. Two
// chunks of 16 bytes an id fit on a page of 4 KiB.
const chunkSize = 120

// order is a list of ids, any of them in it at most once. It is cut into
// chunks, so that a change at either end or in the middle touches a few
// kilobytes in memory and on disk, however long the list is.
type order struct {
	chunks []*chunk
	table  table
	byNum  []*chunk // by their numbers in the table; nil if free
	free   []uint32

	starts []int // starts[i] is how many ids stand before chunk i, as far as it is known
	dirty  map[uint64]struct{}
}

type chunk struct {
	ids    []ID
	at     int       // its place in order.chunks
	number uint32    // in the table
	key    uint64    // rises along the list, and is kept while the chunk lives
	missed time.Time // of delisted ids: when a full scan first missed them
}

func newOrder() *order {
	o := &order{byNum: make([]*chunk, firstNumber), starts: []int{0}, dirty: map[uint64]struct{}{}}
	o.table.reset(0)
	return o
}

func (o *order) len() int { return o.table.used }

func (o *order) find(id ID) (c *chunk, slot int) {
	slot, ok := o.table.find(id, func(number uint32) bool {
		c = o.byNum[number]
		return slices.Contains(c.ids, id)
	})
	if !ok {
		return nil, 0
	}
	return c, slot
}

func (o *order) has(id ID) bool {
	c, _ := o.find(id)
	return c != nil
}

// index returns how many ids stand before id, or -1.
func (o *order) index(id ID) int {
	c, _ := o.find(id)
	if c == nil {
		return -1
	}
	return o.start(c.at) + slices.Index(c.ids, id)
}

// start returns how many ids stand before chunk at.
func (o *order) start(at int) int {
	for i := len(o.starts); i <= at; i++ {
		o.starts = append(o.starts, o.starts[i-1]+len(o.chunks[i-1].ids))
	}
	return o.starts[at]
}

// touch notes that the ids of a chunk have changed.
func (o *order) touch(c *chunk) {
	o.dirty[c.key] = struct{}{}
	o.starts = o.starts[:min(len(o.starts), c.at+1)]
}

// locate returns the chunk that holds index i and i's place in it; for the
// index just past the end, the last chunk.
func (o *order) locate(i int) (*chunk, int) {
	if len(o.chunks) == 0 {
		return nil, 0
	}
	o.start(len(o.chunks) - 1)
	at, exact := slices.BinarySearch(o.starts, i)
	if !exact {
		at--
	}
	return o.chunks[at], i - o.starts[at]
}

// slice returns a copy of the ids from index i up to, not including, j.
func (o *order) slice(i, j int) []ID {
	out := make([]ID, 0, max(j-i, 0))
	c, at := o.locate(i)
	for c != nil && len(out) < j-i {
		take := min(len(c.ids)-at, j-i-len(out))
		out = append(out, c.ids[at:at+take]...)
		at = 0
		if c.at+1 == len(o.chunks) {
			break
		}
		c = o.chunks[c.at+1]
	}
	return out
}

// insert puts ids, none of which is in the order, before index i.
func (o *order) insert(i int, ids []ID) {
	o.reserve(len(ids))
	for len(ids) > 0 {
		c, at := o.locate(i)
		if c == nil {
			c = o.addChunk(0)
		}
		if at == 0 && c.at > 0 && len(o.chunks[c.at-1].ids) < chunkSize {
			c = o.chunks[c.at-1]
			at = len(c.ids)
		}
		if len(c.ids) == chunkSize {
			c, at = o.makeRoom(c, at, len(ids))
		}
		n := min(len(ids), chunkSize-len(c.ids))
		c.ids = slices.Grow(c.ids, chunkSize-len(c.ids))
		c.ids = slices.Insert(c.ids, at, ids[:n]...)
		for _, id := range ids[:n] {
			o.table.add(id, c.number)
		}
		o.touch(c)
		ids, i = ids[n:], i+n
	}
}

// push puts an id at the end, in a chunk of ids that no full scan has missed yet.
func (o *order) push(id ID) {
	o.reserve(1)
	var c *chunk
	if n := len(o.chunks); n > 0 {
		c = o.chunks[n-1]
	}
	if c == nil || len(c.ids) == chunkSize || !c.missed.IsZero() {
		c = o.addChunk(len(o.chunks))
	}
	c.ids = append(slices.Grow(c.ids, chunkSize-len(c.ids)), id)
	o.table.add(id, c.number)
	o.touch(c)
}

// drop takes out one id, if it is there.
func (o *order) drop(id ID) {
	if i := o.index(id); i >= 0 {
		o.remove(i, i+1)
	}
}

// reserve makes room in the table for n more ids.
func (o *order) reserve(n int) {
	if o.table.fits(n) {
		return
	}
	o.table.reset(o.table.used + n)
	for _, c := range o.chunks {
		for _, id := range c.ids {
			o.table.add(id, c.number)
		}
	}
}

// makeRoom returns where to insert n ids that should come before place at of the
// full chunk c. At either end c stays whole, so that a list that grows at one
// end fills its chunks. Many ids cut it where they come, so that a burst fills chunks
// of its own.
func (o *order) makeRoom(c *chunk, at, n int) (*chunk, int) {
	switch at {
	case 0:
		return o.addChunk(c.at), 0
	case len(c.ids):
		return o.addChunk(c.at + 1), 0
	}
	cut := len(c.ids) / 2
	if n > chunkSize/8 {
		cut = at
	}
	rest := o.addChunk(c.at + 1)
	for _, id := range c.ids[cut:] {
		_, slot := o.find(id)
		o.table.slots[slot] = slotOf(hashOf(id), rest.number)
	}
	rest.ids = slices.Clone(c.ids[cut:])
	c.ids = c.ids[:cut]
	o.touch(c)
	o.touch(rest)
	if at > cut {
		return rest, at - cut
	}
	return c, at
}

// remove takes out the ids from index i up to, not including, j.
func (o *order) remove(i, j int) {
	for i < j {
		c, at := o.locate(i)
		n := min(j-i, len(c.ids)-at)
		for _, id := range c.ids[at : at+n] {
			_, slot := o.find(id)
			o.table.remove(slot)
		}
		c.ids = slices.Delete(c.ids, at, at+n)
		o.touch(c)
		j -= n
		if len(c.ids) == 0 {
			o.dropChunk(c)
		}
	}
}

// addChunk puts an empty chunk in place at.
func (o *order) addChunk(at int) *chunk {
	c := &chunk{key: o.keyFor(at)}
	if n := len(o.free); n > 0 {
		c.number, o.free = o.free[n-1], o.free[:n-1]
		o.byNum[c.number] = c
	} else {
		c.number = uint32(len(o.byNum))
		o.byNum = append(o.byNum, c)
	}
	o.chunks = slices.Insert(o.chunks, at, c)
	o.renumber(at)
	return c
}

func (o *order) dropChunk(c *chunk) {
	o.dirty[c.key] = struct{}{}
	o.byNum[c.number] = nil
	o.free = append(o.free, c.number)
	o.chunks = slices.Delete(o.chunks, c.at, c.at+1)
	o.renumber(c.at)
}

func (o *order) renumber(from int) {
	for i := from; i < len(o.chunks); i++ {
		o.chunks[i].at = i
	}
	o.starts = o.starts[:min(len(o.starts), max(from, 1))]
}

const (
	// keyGap is between the keys of two chunks that follow each other at an end. A list
	// has room for 10¹⁰ ids at each, over all of its time.
	keyGap = 1 << 36
	// keyStep is between those of two that follow each other elsewhere, if there is room:
	// a burst is read, and put between two chunks, from its start to its end.
	keyStep = 1 << 20
)

// keyFor returns a key for a chunk that comes to stand in place at.
func (o *order) keyFor(at int) uint64 {
	switch {
	case len(o.chunks) == 0:
		return math.MaxUint64 / 2
	case at == 0:
		return o.chunks[0].key - keyGap
	case at == len(o.chunks):
		return o.chunks[at-1].key + keyGap
	}
	before, after := o.chunks[at-1].key, o.chunks[at].key
	if after-before < 2 {
		o.rekey()
		before, after = o.chunks[at-1].key, o.chunks[at].key
	}
	return before + min((after-before)/2, keyStep)
}

// rekey spreads the keys evenly: where chunks were put between the same two
// again and again, there is no key left.
func (o *order) rekey() {
	for _, c := range o.chunks {
		o.dirty[c.key] = struct{}{}
	}
	key := uint64(math.MaxUint64/2) - keyGap*uint64(len(o.chunks)/2)
	for _, c := range o.chunks {
		c.key = key
		o.dirty[key] = struct{}{}
		key += keyGap
	}
}
