package read

import (
	"cmp"
	"fmt"
	"io"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"

	"github.com/alecthomas/kingpin/v2"
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

// sorted returns events in an order. Names without a place are the overflow, and none has
// counted a trace before it began.
func sorted(events map[string]event, begins map[string]int64) []event {
	var all []event
	for _, e := range events {
		if _, hasPlace := begins[e.name]; !hasPlace {
			e.name = aggregate.Other
		}
		e.end = max(e.end, begins[e.name])
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
