// Package historytest makes up counted traces, what the exporter exposes of them, and the
// true value of each series at each time.
package historytest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/deploy/backfill/history"
)

// Buckets of the made-up exporters.
var (
	DurationBuckets = []float64{0.1, 0.5, 1, 10, 30, 600}
	TokenBuckets    = []float64{16, 256, 4096, 1048576}
)

// Trace is a counted trace.
type Trace struct {
	Project, Name string
	End           time.Time // to the microsecond
	Outcome       aggregate.Outcome
	Duration      time.Duration
	HasDuration   bool
	Tokens        int64
	HasTokens     bool
	Listed        bool
}

// World is what has been counted.
type World struct {
	Traces          []Trace
	Classic, Native bool

	exposed map[string][]*dto.MetricFamily // by project
}

// Names are trace names with all that has to be escaped.
var Names = []string{"chat", `C:\new "quoted"`, "two\nlines", "(other)", "größe 漢字", "with one trace"}

// Random makes up n listed traces of each project that ended between two times, and some
// that ended before and are listed no more.
func Random(rng *rand.Rand, from, to time.Time, projects, n int) *World {
	w := &World{Classic: true, Native: true}
	for p := range projects {
		name := fmt.Sprintf("project %d", p)
		w.Traces = append(w.Traces, Trace{Project: name, Name: "with one trace", End: from.Add(to.Sub(from) / 2), HasDuration: true, Duration: time.Second, Tokens: 1, HasTokens: true, Listed: true})
		for range n {
			t := randomTrace(rng, name)
			t.End, t.Listed = randomEnd(rng, from, to), true
			if rng.IntN(8) == 0 && len(w.Traces) > 0 {
				t.End = w.Traces[rng.IntN(len(w.Traces))].End
			}
			w.Traces = append(w.Traces, t)
		}
		for range n / 3 {
			t := randomTrace(rng, name)
			t.End = from.Add(-time.Duration(1 + rng.Int64N(int64(30*24*time.Hour))))
			w.Traces = append(w.Traces, t)
		}
	}
	return w
}

func randomTrace(rng *rand.Rand, project string) Trace {
	t := Trace{Project: project, Name: Names[rng.IntN(len(Names)-1)], Outcome: aggregate.Outcomes[rng.IntN(len(aggregate.Outcomes))]}
	t.HasTokens, t.HasDuration = rng.IntN(5) > 0, rng.IntN(5) > 0
	if rng.IntN(10) > 0 {
		t.Duration = time.Duration(math.Exp2(34*rng.Float64())) * time.Microsecond
		t.Tokens = int64(math.Exp2(24 * rng.Float64()))
	}
	if rng.IntN(10) == 0 {
		t.Duration = -time.Second
	}
	if rng.IntN(4) == 0 {
		t.Duration, t.Tokens = time.Second, 256 // on the bounds of buckets
	}
	return t
}

// randomEnd returns a time in [from, to), often on one of the borders where mistakes are
// made.
func randomEnd(rng *rand.Rand, from, to time.Time) time.Time {
	t := from.Add(time.Duration(rng.Int64N(int64(to.Sub(from))))).Truncate(time.Microsecond)
	switch rng.IntN(6) {
	case 0:
		t = t.Truncate(2 * time.Hour)
	case 1:
		t = t.Truncate(time.Minute)
	case 2:
		t = t.Truncate(time.Millisecond)
	case 3:
		t = t.Truncate(2 * time.Hour).Add(-time.Microsecond)
	}
	if t.Before(from) {
		return from
	}
	return t
}

// EndMilli is the end as the history has it.
func (t *Trace) EndMilli() int64 { return (t.End.UnixMicro() + 999) / 1000 }

// Projects returns what a History is made from.
func (w *World) Projects() []history.Project {
	var out []history.Project
	for _, t := range w.Traces {
		i := slices.IndexFunc(out, func(p history.Project) bool { return p.Name == t.Project })
		if i < 0 {
			i = len(out)
			out = append(out, history.Project{Name: t.Project, Now: w.families(t.Project)})
		}
		p := &out[i]
		if !t.Listed {
			continue
		}
		label := aggregate.Label(t.Name)
		name := slices.Index(p.Names, label)
		if name < 0 {
			name = len(p.Names)
			p.Names = append(p.Names, label)
		}
		e := history.Event{End: t.EndMilli(), Name: uint32(name), Outcome: uint8(t.Outcome), Duration: -1, Tokens: -1}
		if t.HasDuration && t.Duration >= 0 {
			e.Duration = t.Duration.Microseconds()
		}
		if t.HasTokens {
			e.Tokens = t.Tokens
		}
		p.Events = append(p.Events, e)
	}
	return out
}

