package syncer

import (
	"fmt"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
)

// What follows a row without an id and an unreadable one may be new rows only, at the
// start of the list, to which the tail goes back: it follows rows that are known. Neither
// the head, which stays small, nor total_count shows that there are new rows.
func TestTailReadsOnBehindUnreadableRow(t *testing.T) {
	for _, failsLater := range []bool{false, true} {
		for _, arrivals := range []int{1, 4, 30, 150} {
			t.Run(fmt.Sprintf("fails later %t, %d new", failsLater, arrivals), func(t *testing.T) {
				b := newBench(t, oppertest.Config{SortBy: oppertest.ByStart, OldestFirst: true, TotalCount: func(int) *int { return nil }})
				// Without a start, it does not show either whose list it is.
				first, second := endedTrace("known", b.now()), endedTrace("without an id", b.now())
				first.Start, second.Start, second.ID = nil, nil, ""
				b.opper.Add(first, second)
				b.arrive("old", 31, time.Second)
				rows := b.opper.Snapshot()
				fail := func() { b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[2].ID, Times: -1}) }
				if !failsLater {
					fail()
				}
				b.mustSync()
				b.quiet()
				if failsLater {
					fail()
				}
				for _, row := range rows[3:] {
					b.opper.Delete(row.ID)
				}
				b.arrive("new", arrivals, time.Second)
				b.step(time.Second)
				b.mustSync()
				missed := 0
				for _, row := range b.opper.Snapshot()[3:] {
					if !b.ledger.HasSeen(ledger.KeyOf(row.ID)) {
						missed++
					}
				}
				if missed > 0 || !b.syncer.known.NewestLast {
					t.Errorf("one sync missed %d of %d new traces; newest last: %t", missed, arrivals, b.syncer.known.NewestLast)
				}
			})
		}
	}
}
