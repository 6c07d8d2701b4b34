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
				if err := b.sync(); !errors.Is(err, errForeign) {
					t.Fatalf("error %v", err)
				}
				// A small page of the head and two whole ones, the tail, six known ids, and one just listed.
				if n := b.opper.RequestCount(); n > 11 {
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
		b.opper.Add(endedTrace(fmt.Sprint("new ", i), b.now()))
	}
	b.step(time.Second)
	b.mustSync()
	b.quiet()
	b.check()
	if len(b.counted) != 500 || b.events.Gaps != 0 {
		t.Errorf("counted %d, %d gaps", len(b.counted), b.events.Gaps)
	}
}

// An empty list is a good answer, before and after there were traces, though not at
// once: nothing shows yet how long traces are listed.
func TestEmptyList(t *testing.T) {
	b := newBench(t, oppertest.Config{Retention: time.Hour})
	b.mustSync()
	b.opper.Add(endedTrace("one", b.now()))
	b.quiet()
	b.step(2 * time.Hour)
	if err := b.sync(); !errors.Is(err, errEmpty) {
		t.Errorf("error %v", err)
	}
	b.step(90 * time.Second)
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
					b.opper.Add(endedTrace(fmt.Sprint("new ", i), b.now()))
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

// Where Opper refuses to list deeper, the sync ends with one gap, and what is
// listed before is counted.
func TestRefusedOffsets(t *testing.T) {
	b := newBench(t, oppertest.Config{MaxOffset: 1000})
	b.fill(3000)
	b.mustSync()
	for i := range 20 {
		b.opper.Add(endedTrace(fmt.Sprint("new ", i), b.now()))
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

// A refusal that was only trouble leaves nothing out for long.
func TestOffsetRefusedOnce(t *testing.T) {
	b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
	b.fill(1000)
	b.mustSync()
	b.quiet()
	b.arrive("new", 500, time.Millisecond)
	b.step(time.Second)
	b.opper.Fail(oppertest.Fault{After: 3, Times: 1, Answer: oppertest.Errors(http.StatusUnprocessableEntity)["plain"]})
	b.mustSync()
	b.quiet()
	if n := b.ledger.Listed(); n != 1500 || b.events.Gaps != 1 {
		t.Errorf("%d listed, %d gaps", n, b.events.Gaps)
	}
	b.check()
	if b.step(sweepEvery / 2); b.syncer.IsSweepDue() {
		t.Error("sweeps go on")
	}
}

// A server that gives fewer rows than asked for is read to its end all the same.
func TestSmallPages(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(500)
	src := smallPages{b.client.WithRetries(0)}
	if _, err := syncAll(t.Context(), b.syncer, src); err != nil {
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

// Those that fetch pages ahead end with the sync, whichever way it ends.
func TestFetchingAheadEndsWithSync(t *testing.T) {
	for _, src := range []rows{{3000, 0}, {3000, 1500}} {
		synctest.Test(t, func(t *testing.T) {
			led := ledger.New(ledger.Config{SettleDelay: settle, AbandonAfter: abandon})
			w := New(Config{Now: time.Now, Concurrency: 4, Key: func() string { return "ours" }, Logger: log.NewNopLogger()}, led)
			_, err := syncAll(t.Context(), w, src)
			if (err == nil) != (src.fails == 0) || led.Listed() < 1400 {
				t.Errorf("%+v: listed %d, %v", src, led.Listed(), err)
			}
			synctest.Wait() // the bubble fails if a goroutine is left in it
		})
	}
}

type smallPages struct{ Source }

// List implements Source.
func (s smallPages) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	return s.Source.List(ctx, offset, min(limit, 30))
}

// Traces without an id are counted as skipped, each once.
func TestRowsWithoutID(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(50)
	for i := range 3 {
		tr := endedTrace(fmt.Sprint("without id ", i), b.now())
		tr.ID = ""
		b.opper.Add(tr)
	}
	b.mustSync()
	b.quiet()
	if b.events.NoID != 3 || len(b.counted) != 50 || b.ledger.Listed() != 53 {
		t.Errorf("%d without an id, counted %d, %d listed", b.events.NoID, len(b.counted), b.ledger.Listed())
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
