package syncer

import (
	"fmt"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
)

// Pages get small beside a row that can't be read. A list that grows with each request
// is read past it all the same.
func TestUnreadableRowInGrowingList(t *testing.T) {
	for _, known := range []int{10, 300} {
		for _, every := range []int{4, 5, 6, 8, 12} {
			t.Run(fmt.Sprintf("%d known/a trace every %d requests", known, every), func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				b.fill(known)
				b.mustSync()
				b.arrive("new", 300, time.Millisecond)
				rows := b.opper.Snapshot()
				cut := map[string]bool{}
				for _, i := range []int{120, 121, 180, 240} {
					cut[rows[i].ID] = true
					b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[i].ID, Times: -1})
				}
				n := 0
				b.opper.OnRequest(func(oppertest.Request) {
					if n++; n%every == 0 {
						b.opper.Add(endedTrace(fmt.Sprint("during ", n), b.now()))
					}
				})
				b.mustSync()
				b.opper.OnRequest(nil)
				b.mustSync()
				for i, row := range b.opper.Snapshot() {
					if !b.ledger.HasSeen(ledger.KeyOf(row.ID)) && !cut[row.ID] {
						t.Errorf("row %d is passed over", i)
					}
				}
			})
		}
	}
}

// Rows that move up while a row is read that can't be are not passed over.
func TestRowsMoveUpOverUnreadableRow(t *testing.T) {
	const at = 149
	for _, when := range []string{"initial sync", "head"} {
		for _, deleted := range []int{1, 3, 60} {
			t.Run(fmt.Sprintf("%s/%d deleted", when, deleted), func(t *testing.T) {
				b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
				if when == "head" {
					b.fill(10)
					b.mustSync()
					b.arrive("new", 300, time.Millisecond)
				} else {
					b.fill(300)
				}
				rows := b.opper.Snapshot()
				b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[at].ID, Times: -1})
				done := false
				b.opper.OnRequest(func(r oppertest.Request) {
					if r.Offset == at+1 && !done {
						done = true
						for _, row := range rows[1 : 1+deleted] {
							b.opper.Delete(row.ID)
						}
					}
				})
				b.mustSync()
				if !done {
					t.Fatal("the row behind was not read alone")
				}
				for _, row := range b.opper.Snapshot() {
					if b.ledger.Index(ledger.KeyOf(row.ID)) < 0 && row.ID != rows[at].ID {
						t.Errorf("%s is passed over", row.ID)
					}
				}
			})
		}
	}
}

// A row that leaves and one that arrives between two requests move the others up and down
// again: none is passed over where a row can be read that could not be.
func TestRowsMoveUpAndDownBesideUnreadableRow(t *testing.T) {
	for at := range 40 {
		for _, place := range []int{0, 1, 3} {
			b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
			unreadable := b.fill(120)[place].ID
			b.opper.Fail(oppertest.Fault{Row: unreadable, Times: -1, Answer: oppertest.Cut})
			b.mustSync()
			b.arrive("new", 150, time.Millisecond)
			b.opper.Delete(unreadable)
			n := 0
			b.opper.OnRequest(func(oppertest.Request) {
				switch n++; n {
				case at:
					b.opper.Delete(b.opper.Snapshot()[1].ID)
				case at + 1:
					b.opper.Add(endedTrace("newer", b.now()))
				}
			})
			b.mustSync()
			b.opper.OnRequest(nil)
			for i, row := range b.opper.Snapshot()[1:] {
				if !b.ledger.HasSeen(ledger.KeyOf(row.ID)) {
					t.Errorf("%d before it: row %d is passed over, if all move at request %d", place, i+1, at)
				}
			}
		}
	}
}
