package syncer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

func (b *bench) fill(n int) []oppertest.Trace {
	b.opper.FillHistory(n, 7, epoch.Add(-10*24*time.Hour), epoch.Add(-2*time.Hour))
	return b.opper.Snapshot()
}

// quiet syncs until all that has arrived is settled and counted.
func (b *bench) quiet() {
	b.t.Helper()
	for range 3 {
		b.step(settle + time.Second)
		b.mustSync()
		b.sweep(1 << 20)
	}
}

func (b *bench) idleCost() int {
	b.t.Helper()
	b.step(settle + time.Second)
	b.opper.ResetRequests()
	b.mustSync()
	return b.opper.RequestCount()
}

// Rows that Opper can't give are stepped over, once for good, wherever they
// stand, and whatever way it fails to give them.
func TestUnreadableRows(t *testing.T) {
	for name, answer := range map[string]oppertest.Answer{
		"status 500": oppertest.Errors(http.StatusInternalServerError)["v2 string"],
		"garbage":    oppertest.Garbage,
		"cut body":   oppertest.CutBody,
	} {
		for where, bad := range map[string][2]int{
			"first": {0, 1}, "second": {1, 2}, "middle": {437, 438}, "three": {250, 253}, "page": {300, 400}, "last": {999, 1000},
		} {
			t.Run(name+" "+where, func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				rows := b.fill(1000)
				for _, r := range rows[bad[0]:bad[1]] {
					b.opper.Fail(oppertest.Fault{Row: r.ID, Times: -1, Answer: answer})
				}
				b.mustSync()
				b.quiet()
				if want := 1000 - (bad[1] - bad[0]); len(b.counted) != want {
					t.Errorf("counted %d, want %d", len(b.counted), want)
				}
				if b.events.Gaps != 1 {
					t.Errorf("%d gaps, want 1", b.events.Gaps)
				}
				if b.ledger.Listed() != 1000 {
					t.Errorf("%d believed to be listed", b.ledger.Listed())
				}
				// A hole splits a page, and no more.
				if n := b.idleCost(); n > 3 {
					t.Errorf("an idle sync around the hole makes %d requests: %v", n, b.opper.Requests())
				}
				for i := range 120 {
					b.opper.Add(endedTrace(fmt.Sprint("news ", i), b.now()))
					b.step(time.Second)
					if i%40 == 0 {
						b.mustSync()
					}
				}
				b.quiet()
				b.check()
				if b.events.Gaps != 1 {
					t.Errorf("%d gaps after news, want 1", b.events.Gaps)
				}
			})
		}
	}
}

// An outage is not mistaken for rows that can't be read, and costs few requests.
func TestOutageChangesNothing(t *testing.T) {
	for name, answer := range map[string]oppertest.Answer{
		"500": oppertest.Errors(500)["plain"], "cut": oppertest.Cut, "garbage": oppertest.Garbage, "html": oppertest.HTML, "empty object": oppertest.EmptyObject,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.fill(1000)
			b.mustSync()
			b.opper.Fail(oppertest.Fault{Times: -1, Answer: answer})
			b.opper.ResetRequests()
			if err := b.sync(); err == nil {
				t.Fatal("no error")
			}
			if n := b.opper.RequestCount(); n > 4 {
				t.Errorf("%d requests in an outage", n)
			}
			b.opper.Clear()
			if b.events.Gaps != 0 || b.ledger.Listed() != 1000 {
				t.Errorf("%d gaps, %d listed", b.events.Gaps, b.ledger.Listed())
			}
			b.mustSync()
			b.check()
		})
	}
}

// A first walk that fails goes on where it stopped.
func TestBaselineResumes(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(5000)
	b.opper.Fail(oppertest.Fault{After: 30, Times: -1, Answer: oppertest.Errors(503)["html"]})
	if err := b.sync(); err == nil {
		t.Fatal("no error")
	}
	if got := b.ledger.Listed(); got < 2000 || !b.ledger.IsInitialSync() {
		t.Fatalf("%d rows met, baseline %t", got, b.ledger.IsInitialSync())
	}
	b.opper.Clear()
	for i := range 150 {
		b.opper.Add(endedTrace(fmt.Sprint("meanwhile ", i), b.now()))
	}
	b.step(time.Minute)
	b.opper.ResetRequests()
	b.mustSync()
	if n := b.opper.RequestCount(); n > 30 {
		t.Errorf("going on took %d requests", n)
	}
	b.quiet()
	b.check()
	if len(b.counted) != 5150 {
		t.Errorf("counted %d", len(b.counted))
	}
}

