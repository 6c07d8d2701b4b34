package aggregate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/codec"
	"opper_exporter/collector/ledger"
)

// initialList calls page with the traces of a list of many names, of which a few
// stand out but appear late and far apart.
func initialList(names int, page func(ev ledger.Events)) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range names {
		rows := []ledger.Row{row(fmt.Sprintf("once-%06d", rng.IntN(1<<40)))}
		if i > names/2 && i%20 == 0 {
			rows = append(rows, row(fmt.Sprintf("late-%02d", rng.IntN(60))))
		}
		for j := range rows {
			r := &rows[j]
			r.ID = ledger.KeyOf(fmt.Sprint("list", i, j))
			r.Start = now.Add(-time.Duration(i+1) * time.Second)
			r.End = r.Start.Add(time.Duration(rng.IntN(1e6)) * time.Microsecond)
			r.Tokens, r.HasTokens = rng.Int64N(10_000), rng.IntN(8) > 0
			r.Duration, r.HasDuration = time.Duration(rng.IntN(1e7)-1e5)*time.Microsecond, rng.IntN(8) > 0
			r.Status = []string{"success", "error", "?"}[rng.IntN(3)]
		}
		ev := ledger.Events{FirstSeen: rows}
		for _, r := range rows {
			if rng.IntN(10) > 0 { // the others are open
				ev.Counted = append(ev.Counted, ledger.Counted{Row: r, Abandoned: rng.IntN(10) == 0})
			}
		}
		page(ev)
	}
}

// However many names there are, those with most traces get the places, each with
// exactly its traces, and the overflow has the rest; so it is if the initial
// sync is interrupted.
func TestInitialSyncOfManyNames(t *testing.T) {
	cfg := testConfig()
	cfg.MaxNames = 40
	t.Run("all", func(t *testing.T) { testManyNames(t, cfg) })
	cfg.Partial = true
	t.Run("some", func(t *testing.T) { testManyNames(t, cfg) })
}

func testManyNames(t *testing.T, cfg Config) {
	t.Helper()
	unlimited := cfg
	unlimited.MaxNames = 1 << 30
	s, all := New(cfg, now), New(unlimited, now)
	stored := map[string][]byte{}
	restart := func() {
		var err error
		if s, err = Restore(cfg, stored); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	initialList(3*maxInitialNames, func(ev ledger.Events) {
		s.Apply(ev, now, now)
		all.Apply(ev, now, now)
		if pages++; pages%700 == 0 {
			save(s, stored)
			restart()
		}
	})
	s.EndInitialSync(now)
	save(s, stored)
	for key := range stored {
		if strings.HasPrefix(key, keyDeferred) {
			t.Errorf("%s is left of the deferred traces", key)
		}
	}
	restart()

	all.EndInitialSync(now)
	ranked := slices.SortedFunc(slices.Values(all.All()), func(a, b *Aggregate) int {
		return cmp.Or(cmp.Compare(b.seen, a.seen), cmp.Compare(a.Label, b.Label))
	})
	other, overflow := &Aggregate{Label: Other, Created: now}, uint64(0)
	for _, n := range ranked[cfg.MaxNames:] {
		other.merge(n)
		for _, totals := range n.ByOutcome {
			overflow += totals.Traces
		}
	}
	equal(t, s.Overflow, overflow)
	want := map[string]*Aggregate{Other: other}
	for _, n := range ranked[:cfg.MaxNames] {
		want[n.Label] = n
	}
	if len(s.names) != len(want) || !reflect.DeepEqual(s.unmapped, all.unmapped) || s.NoDuration != all.NoDuration || s.BadDuration != all.BadDuration || s.Distinct() != all.Distinct() {
		t.Errorf("%d names, %d of them distinct: want %d, %v", len(s.names), int(s.Distinct()), len(want), all.Distinct())
	}
	for label, n := range want {
		got := s.names[label]
		if got == nil {
			t.Errorf("%q has no place", label)
			continue
		}
		if d := n.Created.Sub(got.Created); d < 0 || d >= time.Second {
			t.Errorf("%q was created at %v, want %v", label, got.Created, n.Created)
		}
		a, b := plain(got), plain(n)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", label, a, b)
		}
	}
}

// plain returns an aggregate without what says how it came about.
func plain(n *Aggregate) Aggregate {
	c := Aggregate{Label: n.Label}
	if err := codec.Decode(codec.Encode(n.code), c.code); err != nil {
		panic(err)
	}
	c.Created, c.seen, c.raws = time.Time{}, 0, nil
	c.latest, c.latestAt = ledger.ID{}, time.Time{} // of a deferred trace that was abandoned, the start is not kept
	return c
}

// What an initial sync holds of a name does not grow with what its aggregate takes, nor
// with its length.
func TestInitialSyncMemory(t *testing.T) {
	const names = 50_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := New(testConfig(), now)
	for i := range names {
		s.Apply(counted(row(fmt.Sprintf("%0*d", maxLabel, i))), now, now)
		if i%(names/5) == 0 {
			s.Changes(func(string, []byte) {})
			s.Committed()
		}
	}
	perName := (heap() - before) / names
	s.EndInitialSync(now)
	left := heap() - before
	runtime.KeepAlive(s)
	if perName > 256 || left > 8<<20 {
		t.Errorf("%d bytes for each name during the initial sync, %d bytes in all after it", perName, left)
	}
}
