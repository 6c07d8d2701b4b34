package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"opper_exporter/collector/ledger"
)

// memory measures what the ledger keeps of a long list. The plain way keeps
// nothing, and so counts again; a map of the identifiers is the least that one
// would write to change that. The floor is the identifiers alone.
func (b *bench) memory(context.Context) error {
	traces := 1_000_000 / b.scale
	var l *ledger.Ledger
	began := time.Now()
	ledgers := heapOf(func() any { l = filled(traces); l.Committed(); return l })
	took := time.Since(began)
	perTrace := func(bytes uint64) string { return fmt.Sprintf("%.3g", float64(bytes)/float64(traces)) }
	maps := heapOf(func() any {
		ids := map[string]struct{}{}
		for _, id := range l.IDs(0, traces) {
			ids[id.String()] = struct{}{}
		}
		return ids
	})
	runtime.KeepAlive(l)
	b.table(fmt.Sprintf("Bytes of memory for each of %d listed traces", traces),
		[]string{"", "identifiers alone", "a map of them", "ours", "goal", "time to fill ours"},
		[][]string{{"ledger", "16", perTrace(maps), perTrace(ledgers), "32", short(took)}})
	return nil
}

// heapOf returns what remains on the heap of what f makes.
func heapOf(f func() any) uint64 {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold is let go by the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	made := f()
	after := heap()
	runtime.KeepAlive(made)
	return after - min(before, after)
}

// filled returns a ledger after an initial sync over ended traces.
func filled(traces int) *ledger.Ledger {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	rng := rand.New(rand.NewPCG(1, 2))
	l := ledger.New(ledger.Config{SettleDelay: time.Second, AbandonAfter: time.Hour})
	var last []ledger.Row
	var ev ledger.Events
	for at := 0; at < traces; at += pageSize {
		rows := newRows(rng, min(pageSize, traces-at), now)
		l.Observe(ledger.Run{
			Rows: append(last, rows...), AtStart: at == 0, AtEnd: at+pageSize >= traces,
			When: ledger.When{Asked: now, Read: now},
		}, &ev)
		ev.Clear()
		last = rows[len(rows)-1:]
	}
	l.EndInitialSync()
	return l
}

func newRows(rng *rand.Rand, n int, now time.Time) []ledger.Row {
	rows := make([]ledger.Row, n)
	for i := range rows {
		r := &rows[i]
		binary.LittleEndian.PutUint64(r.ID[:8], rng.Uint64())
		binary.LittleEndian.PutUint64(r.ID[8:], rng.Uint64())
		r.Name, r.Status, r.HasStatus = "agent/answer", "success", true
		r.Start, r.End = now.Add(-time.Hour), now.Add(-time.Minute)
		r.Duration, r.HasDuration, r.Tokens, r.HasTokens = time.Minute, true, 1000, true
	}
	return rows
}