// The list of another project changes nothing, at whatever length.
func TestForeignList(t *testing.T) {
	for _, n := range []int{3, 90, 150, 3000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.fill(1000)
			b.mustSync()
			other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
			other.FillHistory(n, 3, epoch.Add(-time.Hour), epoch)
			b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
			before := len(b.counted)
			for range 3 {
				b.step(time.Minute)
				b.opper.ResetRequests()
				if err := b.sync(); !errors.Is(err, ErrForeign) {
					t.Fatalf("error %v", err)
				}
				// Two pages of the head, the tail, six known ids, and one just listed.
				if n := b.opper.RequestCount(); n > 10 {
					t.Errorf("%d requests", n)
				}
			}
			if len(b.counted) != before || b.ledger.Listed() != 1000 {
				t.Errorf("counted %d more, %d listed", len(b.counted)-before, b.ledger.Listed())
			}
			b.opper.Clear()
			b.mustSync()
			b.check()
		})
	}
}

// A list that expired as a whole while we could not look is no other project.
func TestAllExpired(t *testing.T) {
	b := newBench(t, oppertest.Config{Retention: 24 * time.Hour})
	b.opper.FillHistory(300, 3, epoch.Add(-23*time.Hour), epoch.Add(-time.Minute))
	b.mustSync()
	b.step(30 * time.Hour)
	for i := range 200 {
		b.opper.Add(endedTrace(fmt.Sprint("news ", i), b.now()))
	}
	b.step(time.Second)
	b.mustSync()
	b.quiet()
	b.check()
	if len(b.counted) != 500 || b.events.Gaps != 0 {
		t.Errorf("counted %d, %d gaps", len(b.counted), b.events.Gaps)
	}
}

// An empty list is a good answer, before and after there were traces.
func TestEmptyList(t *testing.T) {
	b := newBench(t, oppertest.Config{Retention: time.Hour})
	b.mustSync()
	b.opper.Add(endedTrace("one", b.now()))
	b.quiet()
	b.step(2 * time.Hour)
	b.mustSync()
	if b.ledger.Listed() != 0 {
		t.Errorf("%d listed", b.ledger.Listed())
	}
	b.opper.Add(endedTrace("two", b.now()))
	b.quiet()
	b.check()
	if len(b.counted) != 2 || b.events.Gaps != 0 {
		t.Errorf("counted %d, %d gaps", len(b.counted), b.events.Gaps)
	}
}

// What slips in behind the head shows in total_count and is found, near the
// head by a few more pages and deeper by a complete walk, without any gap.
func TestSlippedIn(t *testing.T) {
	for _, depth := range []int{5, 150, 2500} {
		for _, oldestFirst := range []bool{false, true} {
			t.Run(fmt.Sprint(depth, oldestFirst), func(t *testing.T) {
				b := newBench(t, oppertest.Config{SortBy: oppertest.ByStart, OldestFirst: oldestFirst})
				b.opper.FillHistory(4000, 7, epoch.Add(-4000*time.Minute), epoch)
				b.mustSync()
				b.opper.Add(endedTrace("late", epoch.Add(-time.Duration(depth)*time.Minute)))
				b.step(time.Minute)
				b.quiet()
				b.quiet()
				if len(b.counted) != 4001 || b.events.Gaps != 0 {
					t.Errorf("counted %d, %d gaps", len(b.counted), b.events.Gaps)
				}
				if n := b.idleCost(); n > 2 {
					t.Errorf("an idle sync then makes %d requests", n)
				}
			})
		}
	}
}

