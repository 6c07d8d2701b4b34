package syncer

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
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
				// An unreadable row splits a page, and no more.
				if n := b.idleCost(); n > 3 {
					t.Errorf("an idle sync around the unreadable row makes %d requests: %v", n, b.opper.Requests())
				}
				for i := range 120 {
					b.opper.Add(endedTrace(fmt.Sprint("new ", i), b.now()))
					b.step(time.Second)
					if i%40 == 0 {
						b.mustSync()
					}
				}
				b.quiet()
				b.check()
				if b.events.Gaps != 1 {
					t.Errorf("%d gaps after new rows, want 1", b.events.Gaps)
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
			if n := b.opper.RequestCount(); n > 5 {
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

// An initial sync that fails resumes where it stopped.
func TestInitialSyncResumes(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(5000)
	b.opper.Fail(oppertest.Fault{After: 30, Times: -1, Answer: oppertest.Errors(503)["html"]})
	if err := b.sync(); err == nil {
		t.Fatal("no error")
	}
	if got := b.ledger.Listed(); got < 2000 || !b.ledger.IsInitialSync() {
		t.Fatalf("%d rows seen, initial sync %t", got, b.ledger.IsInitialSync())
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

// What slips in behind the head shows in total_count and is found, near the
// head by a few more pages and deeper by a full scan, without any gap.
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

// An open trace is followed until it ends, and abandoned in time, with few requests.
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
			b.opper.Add(endedTrace(fmt.Sprint("new ", i), epoch))
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

// What refuses the end of a short list, and then its start, is no limit of offsets.
func TestStartIsNotTooDeep(t *testing.T) {
	for _, status := range []int{400, 404, 416, 422} {
		for _, traces := range []int{30, 90, 150} {
			b := newBench(t, oppertest.Config{})
			b.fill(traces)
			b.mustSync()
			b.step(time.Second)
			b.opper.Fail(oppertest.Fault{Answer: oppertest.Errors(status)["empty"], After: 1, Times: -1})
			ev, err := syncAll(t.Context(), b.syncer, b.client.WithRetries(0))
			if err == nil || ev.Gaps != 0 {
				t.Errorf("%d of %d traces: error %v, %d gaps", status, traces, err, ev.Gaps)
			}
		}
	}
}
