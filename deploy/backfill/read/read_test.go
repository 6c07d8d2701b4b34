package read

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/store"
	"opper_exporter/opper/oppertest"
)

func TestEventsEqualTheGroundTruth(t *testing.T) {
	b := newBench(t)
	b.fill(5_000, 20)
	got, _ := b.read("")
	if len(got.Projects) != 1 || got.Projects[0].Name != "default" || got.Undated != 0 || got.Future != 0 || !got.Since.IsZero() {
		t.Errorf("%d projects, undated %d, future %d, since %s", len(got.Projects), got.Undated, got.Future, got.Since)
	}
	want := b.truth()
	if len(want) < 4_900 {
		t.Fatalf("the truth has %d events only", len(want))
	}
	b.same(eventsOf(got.Projects[0]), sorted(want, beginsOf(got.Projects[0].Now)))
}

// The state that is made is that of an exporter which had counted all the events. It
// publishes what the history ends with, and counts nothing twice.
func TestExporterContinuesFromTheMadeState(t *testing.T) {
	b := newBench(t)
	b.fill(2_000, 20)
	got, dir := b.read("")
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close() //nolint:errcheck // the test is over
	projects := b.projects()
	projects[0].SettleDelay = 24 * time.Hour // nothing settles meanwhile
	c, err := collector.New(projects, collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Store: state})
	if err != nil {
		t.Fatal(err)
	}
	gather := func() map[string]string {
		families, err := c.Gatherer("default").Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := traceValues(families)
		maps.DeleteFunc(values, func(series, _ string) bool { // costs are not in the history
			return strings.HasPrefix(series, "opper_trace_cost") || strings.HasPrefix(series, "opper_trace_model_tokens")
		})
		return values
	}
	want := traceValues(got.Projects[0].Now)
	for _, moment := range []string{"at its start", "after a sync"} {
		values := gather()
		if len(want) < 20*10 || !maps.Equal(values, want) {
			t.Errorf("%s, %d series are exposed, want %d", moment, len(values), len(want))
			for series, value := range want {
				if values[series] != value {
					t.Fatalf("%s, %s is\n%s, want\n%s", moment, series, values[series], value)
				}
			}
		}
		if moment == "at its start" {
			if err := c.ReadOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// With a state, the events are those that it has counted, of the traces that are still
// listed, and the values are those that it publishes.
func TestEventsAreThoseThatTheStateHasCounted(t *testing.T) {
	for name, copied := range map[string]func(dir string) string{
		"directory": func(dir string) string { return dir },
		"file":      func(dir string) string { return filepath.Join(dir, "opper_exporter.db") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "--collector.max-trace-names=5")
			b.fill(1_000, 20)
			made, dir := b.read("")
			want := b.truth()
			// One that ran ends, and one that was abandoned, too late.
			b.opper.Update("runs", func(t *oppertest.Trace) { t.End = new(time.Now().Add(-40 * time.Second)) })
			b.opper.Update("abandoned", func(t *oppertest.Trace) { t.End, t.Status = new(time.Now().Add(-time.Minute)), new("success") })
			// Others come, and some expire.
			for i := range 50 {
				at := b.began.Add(-time.Duration(i+1) * time.Hour)
				b.opper.Add(oppertest.Trace{ID: fmt.Sprint("new ", i), Name: new("agent-01"), Start: &at, End: &at, Status: new("success")})
			}
			for _, trace := range b.opper.Snapshot()[900:] {
				b.opper.Delete(trace.ID)
				delete(want, trace.ID)
			}
			got, _ := b.read(copied(dir))
			if !maps.Equal(traceValues(got.Projects[0].Now), traceValues(made.Projects[0].Now)) {
				t.Error("other values are published than the state has")
			}
			if got.Since.Before(b.began.Add(-time.Second)) || got.Since.After(time.Now()) || got.Renewed {
				t.Errorf("it counts since %s, renewed %t", got.Since, got.Renewed)
			}
			begins := beginsOf(made.Projects[0].Now)
			if _, hasOverflow := begins[aggregate.Other]; len(begins) != 6 || !hasOverflow {
				t.Fatalf("places: %v", begins)
			}
			b.same(eventsOf(got.Projects[0]), sorted(want, begins))
		})
	}
}

// The first trace of a name may be listed long after its end. The created timestamp of its
// series says that it was not counted before.
func TestNoEventIsBeforeItsSeriesBegin(t *testing.T) {
	b := newBench(t)
	b.fill(100, 3)
	_, dir := b.read("")
	counted := time.Now()
	b.opper.Add(oppertest.Trace{ID: "late", Name: new("late"), End: new(b.began.Add(-10 * time.Hour)), Status: new("success")})
	b.count(dir)
	got, _ := b.read(dir)
	events := slices.DeleteFunc(eventsOf(got.Projects[0]), func(e event) bool { return e.name != "late" })
	if len(events) != 1 || events[0].end < counted.Add(-time.Minute).UnixMilli() || events[0].end > time.Now().UnixMilli() {
		t.Errorf("the events are %v, want one since %v", events, counted.UnixMilli())
	}
}

// Traces without a time at which they can have been counted are counted, and in no event.
func TestOddTimes(t *testing.T) {
	b := newBench(t)
	b.opper.Add(
		oppertest.Trace{ID: "abandoned without a start", Name: new("odd")},
		oppertest.Trace{ID: "of 1970", Name: new("odd"), End: new(time.Unix(5, 0)), Status: new("success")},
		oppertest.Trace{ID: "of 2001", Name: new("odd"), End: new(time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)), Status: new("success")},
		oppertest.Trace{ID: "of tomorrow", Name: new("odd"), End: new(b.began.Add(24 * time.Hour)), Status: new("success")},
		oppertest.Trace{ID: "even", Name: new("odd"), End: new(b.began.Add(-time.Hour)), Status: new("success")},
	)
	got, dir := b.read("")
	if n := len(got.Projects[0].Events); n != 1 || got.Undated != 3 || got.Future != 1 {
		t.Errorf("%d events, %d undated, %d of the future", n, got.Undated, got.Future)
	}
	// The exporter counts the one of tomorrow when it has settled by its own clock.
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := collector.New(b.projects("--collector.settle-delay=0s"), collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Store: state})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmp.Or(c.ReadOnce(t.Context()), state.Close()); err != nil {
		t.Fatal(err)
	}
	got, _ = b.read(dir)
	if n := len(got.Projects[0].Events); n != 2 || got.Undated != 3 || got.Future != 1 {
		t.Fatalf("with a state, %d events, %d undated, %d of the future", n, got.Undated, got.Future)
	}
	if last := eventsOf(got.Projects[0])[1]; time.UnixMilli(last.end).Before(b.began) || time.UnixMilli(last.end).After(time.Now().Add(time.Second)) {
		t.Errorf("the trace of tomorrow ended at %s", time.UnixMilli(last.end))
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	b := newBench(t)
	b.fill(1_000, 3)
	ctx, cancel := context.WithCancel(t.Context())
	b.opper.OnRequest(func(r oppertest.Request) {
		if r.Offset > 300 {
			cancel()
		}
	})
	_, err := Run(ctx, Config{Projects: b.projects(), Directory: t.TempDir(), Logger: log.NewNopLogger(), Progress: func(int, int) {}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