// A total_count that can't be believed costs one gap or one warning at most,
// and no trace.
func TestOddTotals(t *testing.T) {
	for name, c := range map[string]struct {
		total func(int) *int
		gaps  uint64
		says  string
	}{
		"capped":   {func(n int) *int { return new(min(n, 1000)) }, 0, ""},
		"missing":  {func(int) *int { return nil }, 0, "total_count is missing"},
		"too high": {func(n int) *int { return new(n + 17) }, 1, "two full scans"},
		"too low":  {func(n int) *int { return new(n / 2) }, 0, ""},
		"zero":     {func(int) *int { return new(0) }, 0, ""},
	} {
		for _, oldestFirst := range []bool{false, true} {
			t.Run(fmt.Sprint(name, oldestFirst), func(t *testing.T) {
				b := newBench(t, oppertest.Config{TotalCount: c.total, OldestFirst: oldestFirst, Retention: 11 * 24 * time.Hour})
				b.fill(2500)
				b.mustSync()
				for i := range 300 {
					b.opper.Add(endedTrace(fmt.Sprint("news ", i), b.now()))
					b.step(20 * time.Second)
					if i%3 == 0 {
						b.mustSync()
					}
				}
				b.step(time.Hour)
				b.quiet()
				b.check()
				if len(b.counted) != 2800 || b.events.Gaps != c.gaps {
					t.Errorf("counted %d, %d gaps", len(b.counted), b.events.Gaps)
				}
				if !strings.Contains(b.log.String(), c.says) || strings.Count(b.log.String(), "level=warn") > 1 {
					t.Errorf("log: %s", b.log.String())
				}
				if n := b.idleCost(); n > 3 {
					t.Errorf("an idle sync makes %d requests: %v", n, b.opper.Requests())
				}
			})
		}
	}
}

// Where Opper refuses to list deeper, the walk ends with one gap, and what is
// listed before is counted.
func TestRefusedOffsets(t *testing.T) {
	b := newBench(t, oppertest.Config{MaxOffset: 1000})
	b.fill(3000)
	b.mustSync()
	for i := range 20 {
		b.opper.Add(endedTrace(fmt.Sprint("news ", i), b.now()))
		b.step(20 * time.Second)
		b.mustSync()
	}
	b.quiet()
	b.check()
	if b.events.Gaps != 1 {
		t.Errorf("%d gaps", b.events.Gaps)
	}
	if got := len(b.counted); got < 1000 || got > 1200 {
		t.Errorf("counted %d", got)
	}
	if n := b.idleCost(); n > 2 {
		t.Errorf("an idle sync makes %d requests", n)
	}
}

// A server that gives fewer rows than asked for is read to its end all the same.
func TestSmallPages(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(500)
	src := smallPages{b.client.WithRetries(0)}
	if _, err := syncAll(t.Context(), b.walker, src); err != nil {
		t.Fatal(err)
	}
	if b.ledger.Listed() != 500 {
		t.Errorf("%d listed", b.ledger.Listed())
	}
}

// rows is a Source of so many traces, which fails from one of them on if that is
// not 0.
type rows struct{ n, fails int }

// List implements Source.
func (s rows) List(_ context.Context, offset, limit int) (opper.Page, error) {
	page := opper.Page{Total: s.n}
	for i := offset; i < min(offset+limit, s.n); i++ {
		if s.fails > 0 && i >= s.fails {
			return opper.Page{}, errors.New("it fails")
		}
		page.Traces = append(page.Traces, opper.Trace{ID: fmt.Sprint(i), Start: epoch.Add(-time.Duration(i) * time.Second), End: epoch})
	}
	return page, nil
}

// Get implements Source.
func (rows) Get(context.Context, string) (opper.Trace, error) {
	return opper.Trace{}, opper.ErrNotFound
}

// Those that fetch pages ahead end with the walk, whichever way it ends.
func TestNobodyFetchesOn(t *testing.T) {
	for _, src := range []rows{{3000, 0}, {3000, 1500}} {
		synctest.Test(t, func(t *testing.T) {
			led := ledger.New(ledger.Config{SettleDelay: settle, AbandonAfter: abandon})
			w := New(Config{Now: time.Now, Concurrency: 4, Logger: log.NewNopLogger()}, led)
			_, err := syncAll(t.Context(), w, src)
			if (err == nil) != (src.fails == 0) || led.Listed() < 1400 {
				t.Errorf("%+v: listed %d, %v", src, led.Listed(), err)
			}
			synctest.Wait() // the bubble fails if somebody is left in it
		})
	}
}

