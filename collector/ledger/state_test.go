package ledger

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// apply does to a full state what a store does with changes.
func apply(full *State, ch State) {
	merge := func(chunks []Chunk, changed []Chunk) []Chunk {
		m := map[uint64]Chunk{}
		for _, c := range chunks {
			m[c.Key] = c
		}
		for _, c := range changed {
			c.IDs = slices.Clone(c.IDs)
			m[c.Key] = c
			if len(c.IDs) == 0 {
				delete(m, c.Key)
			}
		}
		out := make([]Chunk, 0, len(m))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			out = append(out, m[key])
		}
		return out
	}
	full.Listed, full.Delisted = merge(full.Listed, ch.Listed), merge(full.Delisted, ch.Delisted)
	for id, p := range ch.Pending {
		if p == nil {
			delete(full.Pending, id)
		} else {
			stored := *p
			full.Pending[id] = &stored
		}
	}
	for id, ok := range ch.Abandoned {
		full.Abandoned[id] = true
		if !ok {
			delete(full.Abandoned, id)
		}
	}
	full.Unreadable, full.InitialSync = ch.Unreadable, ch.InitialSync
}

// A ledger that is saved and restored after any step goes on as if nothing had
// happened, though only what has changed is saved.
func TestRestoreAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	cfg := Config{SettleDelay: 30 * time.Second, AbandonAfter: time.Hour, RecheckInterval: time.Second}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := New(cfg)
	stored := State{Pending: map[ID]*Pending{}, Abandoned: map[ID]bool{}}
	var list []Row
	next, counted := 0, map[ID]int{}
	for step := range 600 {
		now = now.Add(time.Duration(rng.IntN(60)) * time.Second)
		for range rng.IntN(12) {
			next++
			r := Row{ID: num(next), Name: "n", Start: now}
			if rng.IntN(3) > 0 {
				r.End = now
			}
			list = slices.Insert(list, rng.IntN(min(len(list), 3)+1), r)
		}
		for range rng.IntN(4) {
			if i := rng.IntN(len(list) + 1); i < len(list) {
				if list[i].End.IsZero() {
					list[i].End = now
				} else {
					list = slices.Delete(list, i, i+1)
				}
			}
		}
		list = list[:min(len(list), 700)]
		i := rng.IntN(len(list) + 1)
		j := min(len(list), i+100)
		if rng.IntN(3) == 0 {
			i = 0
		}
		var ev Events
		l.Observe(Run{Rows: list[i:j], AtStart: i == 0, AtEnd: j == len(list), When: When{now, now}}, &ev)
		if step == 100 {
			l.EndInitialSync()
		}
		if rng.IntN(50) == 0 {
			l.EndFullScan(now)
		}
		for _, d := range l.Due(now) {
			if d.Index < 0 {
				l.Delist(d.ID, &ev)
			}
		}
		for _, c := range ev.Counted {
			counted[c.ID]++
			if counted[c.ID] > 1 {
				t.Fatalf("step %d: %s counted again", step, c.ID)
			}
		}
		if rng.IntN(3) == 0 { // else the changes add up
			apply(&stored, l.Changes())
			l.Committed()
		}
		if rng.IntN(5) > 0 {
			continue
		}
		apply(&stored, l.Changes())
		l.Committed()
		before := l
		l = Restore(cfg, stored, now)
		if !slices.Equal(l.IDs(0, l.Listed()), before.IDs(0, before.Listed())) || l.delisted.len() != before.delisted.len() || l.pending.table.used != before.pending.table.used || len(l.abandoned) != len(before.abandoned) {
			t.Fatalf("step %d: restored %d listed, %d gone, %d pending, %d abandoned; want %d, %d, %d, %d", step,
				l.Listed(), l.delisted.len(), l.pending.table.used, len(l.abandoned), before.Listed(), before.delisted.len(), before.pending.table.used, len(before.abandoned))
		}
		for _, id := range before.delisted.slice(0, before.delisted.len()) {
			if !l.delisted.has(id) {
				t.Fatalf("step %d: %s is not known to be gone", step, id)
			}
		}
	}
	if len(counted) < 500 {
		t.Fatalf("only %d counted", len(counted))
	}
}
