package syncer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// renew changes a trace, which moves it to the start of a list that is sorted by
// updates.
func (b *bench) renew(id string) {
	b.opper.Update(id, func(tr *oppertest.Trace) { tr.Tokens = new(*tr.Tokens + 1) })
}

// Rows that arrive between two pages of a head move those down that it has just
// read: they are no proof that all rows behind them are known.
func TestArrivalsBetweenSmallHeadPages(t *testing.T) {
	for _, arrivals := range []int{10, 13, 20} {
		t.Run(fmt.Sprint(arrivals), func(t *testing.T) {
			b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate})
			rows := b.fill(200)
			b.mustSync()
			b.quiet()
			b.arrive("new", 60, time.Second)
			b.renew(rows[0].ID)
			b.step(time.Second)
			src := &wrongLists{inner: b.client.WithRetries(0), list: func(n, offset, limit int) opper.Page {
				if n == 2 {
					b.arrive("during", arrivals, time.Millisecond)
				}
				traces, total, _ := b.opper.List(offset, min(limit, 20))
				return pageOf(traces, *total, true)
			}}
			if _, err := syncAll(t.Context(), b.syncer, src); err != nil {
				t.Fatal(err)
			}
			if n := b.ledger.Listed() - 200; n != 60+arrivals {
				t.Errorf("one sync found %d of %d new traces", n, 60+arrivals)
			}
		})
	}
}

// What a head read before it failed does not keep the next one from reading on.
func TestHeadFailsAfterPage(t *testing.T) {
	b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate})
	rows := b.fill(500)
	b.mustSync()
	b.quiet()
	b.arrive("new", 150, time.Millisecond)
	b.renew(rows[0].ID)
	b.step(time.Second)
	b.opper.Fail(oppertest.Fault{After: 1, Times: -1, Answer: oppertest.Errors(500)["plain"]})
	if err := b.sync(); err == nil {
		t.Fatal("no error")
	}
	b.opper.Clear()
	b.step(time.Second)
	b.mustSync()
	if n := b.ledger.Listed() - 500; n != 150 {
		t.Errorf("a sync found %d of 150 new traces", n)
	}
}

// countedRows is a Source that counts the lists that it gives, and their rows.
type countedRows struct {
	Source
	lists, rows *int
}

// List implements Source.
func (s countedRows) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	page, err := s.Source.List(ctx, offset, limit)
	*s.lists++
	*s.rows += len(page.Traces)
	if err != nil {
		return page, fmt.Errorf("counted: %w", err)
	}
	return page, nil
}

// cost syncs, and returns how many lists and rows that took.
func (b *bench) cost() (lists, rows int) {
	b.t.Helper()
	b.step(30 * time.Second)
	ev, err := syncAll(b.t.Context(), b.syncer, countedRows{b.client.WithRetries(0), &lists, &rows})
	if err != nil {
		b.t.Fatal(err)
	}
	b.take(ev)
	return lists, rows
}

// A sync reads no more rows than it takes to see that nothing is new, or that
// little is.
func TestIdleSyncReadsFewRows(t *testing.T) {
	for name, cfg := range lists {
		if cfg.SortBy == oppertest.ByID {
			continue
		}
		for _, listed := range []int{0, 1, 9, 10, 11, 20, 60, 101, 3000} {
			t.Run(fmt.Sprint(name, " ", listed), func(t *testing.T) {
				b := newBench(t, cfg)
				if listed == 60 {
					b.mustSync() // as a project that begins while it is watched
				}
				if listed > 0 {
					b.opper.FillHistory(listed, 7, epoch.Add(-10*24*time.Hour), epoch.Add(-2*time.Hour))
				}
				b.mustSync()
				b.quiet()
				maximum := 2 * idleRows
				if listed <= 20 {
					maximum = 20 // so few are read as a whole
				}
				for range 3 {
					if lists, rows := b.cost(); lists > 2 || rows > maximum {
						t.Errorf("an idle sync reads %d rows in %d lists", rows, lists)
					}
				}
				for i := range 3 {
					b.arrive(fmt.Sprint("new ", i), 2, time.Second)
					if lists, rows := b.cost(); lists > 2 || rows > 26 {
						t.Errorf("a sync that meets 2 new traces reads %d rows in %d lists", rows, lists)
					}
				}
				b.quiet()
				if lists, rows := b.cost(); lists > 2 || rows > 20 {
					t.Errorf("an idle sync reads %d rows in %d lists after some have arrived", rows, lists)
				}
				b.check()
				if b.ledger.Listed() != listed+6 {
					t.Errorf("%d listed, want %d", b.ledger.Listed(), listed+6)
				}
			})
		}
	}
}