type smallPages struct{ Source }

// List implements Source.
func (s smallPages) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	return s.Source.List(ctx, offset, min(limit, 30))
}

// Traces without an id are counted as skipped, each once.
func TestNamelessRows(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(50)
	for i := range 3 {
		tr := endedTrace(fmt.Sprint("nameless ", i), b.now())
		tr.ID = ""
		b.opper.Add(tr)
	}
	b.mustSync()
	b.quiet()
	if b.events.NoID != 3 || len(b.counted) != 50 || b.ledger.Listed() != 53 {
		t.Errorf("%d without an id, counted %d, %d listed", b.events.NoID, len(b.counted), b.ledger.Listed())
	}
}

// An open trace is followed until it ends, and given up in time, at few looks.
func TestOpenTraces(t *testing.T) {
	for _, noGet := range []int{0, http.StatusNotFound, http.StatusMethodNotAllowed} {
		b := newBench(t, oppertest.Config{NoGet: noGet})
		b.fill(2000)
		start := epoch.Add(-time.Minute)
		open := func(name string) string {
			tr := endedTrace(name, epoch)
			tr.Start, tr.End, tr.DurationMS, tr.Status = &start, nil, nil, nil
			b.opper.Add(tr)
			return tr.ID
		}
		ends, never := open("ends"), open("never ends")
		for i := range 300 { // puts the open ones on a page of their own
			b.opper.Add(endedTrace(fmt.Sprint("news ", i), epoch))
		}
		b.mustSync()
		b.quiet()
		before := len(b.counted)
		b.opper.ResetRequests()
		for range 60 { // half an hour
			b.step(30 * time.Second)
			b.mustSync()
		}
		if looks := b.opper.RequestCount() - 2*60; looks > 40 {
			t.Errorf("%d looks at two open traces on one page in half an hour", looks)
		}
		if len(b.counted) != before {
			t.Fatal("an open trace was counted")
		}
		b.opper.Update(ends, func(tr *oppertest.Trace) { tr.End, tr.Status = new(b.now()), new("error") })
		for range 100 {
			b.step(30 * time.Second)
			b.mustSync()
		}
		b.check()
		got := map[string]string{}
		for _, c := range b.counted[before:] {
			got[c.ID] = c.Outcome
		}
		if len(got) != 2 || got[ends] != "failure" || got[never] != "abandoned" {
			t.Errorf("counted %v", got)
		}
		b.ledger.Open(func(r ledger.Row) { t.Errorf("%s is still open", r.Name) })
	}
}

// Traces that arrive and traces that expire while one sync reads are no gap.
func TestArrivalsAndExpiryBetweenPages(t *testing.T) {
	for name, oldest := range map[string]bool{"newest first": false, "oldest first": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{Seed: 5, Retention: time.Hour, OldestFirst: oldest})
			b.opper.FillHistory(1000, 3, b.now().Add(-time.Hour), b.now().Add(-time.Second))
			if err := b.sync(); err != nil {
				t.Fatal(err)
			}
			n := 0
			b.opper.OnRequest(func(oppertest.Request) {
				b.step(4 * time.Second)
				n++
				b.opper.Add(endedTrace(fmt.Sprint("new-", n), b.now()))
			})
			for range 300 {
				if err := b.sync(); err != nil {
					t.Fatal(err)
				}
				b.sweep(100)
			}
			if b.events.Gaps != 0 {
				t.Errorf("%d gaps\n%s", b.events.Gaps, b.log.String())
			}
		})
	}
}

// A key that is mended in the middle of a sync lets no foreign trace in.
func TestForeignHeadOnly(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(1000)
	b.mustSync()
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(3000, 3, epoch.Add(-time.Hour), epoch)
	before := len(b.counted)
	b.opper.Fail(oppertest.Fault{Times: 1, Answer: oppertest.OtherProject(other)})
	b.step(time.Minute)
	_ = b.sync() // may fail, or begin again
	b.quiet()
	b.check()
	if len(b.counted) != before || b.ledger.Listed() != 1000 {
		t.Errorf("counted %d more, %d listed", len(b.counted)-before, b.ledger.Listed())
	}
}
