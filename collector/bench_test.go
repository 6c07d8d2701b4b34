package collector

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/syncer"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

const (
	settle  = 30 * time.Second
	abandon = 20 * time.Minute
	apiKey  = "the-key-of-this-project"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is the time of the exporter and of Opper alike.
type clock struct{ us atomic.Int64 }

func (c *clock) now() time.Time       { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) step(d time.Duration) { c.us.Add(d.Microseconds()) }

// bench is a Project that reads an Opper in memory through the real client and
// real HTTP.
type bench struct {
	*clock
	t        testing.TB
	opper    *oppertest.Server
	http     *httptest.Server
	client   *opper.Client
	project  *project
	registry *prometheus.Registry
	log      promtest.Output
	begun    chan struct{} // holds one if a sync has begun
	begins   atomic.Int64  // how many have

	initialSync, initialSyncDone time.Time
	syncs                        []oracle.Sync
}

// setup is what the project of a test is made of.
type setup struct {
	config.Project
	Deps
	now    func() time.Time
	source func(opper.Priority, time.Time) syncer.Source
}

func testConfig() setup {
	return setup{Project: config.Project{
		Name: "default", SettleDelay: settle, AbandonAfter: abandon, Concurrency: 4, ClassicHistograms: true, NativeHistograms: true,
		Aggregate: aggregate.Config{
			Success: []string{"success", "ok", "completed"}, Failure: []string{"error", "failed", "failure"},
			MaxNames:        200,
			DurationBuckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
			TokenBuckets:    []float64{16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576},
		},
	}}
}

func newBench(t testing.TB, list oppertest.Config, cfg setup) *bench {
	t.Helper()
	b := &bench{t: t, clock: new(clock), begun: make(chan struct{}, 1)}
	b.us.Store(epoch.UnixMicro())
	list.Now, list.Key = b.now, apiKey
	b.opper = oppertest.New(list)
	b.http = httptest.NewServer(b.opper)
	t.Cleanup(b.http.Close)
	key, err := opper.FixedKey(apiKey)
	if err != nil {
		t.Fatal(err)
	}
	metrics := newInstrumentation(cfg.Name, cfg.NativeHistograms)
	client, err := opper.New(opper.Options{URL: b.http.URL, Key: key, Observe: func(code string, _ time.Duration) {
		metrics.observeRequest(code, 50*time.Millisecond) // the same in each run
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.client = client
	cfg.now, cfg.Logger = b.now, log.NewLogfmtLogger(&b.log)
	cfg.source = func(opper.Priority, time.Time) syncer.Source {
		b.begins.Add(1)
		select {
		case b.begun <- struct{}{}:
		default:
		}
		return client.WithRetries(0)
	}
	b.project = newTestProject(t, cfg, metrics)
	b.registry = prometheus.NewPedanticRegistry()
	b.registry.MustRegister(benchCollector{b})
	return b
}

func (b *bench) collector() *Collector { return collectorOf(b.project) }

// benchCollector is the Collector of what is the project by now.
type benchCollector struct{ *bench }

func (benchCollector) Describe(chan<- *prometheus.Desc)      {}
func (b benchCollector) Collect(ch chan<- prometheus.Metric) { b.collector().Collect(ch) }

func collectorOf(projects ...*project) *Collector {
	c := new(Collector)
	c.projects.Store(&projects)
	return c
}

func newTestProject(t testing.TB, cfg setup, metrics *instrumentation) *project {
	t.Helper()
	p, err := cfg.project(metrics)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (cfg setup) project(metrics *instrumentation) (*project, error) {
	if cfg.Clock == nil {
		cfg.Clock = followingClock(cfg.now)
	}
	p := newProject(cfg.Project, cfg.Deps, metrics, cfg.Clock.another(), cfg.source)
	if err := p.restore(); err != nil {
		return nil, err
	}
	p.expose()
	return p, nil
}

// followingClock returns a Clock that shows the time of another one, also where
// that jumps.
func followingClock(now func() time.Time) *Clock {
	began := now()
	return newClock(func() (time.Time, time.Duration) {
		at := now()
		return at, at.Sub(began)
	}, func() (string, time.Duration) { return "", 0 })
}

// start runs the project until the test ends.
func (b *bench) start() {
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = b.collector().Run(ctx) })
	b.t.Cleanup(func() { stop(); done.Wait() })
}

// awaitSyncs waits until so many syncs have begun in all.
func (b *bench) awaitSyncs(n int64) {
	for b.begins.Load() < n {
		<-b.begun
	}
}

// noted runs a sync, in a moment of its own, and notes when that was.
func (b *bench) noted(sync func()) {
	initialSync := b.initialSyncDone.IsZero()
	b.step(time.Millisecond)
	from := b.now()
	b.step(time.Millisecond)
	sync()
	b.step(time.Millisecond)
	to := b.now()
	b.step(time.Millisecond)
	if initialSync {
		b.initialSync, b.initialSyncDone = from, to
		return
	}
	// Here nothing is listed behind what has been served, so that a sync finds
	// all that a full scan would.
	b.syncs = append(b.syncs, oracle.Sync{Start: from, End: to, Full: true})
}

// sync does one sync that has to succeed.
func (b *bench) sync() {
	b.t.Helper()
	b.noted(func() { b.project.sync(b.t.Context()) })
	if b.gather()["opper_up{}"] != 1 {
		b.t.Fatalf("the sync failed\n%s", b.log.String())
	}
}

func (b *bench) truth() oracle.Truth {
	return oracle.NewTruth(b.opper, oracle.Rules{
		Settle: settle, Abandon: abandon, InitialSync: b.initialSync, InitialSyncDone: b.initialSyncDone, Syncs: b.syncs,
		Slack: time.Second,
	})
}

// values is an exposition as a plain map, from name{values of the labels} to
// the value. The labels are in the order of their names; project is left out.
type values map[string]float64

func (b *bench) gather() values {
	b.t.Helper()
	return valuesOf(b.families())
}

func (b *bench) families() []*dto.MetricFamily {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	return families
}

func valuesOf(families []*dto.MetricFamily) values {
	v := values{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetName() != "project" {
					labels = append(labels, l.GetValue())
				}
			}
			key := func(suffix string, more ...string) string {
				return f.GetName() + suffix + "{" + strings.Join(append(slices.Clone(labels), more...), ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				h := m.GetHistogram()
				v[key("_count")], v[key("_sum")] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, bucket := range h.GetBucket() {
					v[key("_bucket", fmt.Sprint(bucket.GetUpperBound()))] = float64(bucket.GetCumulativeCount())
				}
			case dto.MetricType_COUNTER:
				v[key("")] = m.GetCounter().GetValue()
			default:
				v[key("")] = m.GetGauge().GetValue()
			}
		}
	}
	return v
}

// of returns the values of some families.
func (v values) of(names ...string) values {
	out := values{}
	for k, value := range v {
		if name, _, _ := strings.Cut(k, "{"); slices.Contains(names, name) {
			out[k] = value
		}
	}
	return out
}

// traces returns what is said about traces, and not about how syncs go.
func (v values) traces() values {
	out := maps.Clone(v)
	maps.DeleteFunc(out, func(k string, _ float64) bool {
		for _, prefix := range []string{"opper_up{", "opper_exporter_syncs_", "opper_exporter_sync_", "opper_exporter_last_success_", "opper_exporter_api_"} {
			if strings.HasPrefix(k, prefix) {
				return true
			}
		}
		return false
	})
	return out
}

// differs lists the first differences; a missing value is a 0.
func (v values) differs(want values) error {
	var wrong []string
	for k := range maps.Keys(v) {
		if v[k] != want[k] {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", k, v[k], want[k]))
		}
	}
	for k := range maps.Keys(want) {
		if _, ok := v[k]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is missing, want %v", k, want[k]))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("%d differences:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 10)], "\n"))
}

