package ledger

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// million returns the pages of a list of a million ended traces.
func million(now time.Time) [][]Row {
	rng := rand.New(rand.NewPCG(1, 2))
	var pages [][]Row
	for range 10_000 {
		page := make([]Row, 100)
		for i := range page {
			r := &page[i]
			binary.LittleEndian.PutUint64(r.ID[:8], rng.Uint64())
			binary.LittleEndian.PutUint64(r.ID[8:], rng.Uint64())
			r.Start, r.End = now.Add(-time.Hour), now.Add(-time.Minute)
		}
		pages = append(pages, page)
	}
	return pages
}

func read(l *Ledger, pages [][]Row, now time.Time) {
	for i, page := range pages {
		rows := page
		if i > 0 {
			rows = append([]Row{pages[i-1][99]}, page...)
		}
		l.Observe(Run{Rows: rows, AtStart: i == 0, AtEnd: i == len(pages)-1, When: When{now, now}})
	}
}

// What a million listed traces take in memory, and the first walk over them.
func BenchmarkMillion(b *testing.B) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	pages := million(now)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var l *Ledger
	for b.Loop() {
		l = New(Config{Settle: time.Second, Abandon: time.Hour})
		read(l, pages, now)
		l.Saved()
	}
	b.ReportMetric(float64(heap()-before)/float64(l.Listed()), "B/trace")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/million")
	runtime.KeepAlive(pages)
}

// An idle sync: a head and a tail that are where they were.
func BenchmarkIdle(b *testing.B) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	pages := million(now)
	l := New(Config{Settle: time.Second, Abandon: time.Hour})
	read(l, pages, now)
	l.EndBaseline()
	for b.Loop() {
		l.Observe(Run{Rows: pages[0], AtStart: true, When: When{now, now}})
		l.Observe(Run{Rows: pages[len(pages)-1][90:], AtEnd: true, When: When{now, now}})
	}
}
