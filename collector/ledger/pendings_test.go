package ledger

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// randomPending returns a pending trace with any of its fields set or not.
func randomPending(rng *rand.Rand, id ID) *Pending {
	some := func() time.Time {
		switch rng.IntN(4) {
		case 0:
			return time.Time{}
		case 1:
			return time.UnixMicro(rng.Int64N(1<<56) - 1<<55).UTC()
		default:
			return time.UnixMicro(1772366400_000000 + rng.Int64N(1e9)).UTC()
		}
	}
	text := func() string {
		return strings.Repeat("x", []int{0, 1, 20, 128, 70_000}[rng.IntN(20)%5%max(1, rng.IntN(6))])
	}
	p := &Pending{
		Row: Row{
			ID: id, Ref: text(), Name: text(), Status: text(), HasStatus: rng.IntN(2) == 0, Start: some(), End: some(),
			Duration: time.Duration(rng.Int64() - rng.Int64()), HasDuration: rng.IntN(2) == 0, Tokens: rng.Int64(), HasTokens: rng.IntN(2) == 0, Kind: Kind(rng.IntN(3)),
		},
		FirstSeen: some(), Since: some(), Ended: some(), EndBy: some(), Seen: some(), OutOfPlace: rng.IntN(2) == 0, number: rng.Uint64(), unstored: rng.IntN(2) == 0,
	}
	return p
}

// Pending traces are what they would be in a map, whatever is done to them.
func TestPendingsLikeMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	ps, want := newPendings(), map[ID]*Pending{}
	for step := range 20_000 {
		id := num(rng.IntN(300 + step/20))
		switch rng.IntN(5) {
		case 0, 1, 2:
			p := randomPending(rng, id)
			if rng.IntN(50) > 0 {
				p.Row.Name, p.Row.Status, p.Row.Ref = "agent", "", ""
			}
			ps.put(p)
			want[id] = p
		default:
			ps.remove(id)
			delete(want, id)
		}
		if got := ps.get(id); !reflect.DeepEqual(got, want[id]) || ps.has(id) != (want[id] != nil) || ps.table.used != len(want) {
			t.Fatalf("step %d: got %+v, want %+v", step, got, want[id])
		}
	}
	all := map[ID]*Pending{}
	ps.all(func(p *Pending) {
		each := *p
		all[p.Row.ID] = &each
	})
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%d are listed, want %d", len(all), len(want))
	}
	clear(want)
	for _, p := range all {
		p.Row.Name, p.Row.Status, p.Row.Ref = "agent", "", ""
		ps.put(p)
		want[p.Row.ID] = p
	}
	if n := testing.AllocsPerRun(10, func() { ps.all(func(*Pending) {}) }); n > 1 {
		t.Errorf("to look at %d takes %v allocations", len(want), n)
	}
	for _, id := range slices.Collect(maps.Keys(want)) {
		ps.remove(id)
	}
	used := 0
	for _, b := range ps.blocks {
		if cap(b) > 0 {
			used++
		}
	}
	if used > 1 || ps.table.used != 0 {
		t.Errorf("%d blocks are left of none", used)
	}
}

// A million running traces fit into the memory that is meant for any list.
func TestMemoryOfRunningTraces(t *testing.T) {
	const running = 50_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := New(Config{SettleDelay: time.Minute, AbandonAfter: time.Hour})
	observeRunning(l, running)
	save(l, map[string][]byte{})
	each := (heap() - before) / running
	runtime.KeepAlive(l)
	if each > 135 {
		t.Errorf("%d bytes for each running trace", each)
	}
}

func observeRunning(l *Ledger, n int) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{ID: KeyOf(fmt.Sprint(i)), Name: fmt.Sprintf("agent-%06d", i), Status: "running", HasStatus: true, Start: now.Add(-time.Duration(i) * time.Millisecond)}
	}
	l.Observe(Run{Rows: rows, AtStart: true, AtEnd: true, When: When{Asked: now, Read: now.Add(time.Second)}}, new(Events))
}
