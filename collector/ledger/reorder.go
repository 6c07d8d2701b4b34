package ledger

import (
	"cmp"
	"slices"
	"time"
)

// place makes the order agree with the rows, which are believed to be at
// the indices in at, or nowhere. It reports false if nothing says where in the
// order they belong.
func (l *Ledger) place(rows []Row, at []int, atStart, atEnd bool) bool {
	kept := together(rising(at), at)
	if len(kept) == 0 && !atStart && (!atEnd || l.order.len() > 0) {
		return false
	}
	if len(rows) == 0 {
		// An empty page says something only if it is the whole list.
		if atStart && atEnd {
			l.removeFromOrder(0, l.order.len())
		}
		return true
	}
	inPlace := len(kept) == len(rows)
	for k := 1; k < len(kept) && inPlace; k++ {
		inPlace = at[kept[k]] == at[kept[k-1]]+1
	}
	if !inPlace {
		l.rewrite(rows, at, kept)
	}
	if atStart {
		l.removeFromOrder(0, l.order.index(rows[0].ID))
	}
	if atEnd {
		l.removeFromOrder(l.order.index(rows[len(rows)-1].ID)+1, l.order.len())
	}
	return true
}

// rewrite replaces what was believed to stand from the first to the last of the
// rows that kept their place by the rows as they are.
func (l *Ledger) rewrite(rows []Row, at, kept []int) {
	for i := range rows {
		if at[i] >= 0 && !slices.Contains(kept, i) {
			l.order.drop(rows[i].ID)
		}
	}
	from := 0
	if len(kept) > 0 {
		from = l.order.index(rows[kept[0]].ID)
		to := l.order.index(rows[kept[len(kept)-1]].ID) + 1
		between := l.order.slice(from, to)
		l.order.remove(from, to)
		if len(between) > len(kept) {
			onPage := make(map[ID]struct{}, len(rows))
			for _, r := range rows {
				onPage[r.ID] = struct{}{}
			}
			for _, id := range between {
				if _, ok := onPage[id]; !ok {
					l.removedFromOrder(id)
				}
			}
		}
	}
	ids := make([]ID, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
		l.delisted.drop(ids[i])
	}
	l.order.insert(from, ids)
}

// removeFromOrder takes the ids from index i up to j out of the order.
func (l *Ledger) removeFromOrder(i, j int) {
	if i >= j {
		return
	}
	ids := l.order.slice(i, j)
	l.order.remove(i, j)
	for _, id := range ids {
		l.removedFromOrder(id)
	}
}

func (l *Ledger) removedFromOrder(id ID) {
	switch p := l.pending.get(id); {
	case id.IsUnreadable():
	case p != nil:
		p.OutOfPlace, p.Seen = true, time.Time{}
		l.put(p)
	default:
		l.delisted.push(id)
	}
}

// Up to maxStray rows at the end of a page which are believed to stand farOff the others
// have rather been moved, by an update, than all between them been delisted. If they have
// not, the next page shows it: it begins with some of them.
const (
	maxStray = 2
	farOff   = 10
)

// together returns the positions in kept without those at the end of which the values in
// at are far from the others.
func together(kept, at []int) []int {
	for k := len(kept) - 1; k > maxStray && k >= len(kept)-maxStray; k-- {
		if at[kept[k]]-at[kept[k-1]] > farOff {
			kept = kept[:k]
		}
	}
	return kept
}

// rising returns the positions in at of a longest rising run of the values that
// are not negative: the rows that kept their order among themselves.
func rising(at []int) []int {
	var tails []int // positions; tails[k] ends the best run of length k+1
	before := make([]int, len(at))
	for i, v := range at {
		if v < 0 {
			continue
		}
		k, _ := slices.BinarySearchFunc(tails, v, func(pos, v int) int { return cmp.Compare(at[pos], v) })
		before[i] = -1
		if k > 0 {
			before[i] = tails[k-1]
		}
		if k == len(tails) {
			tails = append(tails, i)
		} else {
			tails[k] = i
		}
	}
	if len(tails) == 0 {
		return nil
	}
	out := make([]int, len(tails))
	for k, i := len(tails)-1, tails[len(tails)-1]; k >= 0; k, i = k-1, before[i] {
		out[k] = i
	}
	return out
}