// sumFamilies are those that the truth has a say in.
var sumFamilies = []string{
	"opper_traces_total", "opper_trace_tokens_total",
	"opper_trace_duration_seconds_count", "opper_trace_duration_seconds_sum",
	"opper_tokens_per_trace_count", "opper_tokens_per_trace_sum", "opper_exporter_durations_unusable_total",
}

// expected is what these should say.
func expected(truth oracle.Sums) values {
	v := values{
		"opper_exporter_durations_unusable_total{missing}":  float64(truth.Missing),
		"opper_exporter_durations_unusable_total{negative}": float64(truth.Negative),
	}
	for key, sum := range truth.By {
		labels := "{" + key.Outcome + "," + key.Name + "}"
		v["opper_traces_total"+labels] = float64(sum.Traces)
		v["opper_trace_tokens_total"+labels] = float64(sum.Tokens)
		if key.Outcome != "abandoned" {
			v["opper_trace_duration_seconds_count"+labels] = float64(sum.Durations)
			v["opper_trace_duration_seconds_sum"+labels] = float64(sum.Micros) / 1e6
		}
	}
	for name, sum := range truth.Tokens {
		v["opper_tokens_per_trace_count{"+name+"}"] = float64(sum.Traces)
		v["opper_tokens_per_trace_sum{"+name+"}"] = float64(sum.Tokens)
	}
	return v
}

// checkSums compares an exposition with the truth, which must be certain.
func (b *bench) checkSums(v values) {
	b.t.Helper()
	truth, err := b.truth().Sums()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := v.of(sumFamilies...).differs(expected(truth)); err != nil {
		b.t.Errorf("%v\n%s", err, b.log.String())
	}
}

// trace returns one that ended well a second after its start, now.
func (b *bench) trace(id int, name string) oppertest.Trace {
	end := b.now()
	return oppertest.Trace{
		ID:   fmt.Sprintf("00000000-0000-4000-8000-%012d", id),
		Name: &name, Status: new("success"), Start: new(end.Add(-time.Second)), End: &end,
		DurationMS: new(1000.0), Tokens: new(int64(100)),
	}
}

// open returns one that runs since now.
func (b *bench) open(id int, name string) oppertest.Trace {
	tr := b.trace(id, name)
	tr.Start, tr.End, tr.DurationMS, tr.Status, tr.Tokens = tr.End, nil, nil, nil, nil
	return tr
}

// finish ends a trace now.
func (b *bench) finish(id int) {
	b.t.Helper()
	if !b.opper.Update(b.trace(id, "").ID, func(tr *oppertest.Trace) {
		tr.End, tr.Status = new(b.now()), new("success")
	}) {
		b.t.Fatalf("%d is not listed", id)
	}
}

func sum(v values) float64 {
	total := 0.0
	for _, x := range v {
		total += x
	}
	return total
}

// get scrapes a handler.
func get(t testing.TB, h http.Handler, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	h.ServeHTTP(w, r)
	return w
}
