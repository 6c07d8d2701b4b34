package read

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-kit/log"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

const (
	testKey = "op-test-KEY-51c7e0"
	abandon = time.Hour
	month   = 30 * 24 * time.Hour
)

// bench is an Opper in memory, and how it is read.
type bench struct {
	t     *testing.T
	opper *oppertest.Server
	url   string
	began time.Time
	args  []string
}

func newBench(t *testing.T, args ...string) *bench {
	t.Helper()
	b := &bench{t: t, opper: oppertest.New(oppertest.Config{Key: testKey, NoRecord: true}), began: time.Now().Truncate(time.Microsecond)}
	server := httptest.NewServer(b.opper)
	t.Cleanup(server.Close)
	b.url = server.URL
	b.args = append([]string{"--opper.url=" + server.URL, "--opper.max-requests-per-second=0"}, args...)
	return b
}

// fill lists what a month has, and traces of all kinds.
func (b *bench) fill(traces, names int) {
	b.opper.FillHistory(traces, names, b.began.Add(-month), b.began.Add(-time.Minute))
	ago := func(d time.Duration) *time.Time { return new(b.began.Add(-d)) }
	b.opper.Add(
		oppertest.Trace{ID: "runs", Name: new("slow"), Start: ago(time.Minute)},
		oppertest.Trace{ID: "abandoned", Name: new("slow"), Start: ago(50 * time.Hour), Tokens: new(int64(5))},
		oppertest.Trace{ID: "settles", Name: new("slow"), Start: ago(time.Minute), End: ago(time.Second)},
		oppertest.Trace{ID: "no start", Name: new("slow"), End: ago(30 * time.Hour), DurationMS: new(70.5), Tokens: new(int64(5))},
		oppertest.Trace{ID: "fraction", Name: new("slow"), Start: ago(31 * time.Hour), End: new(b.began.Add(-30 * time.Hour).Truncate(time.Millisecond).Add(time.Microsecond))},
	)
}

func (b *bench) projects(args ...string) []config.Project {
	b.t.Helper()
	env := func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }
	cfg, _, err := config.ParseFor("test", "", func(*kingpin.Application) {}, append(slices.Clone(b.args), args...), env, io.Discard)
	if err != nil {
		b.t.Fatal(err)
	}
	return cfg.Projects
}

// read runs Run with a new directory, which it returns.
func (b *bench) read(state string, args ...string) (*Result, string) {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "read")
	got, err := Run(b.t.Context(), Config{Projects: b.projects(args...), State: state, Directory: dir, Logger: log.NewNopLogger(), Progress: func(int, int) {}})
	if err != nil {
		b.t.Fatal(err)
	}
	return got, dir
}

// event is a history.Event in words.
type event struct {
	end, duration, tokens int64
	name, outcome         string
}

func (e event) compare(f event) int {
	return cmp.Or(cmp.Compare(e.end, f.end), cmp.Compare(e.duration, f.duration), cmp.Compare(e.tokens, f.tokens),
		cmp.Compare(e.name, f.name), cmp.Compare(e.outcome, f.outcome))
}

func eventsOf(p history.Project) []event {
	var all []event
	for _, e := range p.Events {
		all = append(all, event{e.End, e.Duration, e.Tokens, p.Names[e.Name], aggregate.Outcome(e.Outcome).String()})
	}
	slices.SortFunc(all, event.compare)
	return all
}

// truth returns the event that the ground truth allows of each trace that is listed, by
// id.
func (b *bench) truth() map[string]event {
	b.t.Helper()
	truth := oracle.NewTruth(b.opper, oracle.Rules{Settle: 30 * time.Second, Abandon: abandon, InitialSync: b.began, InitialSyncDone: time.Now()})
	all := map[string]event{}
	for _, t := range b.opper.Snapshot() {
		v := truth.Traces[t.ID]
		if len(v.Versions) != 1 {
			continue
		}
		w := v.Versions[0]
		e := event{duration: w.Micros, tokens: w.Tokens, name: w.Name, outcome: w.Outcome}
		at := t.End
		if at == nil {
			at = new(t.Start.Add(abandon))
		}
		if e.end = at.UnixMilli(); at.Nanosecond()%1e6 != 0 {
			e.end++
		}
		if w.Unusable != "" || w.Outcome == "abandoned" {
			e.duration = -1
		}
		all[t.ID] = e
	}
	return all
}

// sorted returns events in an order. With places, names without one are the overflow.
func sorted(events map[string]event, places map[string]bool) []event {
	var all []event
	for _, e := range events {
		if places != nil && !places[e.name] {
			e.name = aggregate.Other
		}
		all = append(all, e)
	}
	slices.SortFunc(all, event.compare)
	return all
}

func (b *bench) same(got, want []event) {
	b.t.Helper()
	if slices.Equal(got, want) {
		return
	}
	wrong := 0
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i >= len(want):
			b.t.Fatalf("%d events, want %d", len(got), len(want))
		case got[i] != want[i]:
			b.t.Errorf("event %d: %+v, want %+v", i, got[i], want[i])
			if wrong++; wrong == 5 {
				b.t.FailNow()
			}
		}
	}
}

// traceValues returns what is exposed of traces, by series.
func traceValues(families []*dto.MetricFamily) map[string]string {
	values := map[string]string{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "opper_trace") || strings.HasPrefix(f.GetName(), "opper_tokens") {
			for _, m := range f.GetMetric() {
				values[fmt.Sprint(f.GetName(), m.GetLabel())] = fmt.Sprint(m.GetCounter(), m.GetGauge(), m.GetHistogram())
			}
		}
	}
	return values
}

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
	b.same(eventsOf(got.Projects[0]), sorted(want, nil))
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
			places := published(made.Projects[0].Now)
			if len(places) != 6 || !places[aggregate.Other] {
				t.Fatalf("places: %v", places)
			}
			b.same(eventsOf(got.Projects[0]), sorted(want, places))
		})
	}
}

// published returns the trace names that have series.
func published(families []*dto.MetricFamily) map[string]bool {
	names := map[string]bool{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "opper_traces_total" && l.GetName() == "trace_name" {
					names[l.GetValue()] = true
				}
			}
		}
	}
	return names
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
	if n := len(got.Projects[0].Events); n != 1 || got.Undated != 3 || got.Future != 0 {
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
