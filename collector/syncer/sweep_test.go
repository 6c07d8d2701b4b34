package syncer

import (
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// A sweep gets past a row that can't be read, however little of a page is left
// before it.
func TestSweepPassesUnreadable(t *testing.T) {
	b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
	rows := b.fill(200)
	b.mustSync()
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[13].ID, Times: -1})
	b.step(sweepEvery)
	b.mustSync()
	for range 10 {
		b.sweep(1)
	}
	if b.syncer.IsSweepDue() {
		t.Errorf("the sweep still goes on\n%s", b.log.String())
	}
}

// A sweep reads what it is said to read.
func TestSweepReads(t *testing.T) {
	for _, n := range []int{30, 99, 100, 101, 190, 280, 1000} {
		b := newBench(t, oppertest.Config{})
		b.fill(n)
		b.mustSync()
		b.step(sweepEvery)
		b.mustSync()
		var pages, rows int
		for b.syncer.IsSweepDue() {
			ev, err := b.syncer.Sweep(t.Context(), countedRows{b.client, &pages, &rows})
			if err != nil {
				t.Fatal(err)
			}
			b.take(ev)
		}
		if p, r := SweepReads(n); pages != p || rows != r {
			t.Errorf("a sweep of %d reads %d pages and %d rows, want %d and %d", n, pages, rows, p, r)
		}
	}
}

// Rows at the start that can't be read are one gap, however often they are read.
func TestUnreadableStart(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	for _, row := range b.fill(200)[:3] {
		b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row.ID, Times: -1})
	}
	for range 5 {
		b.mustSync()
		b.step(sweepEvery / 2)
		b.sweep(10)
	}
	if b.events.Gaps != 1 || b.ledger.Listed() != 200 {
		t.Errorf("%d gaps, %d are listed", b.events.Gaps, b.ledger.Listed())
	}
}

// Where nothing more is wrong with a row, or another one stands in its place, a
// full scan finds out, also in a list that each sync reads to its end.
func TestUnreadableRowIsReplaced(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	rows := b.fill(20)
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[0].ID, Times: -1})
	b.mustSync()
	b.opper.Delete(rows[0].ID)
	b.opper.Add(endedTrace("in its place", b.now()))
	for range 3 {
		b.step(sweepEvery / 2)
		b.mustSync()
		b.sweep(10)
	}
	b.step(settle)
	b.mustSync()
	if got := len(b.counted); got != 20 {
		t.Errorf("%d are counted, want 19 and the one that came later\n%s", got, b.log.String())
	}
}

// A row that moves to the end while pages are read does not make them look as if
// nothing was stepped over.
func TestMovedRowTiesNothing(t *testing.T) {
	b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate, OldestFirst: true})
	rows := b.fill(290)
	b.opper.OnRequest(func(r oppertest.Request) {
		if r.N == 3 {
			for _, row := range rows[150:153] {
				b.opper.Update(row.ID, func(tr *oppertest.Trace) { tr.Name = new("another") })
			}
		}
	})
	b.mustSync()
	if got := b.ledger.Listed(); got != 290 {
		t.Errorf("%d are listed", got)
	}
}

// An initial sync whose last rows are delisted before it goes on begins again.
func TestInitialSyncBeginsAgain(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	rows := b.fill(2000)
	b.opper.Fail(oppertest.Fault{Answer: oppertest.TooMany(""), After: 15})
	if err := b.sync(); err == nil {
		t.Fatal("no error")
	}
	for _, row := range rows[150:1900] {
		b.opper.Delete(row.ID)
	}
	b.step(settle)
	b.mustSync()
	if got := b.ledger.Listed(); got != 250 {
		t.Errorf("%d are listed", got)
	}
	b.check()
}

// Rows that are deleted before a small page, more of them than it holds, do not keep a
// sweep from what follows.
func TestDeletionsBeforeSmallPages(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(2000)
	b.mustSync()
	b.quiet()
	b.step(sweepEvery)
	b.mustSync()
	src := &wrongLists{inner: b.client, list: func(n, offset, limit int) opper.Page {
		if rows := b.opper.Snapshot(); offset > 1500 && len(rows) == 2000 {
			for _, row := range rows[1000:1060] {
				b.opper.Delete(row.ID)
			}
		}
		traces, total, _ := b.opper.List(offset, min(limit, 16))
		return pageOf(traces, *total, true)
	}}
	for n := 0; n < 1000 && b.syncer.IsSweepDue(); n++ {
		if _, err := b.syncer.Sweep(t.Context(), src); err != nil {
			t.Fatal(err)
		}
	}
	if b.syncer.IsSweepDue() || strings.Contains(b.log.String(), "aborted") {
		t.Errorf("the sweep did not end: %s", b.log.String())
	}
}

// A trace that comes back behind what a sweep has read is not forgotten, and not counted
// again, if a sync completes the sweep much later.
func TestTraceComesBackDuringSweep(t *testing.T) {
	b := newBench(t, oppertest.Config{SortBy: oppertest.ByStart})
	rows := b.fill(300)
	b.mustSync()
	b.opper.Delete(rows[150].ID)
	b.step(sweepEvery)
	b.quiet()
	b.step(23 * time.Hour)
	b.sweep(10)
	if b.syncer.known.Sweep == nil || !b.syncer.known.Sweep.Done {
		t.Fatal("no sweep waits for a sync")
	}
	b.opper.Add(rows[150])
	b.step(2 * time.Hour)
	b.mustSync()
	b.step(sweepEvery)
	b.quiet()
	b.check()
}
