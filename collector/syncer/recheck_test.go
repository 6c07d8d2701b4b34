package syncer

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
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

// Where a row before them cannot be read, pages are small: those that are due are read
// from the list all the same, and not asked for one by one.
func TestRecheckReadsOnBehindUnreadableRow(t *testing.T) {
	b := newBench(t, oppertest.Config{OldestFirst: true})
	rows := b.fill(100)
	b.mustSync()
	b.quiet()
	b.arrive("due", 400, time.Millisecond)
	b.mustSync()
	for _, i := range []int{93, 95, 97} {
		b.opper.Fail(oppertest.Fault{Row: rows[i].ID, Times: -1, Answer: oppertest.Cut})
	}
	b.step(settle + time.Second)
	b.opper.ResetRequests()
	b.mustSync()
	byID := 0
	for _, r := range b.opper.Requests() {
		if r.ID != "" {
			byID++
		}
	}
	if byID > 0 || len(b.counted) != 500 {
		t.Errorf("%d requests for single traces, %d of 500 counted", byID, len(b.counted))
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

// A running trace is not kept with a long identifier. It is counted once when it ends,
// and as last seen if it is no longer listed: Opper can't be asked for it.
func TestLongIdentifiers(t *testing.T) {
	for name, leave := range map[string]func(b *bench, id string){
		"ends":    func(b *bench, id string) { b.opper.Update(id, func(tr *oppertest.Trace) { tr.End = new(b.now()) }) },
		"deleted": func(b *bench, id string) { b.opper.Delete(id) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.fill(30)
			b.mustSync()
			b.quiet()
			before := len(b.counted)
			b.opper.Fail(oppertest.Fault{Times: -1, Match: func(r oppertest.Request) bool {
				if r.ID != "" {
					t.Errorf("asked for %q", r.ID)
				}
				return false
			}})
			open := endedTrace("open", b.now())
			open.ID, open.End, open.DurationMS, open.Status = strings.Repeat("long", 50), nil, nil, nil
			b.opper.Add(open)
			b.mustSync()
			b.ledger.Pending(func(row ledger.Row) {
				if len(row.Ref) > maxRef {
					t.Errorf("the ledger holds an identifier of %d bytes", len(row.Ref))
				}
			})
			leave(b, open.ID)
			for range 20 {
				b.step(abandon / 10)
				b.mustSync()
			}
			if got := b.counted[before:]; len(got) != 1 || got[0].Name != "open" {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

// Whose list it is, only traces tell that Opper can be asked for.
func TestBurstOfLongIdentifiers(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.syncer.cfg.MaxTaken = 250
	b.fill(30)
	b.mustSync()
	b.quiet()
	b.opper.Fail(oppertest.Fault{Times: -1, Match: func(r oppertest.Request) bool {
		if r.ID == ledger.NoRef {
			t.Errorf("asked for %q", r.ID)
		}
		return false
	}})
	const burst = 600
	before := len(b.counted)
	for i := range burst {
		tr := endedTrace("long", b.now())
		tr.ID = fmt.Sprint(strings.Repeat("long", 50), i)
		b.opper.Add(tr)
	}
	b.mustSync()
	b.quiet()
	if got := len(b.counted) - before; got != burst {
		t.Errorf("%d counted, want %d", got, burst)
	}
}
