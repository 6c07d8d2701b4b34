package ledger

import (
	"encoding/binary"
	"slices"
)

// IsUnreadable reports whether an id stands for a row that could not be read.
func (id ID) IsUnreadable() bool { return [8]byte(id[:8]) == unreadableSpace }

// The ids of unreadable rows are numbers in a space that neither UUIDs nor hashes
// reach by accident.
var unreadableSpace = [8]byte{0xff, 0xff, 0xff, 0xff, 'n', 'o', 'n', 'e'}

// identifyUnreadable gives unreadable rows their ids: those that are believed to stand
// between the same neighbours, that of the unreadable one beside the same neighbour, or
// a new one. It returns how many stretches of new ones there are.
func (l *Ledger) identifyUnreadable(rows []Row) (stretches uint64) {
	if !slices.ContainsFunc(rows, func(r Row) bool { return r.Kind == Unreadable }) {
		return 0
	}
	taken := l.identifyBetween(rows)
	match := func(i, neighbour, step int) {
		if rows[i].Kind != Unreadable || rows[i].ID != (ID{}) {
			return
		}
		if id, ok := l.unreadableAt(rows[neighbour].ID, step); ok && !taken[id] {
			rows[i].ID, taken[id] = id, true
		}
	}
	for i := 1; i < len(rows); i++ {
		match(i, i-1, +1)
	}
	for i := len(rows) - 2; i >= 0; i-- {
		match(i, i+1, -1)
	}
	for i := range rows {
		if rows[i].Kind != Unreadable || rows[i].ID != (ID{}) {
			continue
		}
		l.unreadable++
		copy(rows[i].ID[:8], unreadableSpace[:])
		binary.BigEndian.PutUint64(rows[i].ID[8:], l.unreadable)
		if i == 0 || rows[i-1].Kind != Unreadable {
			stretches++
		}
	}
	return stretches
}

// identifyBetween takes unreadable rows for those that are believed to stand between the
// same neighbours, if these are as many and have not moved, and returns their ids.
func (l *Ledger) identifyBetween(rows []Row) (taken map[ID]bool) {
	taken = map[ID]bool{}
	listed := map[ID]bool{}
	for _, r := range rows {
		listed[r.ID] = true
	}
	last := 0 // readable row
	for i := range rows {
		if rows[i].Kind == Unreadable {
			continue
		}
		from, to := l.order.index(rows[last].ID)+1, l.order.index(rows[i].ID)
		if n := i - last - 1; n > 0 && from > 0 && to-from == n {
			ids := l.order.slice(from, to)
			if !slices.ContainsFunc(ids, func(id ID) bool { return listed[id] }) {
				for k, id := range ids {
					rows[last+1+k].ID, taken[id] = id, true
				}
			}
		}
		last = i
	}
	return taken
}

// unreadableAt returns the unreadable row believed to stand next to id.
func (l *Ledger) unreadableAt(id ID, step int) (ID, bool) {
	i := l.order.index(id)
	if i < 0 || i+step < 0 || i+step >= l.order.len() {
		return ID{}, false
	}
	next := l.order.slice(i+step, i+step+1)[0]
	return next, next.IsUnreadable()
}

// NextUnreadable returns the first index from i on, looking at n places, at which an
// unreadable row is believed to stand, or -1.
func (l *Ledger) NextUnreadable(i, n int) int {
	if l.unreadable == 0 {
		return -1
	}
	j := i + n
	i = max(i, 0)
	for k, id := range l.IDs(i, j) {
		if id.IsUnreadable() {
			return i + k
		}
	}
	return -1
}

// HasUnreadable reports whether there has been an unreadable row.
func (l *Ledger) HasUnreadable() bool { return l.unreadable > 0 }

// Unreadable returns the indexes of the listed rows that could not be read, and
// for each stretch of them how many there are.
func (l *Ledger) Unreadable() (stretches []Stretch) {
	if l.unreadable == 0 {
		return nil
	}
	i := 0
	for _, c := range l.order.chunks {
		for _, id := range c.ids {
			switch n := len(stretches); {
			case !id.IsUnreadable():
			case n > 0 && stretches[n-1].Index+stretches[n-1].Rows == i:
				stretches[n-1].Rows++
			default:
				stretches = append(stretches, Stretch{Index: i, Rows: 1})
			}
			i++
		}
	}
	return stretches
}