// A row that has moved behind a new one does not show that all before it are known.
func TestTailBeginsWithMovedRow(t *testing.T) {
	b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate, OldestFirst: true})
	rows := b.fill(200)
	b.mustSync()
	b.quiet()
	for _, row := range rows[50:58] {
		b.opper.Delete(row.ID)
	}
	b.arrive("before", 1, time.Second)
	b.renew(rows[199].ID)
	b.arrive("behind", 4, time.Second)
	b.step(time.Second)
	b.mustSync()
	// That rows were deleted in the middle shows in a sweep.
	if n := b.ledger.Listed() - 200; n != 5 {
		t.Errorf("one sync found %d of 5 new traces", n)
	}
}

// Nor does it where the tail jumps to it from a page further up, behind which many rows
// have been deleted.
func TestTailJumpsToMovedRow(t *testing.T) {
	for _, seed := range []uint64{6, 32, 125, 505} { // with these, the tail jumps to that row
		rng := rand.New(rand.NewPCG(seed, 2))
		b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate, OldestFirst: true})
		b.arrive("old", 400, time.Millisecond)
		rows := b.opper.Snapshot()
		b.mustSync()
		b.quiet()
		for i := range 390 {
			if i < 150 && i%3 == 0 || i > 150 && rng.IntN(2) == 0 {
				b.opper.Delete(rows[i].ID)
			}
		}
		before := 20 + rng.IntN(100)
		b.arrive("before", before, time.Second)
		b.renew(rows[390+rng.IntN(10)].ID)
		b.arrive("behind", 150, time.Second)
		b.step(time.Second)
		b.mustSync()
		missed := 0
		for _, row := range b.opper.Snapshot() {
			if !b.ledger.HasSeen(ledger.KeyOf(row.ID)) {
				missed++
			}
		}
		if missed > 0 {
			t.Errorf("seed %d, %d before: %d missed", seed, before, missed)
		}
	}
}

// A head of a list that moves all the time ends all the same.
func TestHeadOfFastListEnds(t *testing.T) {
	const maxRequests = 4000
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate})
		b.fill(100)
		b.mustSync()
		b.quiet()
		b.arrive("burst", 1000, time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		src := &wrongLists{inner: b.client.WithRetries(0), list: func(n, offset, limit int) opper.Page {
			if n > maxRequests {
				cancel()
			}
			for range rng.IntN(3) {
				b.arrive(fmt.Sprint("during ", n, rng.Int()), 1, time.Millisecond)
			}
			if rng.IntN(2) == 0 {
				s := b.opper.Snapshot()
				b.opper.Update(s[rng.IntN(len(s))].ID, func(tr *oppertest.Trace) { tr.Tokens = new(rng.Int64N(1000)) })
			}
			if rng.IntN(20) == 0 {
				s := b.opper.Snapshot()
				i := rng.IntN(len(s))
				for _, r := range s[i:min(i+12, len(s))] {
					b.opper.Delete(r.ID)
				}
			}
			traces, total, _ := b.opper.List(offset, min(limit, 16))
			return pageOf(traces, *total, true)
		}}
		_, _ = syncAll(ctx, b.syncer, src) // it may fail
		cancel()
		if src.n > maxRequests {
			t.Errorf("seed %d: more than %d requests in one sync", seed, maxRequests)
		}
	}
}

// A known row before new ones does not end a small page that is full of them.
func TestMovedRowBeforeNewOnes(t *testing.T) {
	for _, moved := range []int{0, 2, 7} {
		for _, arrivals := range []int{3, 4, 60, 150} {
			t.Run(fmt.Sprintf("row %d before %d", moved, arrivals), func(t *testing.T) {
				b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate})
				rows := b.fill(200)
				b.mustSync()
				b.quiet()
				b.arrive("new", arrivals, time.Second)
				b.renew(rows[moved].ID)
				b.step(time.Second)
				b.mustSync()
				if n := b.ledger.Listed() - 200; n != arrivals {
					t.Errorf("one sync found %d of %d new traces", n, arrivals)
				}
			})
		}
	}
}

// Nor does it end one that an unreadable row behind the new ones makes smaller.
func TestMovedRowBeforeNewAndUnreadableOnes(t *testing.T) {
	for _, listed := range []int{15, 200} {
		for _, moved := range []int{1, 2, 7} {
			for _, arrivals := range []int{1, 2, 5, 12, 60} {
				t.Run(fmt.Sprintf("%d rows of %d before %d", moved, listed, arrivals), func(t *testing.T) {
					b := newBench(t, oppertest.Config{SortBy: oppertest.ByUpdate})
					b.arrive("old", listed, time.Second)
					rows := b.opper.Snapshot()
					b.mustSync()
					b.quiet()
					b.opper.Fail(oppertest.Fault{Row: rows[0].ID, Times: -1, Answer: oppertest.Cut})
					b.arrive("new", arrivals, time.Second)
					for i := range moved {
						b.renew(rows[moved-i].ID)
					}
					b.step(time.Second)
					b.mustSync()
					for _, row := range b.opper.Snapshot() {
						if row.ID != rows[0].ID && !b.ledger.HasSeen(ledger.KeyOf(row.ID)) {
							t.Fatalf("a new trace was not read:\n%s", b.log.String())
						}
					}
				})
			}
		}
	}
}
