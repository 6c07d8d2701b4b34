package syncer

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// A trace that moved up, because others before it were deleted, is found by
// reading where it stands now, also if Opper does not give single traces.
func TestRecheckFollowsDeletion(t *testing.T) {
	for name, c := range map[string]struct{ before, deleted, behind int }{
		"before the page that is read":               {180, 30, 40},
		"the list ends before that page":             {180, 150, 40},
		"close to the end, far from where it is due": {220, 150, 8},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{NoGet: http.StatusMethodNotAllowed, OldestFirst: true})
			b.arrive("before", c.before, time.Second)
			open := endedTrace("open", b.now())
			open.End, open.DurationMS, open.Status = nil, nil, nil
			b.opper.Add(open)
			b.arrive("behind", c.behind, time.Second)
			b.mustSync()
			b.quiet()
			before := len(b.counted)
			for _, row := range b.opper.Snapshot()[20 : 20+c.deleted] {
				b.opper.Delete(row.ID)
			}
			b.opper.Update(open.ID, func(tr *oppertest.Trace) { tr.End = new(b.now()) })
			for range 2 {
				b.step(settle + time.Second)
				b.mustSync()
			}
			if got := len(b.counted) - before; got != 1 || b.counted[before].ID != open.ID {
				t.Errorf("%d counted\n%s", got, b.log.String())
			}
		})
	}
}

// Traces that are due far from the ends of the list cost the rows around them.
func TestRecheckReadsFewRows(t *testing.T) {
	for _, c := range []struct {
		open []int
		most int // rows of the pages around them
	}{
		{[]int{500}, 1 + 2*overlap},
		{[]int{500, 510, 560}, 61 + 2*overlap},
		{[]int{500, 800}, 2 + 4*overlap},
	} {
		t.Run(fmt.Sprint(c.open), func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.fill(1000)
			b.mustSync()
			b.quiet()
			for i := range 1000 {
				tr := endedTrace(fmt.Sprint("new ", i), b.now())
				if slices.Contains(c.open, i) {
					tr.End, tr.DurationMS, tr.Status = nil, nil, nil
				}
				b.opper.Add(tr)
				b.step(time.Millisecond)
			}
			for range 3 {
				b.step(settle + time.Second)
				b.mustSync()
			}
			b.step(10 * time.Minute)
			if _, rows := b.cost(); rows > c.most+2*idleRows {
				t.Errorf("a sync reads %d rows, want at most %d", rows, c.most+2*idleRows)
			}
			b.check()
		})
	}
}
