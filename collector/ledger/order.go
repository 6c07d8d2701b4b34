package ledger

import "slices"

// chunkSize bounds how many ids move when one is put between two others.
const chunkSize = 512

// order is the list as it is believed to stand, first row first. Any id is in
// it at most once. It is cut into chunks, so that a change at either end or in
// the middle touches a few kilobytes, however long the list is.
type order struct {
	chunks []*chunk
	where  map[ID]*chunk
}

type chunk struct {
	ids []ID
	at  int // its place in order.chunks
}

func newOrder() *order {
	return &order{where: map[ID]*chunk{}}
}

func (o *order) len() int { return len(o.where) }

func (o *order) has(id ID) bool {
	_, ok := o.where[id]
	return ok
}

// index returns how many ids stand before id, or -1.
func (o *order) index(id ID) int {
	c, ok := o.where[id]
	if !ok {
		return -1
	}
	n := slices.Index(c.ids, id)
	for _, before := range o.chunks[:c.at] {
		n += len(before.ids)
	}
	return n
}

// locate returns the chunk that holds index i and i's place in it; for the
// index just past the end, the last chunk.
func (o *order) locate(i int) (*chunk, int) {
	for _, c := range o.chunks {
		if i < len(c.ids) || (i == len(c.ids) && c.at == len(o.chunks)-1) {
			return c, i
		}
		i -= len(c.ids)
	}
	return nil, 0
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
	for len(ids) > 0 {
		c, at := o.locate(i)
		if c == nil {
			c = o.addChunk(0, nil)
		}
		if len(c.ids) == chunkSize {
			c, at = o.makeRoom(c, at)
		}
		n := min(len(ids), chunkSize-len(c.ids))
		c.ids = slices.Insert(c.ids, at, ids[:n]...)
		for _, id := range ids[:n] {
			o.where[id] = c
		}
		ids, i = ids[n:], i+n
	}
}

// makeRoom returns where to insert what should come before place at of the
// full chunk c. At either end c stays whole, so that a list that grows at one
// end fills its chunks.
func (o *order) makeRoom(c *chunk, at int) (*chunk, int) {
	switch at {
	case 0:
		return o.addChunk(c.at, nil), 0
	case len(c.ids):
		return o.addChunk(c.at+1, nil), 0
	}
	cut := len(c.ids) / 2
	rest := o.addChunk(c.at+1, slices.Clone(c.ids[cut:]))
	c.ids = c.ids[:cut]
	if at > cut {
		return rest, at - cut
	}
	return c, at
}

func (o *order) addChunk(at int, ids []ID) *chunk {
	c := &chunk{ids: ids}
	for _, id := range ids {
		o.where[id] = c
	}
	o.chunks = slices.Insert(o.chunks, at, c)
	o.renumber(at)
	return c
}

// remove takes out the ids from index i up to, not including, j.
func (o *order) remove(i, j int) {
	for i < j {
		c, at := o.locate(i)
		n := min(j-i, len(c.ids)-at)
		for _, id := range c.ids[at : at+n] {
			delete(o.where, id)
		}
		c.ids = slices.Delete(c.ids, at, at+n)
		j -= n
		if len(c.ids) == 0 {
			o.chunks = slices.Delete(o.chunks, c.at, c.at+1)
			o.renumber(c.at)
		}
	}
}

func (o *order) renumber(from int) {
	for i := from; i < len(o.chunks); i++ {
		o.chunks[i].at = i
	}
}