// families returns what the exporter exposes of a project.
func (w *World) families(project string) []*dto.MetricFamily {
	if w.exposed[project] == nil {
		if w.exposed == nil {
			w.exposed = map[string][]*dto.MetricFamily{}
		}
		w.exposed[project] = w.count(project)
	}
	return w.exposed[project]
}

// Forget forgets what is exposed, after a change of the World.
func (w *World) Forget() { w.exposed = nil }

// count counts the traces of a project as the exporter does.
func (w *World) count(project string) []*dto.MetricFamily {
	cfg := aggregate.Config{Success: []string{"success"}, Failure: []string{"failure"}, MaxNames: 1000, DurationBuckets: DurationBuckets, TokenBuckets: TokenBuckets}
	set := aggregate.New(cfg, time.Unix(0, 0))
	var ev ledger.Events
	for i := range w.Traces {
		t := &w.Traces[i]
		if t.Project != project {
			continue
		}
		row := ledger.Row{
			ID: ledger.KeyOf(strconv.Itoa(i)), Name: t.Name, Status: t.Outcome.String(), HasStatus: true,
			End: t.End, Duration: t.Duration, HasDuration: t.HasDuration, Tokens: t.Tokens, HasTokens: t.HasTokens,
		}
		if t.Outcome == aggregate.Abandoned {
			row.End = time.Time{}
		}
		ev.Counted = append(ev.Counted, ledger.Counted{Row: row, Abandoned: t.Outcome == aggregate.Abandoned})
	}
	set.Apply(ev, time.Unix(0, 0), time.Unix(0, 0))
	b := &builder{project: project, world: w}
	for _, n := range set.All() {
		b.addName(n)
	}
	return b.families
}

type builder struct {
	project  string
	world    *World
	families []*dto.MetricFamily
}

func (b *builder) add(family string, m prometheus.Metric, labels ...string) *dto.Metric {
	out := &dto.Metric{}
	if m != nil {
		if err := m.Write(out); err != nil {
			panic(err)
		}
	}
	for pair := range slices.Chunk(labels, 2) {
		out.Label = append(out.Label, &dto.LabelPair{Name: &pair[0], Value: &pair[1]})
	}
	i := slices.IndexFunc(b.families, func(f *dto.MetricFamily) bool { return f.GetName() == family })
	if i < 0 {
		i = len(b.families)
		b.families = append(b.families, &dto.MetricFamily{Name: &family, Type: kindOf(family)})
	}
	b.families[i].Metric = append(b.families[i].Metric, out)
	return out
}

var desc = prometheus.NewDesc("desc", "", nil, nil)

func (b *builder) addName(n *aggregate.Aggregate) {
	labels := []string{"project", b.project, "trace_name", n.Label}
	for _, o := range aggregate.Outcomes {
		t, labels := &n.ByOutcome[o], append([]string{"outcome", o.String()}, labels...)
		b.add("opper_traces_total", prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(t.Traces)), labels...)
		b.add("opper_trace_tokens_total", prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(t.Tokens)), labels...)
		if o != aggregate.Abandoned {
			b.addHistogram("opper_trace_duration_seconds", &t.Durations, DurationBuckets, 1e6, labels...)
		}
	}
	b.addHistogram("opper_tokens_per_trace", &n.Tokens, TokenBuckets, 1, labels...)
	b.add("opper_traces_open", prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1), labels...)
	if !n.LastEnd.IsZero() {
		b.add("opper_trace_last_end_timestamp_seconds", prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n.LastEnd.UnixMicro())/1e6), labels...)
	}
}

func (b *builder) addHistogram(family string, h *aggregate.Histogram, bounds []float64, perOne float64, labels ...string) {
	sum := float64(h.Sum) / perOne
	var m prometheus.Metric
	if b.world.Native {
		buckets := map[int]int64{}
		for _, bucket := range h.Positive {
			buckets[int(bucket.Key)] = int64(bucket.Count)
		}
		var err error
		m, err = prometheus.NewConstNativeHistogram(desc, h.Count, sum, buckets, nil, h.Zero, h.Schema(), aggregate.ZeroThreshold, time.Unix(0, 0))
		if err != nil {
			panic(err)
		}
	}
	out := b.add(family, m, labels...)
	if out.Histogram == nil {
		out.Histogram = &dto.Histogram{SampleCount: &h.Count, SampleSum: &sum}
	}
	if !b.world.Classic {
		return
	}
	var count uint64
	for i := range bounds {
		if h.Count > 0 {
			count += h.Classic[i]
		}
		cumulative := count
		out.Histogram.Bucket = append(out.Histogram.Bucket, &dto.Bucket{UpperBound: &bounds[i], CumulativeCount: &cumulative})
	}
	above := math.Inf(1) // which the exporter has if there is an exemplar
	out.Histogram.Bucket = append(out.Histogram.Bucket, &dto.Bucket{UpperBound: &above, CumulativeCount: &h.Count})
}
