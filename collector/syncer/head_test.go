package syncer

import (
	"fmt"
	"testing"
	"time"

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
