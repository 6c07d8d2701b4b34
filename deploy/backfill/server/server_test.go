package server

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/promtest"
)

// target exposes projects, and counts three traces of each before every scrape.
func target(t *testing.T, projects ...string) (address string, first []*dto.MetricFamily) {
	t.Helper()
	registry := prometheus.NewRegistry()
	labels := []string{"project", "trace_name", "outcome"}
	traces := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "opper_traces_total"}, labels)
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "opper_trace_tokens_total"}, labels)
	lastEnd := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "opper_trace_last_end_timestamp_seconds"}, labels[:2])
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "opper_trace_duration_seconds", Buckets: []float64{0.5, 60}, NativeHistogramBucketFactor: 1.5}, labels)
	empty := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "opper_tokens_per_trace", Buckets: []float64{16}, NativeHistogramBucketFactor: 1.1}, labels[:2])
	open := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "opper_traces_open"}, labels[:2])
	registry.MustRegister(open, traces, tokens, lastEnd, durations, empty)
	count := func() {
		for _, project := range projects {
			for _, outcome := range []string{"success", "failure"} {
				traces.WithLabelValues(project, "a", outcome).Add(3)
				tokens.WithLabelValues(project, "a", outcome).Add(1.0 / 3) // of many digits
				for _, seconds := range []float64{0, 0.3, 70} {
					durations.WithLabelValues(project, "a", outcome).Observe(seconds)
				}
			}
			lastEnd.WithLabelValues(project, "a").Add(1_800_000_000.123456)
			empty.WithLabelValues(project, "a")
			open.WithLabelValues(project, "a")
		}
	}
	count()
	first, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	first = slices.DeleteFunc(first, func(f *dto.MetricFamily) bool { return f.GetName() == metric }) // which has no history
	scraped := false
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if scraped {
			count()
		}
		scraped = true
		metrics.ServeHTTP(w, r)
	}))
	t.Cleanup(exporter.Close)
	return exporter.Listener.Addr().String(), first
}

// asText shows all that a history takes from families, by labels.
func asText(families []*dto.MetricFamily, more map[string]string) map[string]string {
	all := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := model.Metric{model.MetricNameLabel: model.LabelValue(f.GetName())}
			for name, value := range more {
				labels[model.LabelName(name)] = model.LabelValue(value)
			}
			for _, l := range m.GetLabel() {
				labels[model.LabelName(l.GetName())] = model.LabelValue(l.GetValue())
			}
			h := m.GetHistogram()
			text := fmt.Sprint(f.GetType(), m.GetCounter().GetValue(), m.GetGauge().GetValue(), h.GetSampleCount(), h.GetSampleSum())
			for _, b := range h.GetBucket() {
				if !math.IsInf(b.GetUpperBound(), 1) {
					text += fmt.Sprint(" ", b.GetUpperBound(), ":", b.GetCumulativeCount())
				}
			}
			if h != nil && h.Schema != nil {
				text += fmt.Sprint(", schema ", h.GetSchema(), " zero ", h.GetZeroCount())
			}
			key, count, deltas := int32(0), int64(0), h.GetPositiveDelta()
			for _, span := range h.GetPositiveSpan() {
				key += span.GetOffset()
				for range span.GetLength() {
					if len(deltas) > 0 { // client_golang marks an empty native histogram by a span
						count += deltas[0]
						text += fmt.Sprint(" ", key, ":", count)
						deltas = deltas[1:]
					}
					key++
				}
			}
			all[labels.String()] = text
		}
	}
	return all
}

// The labels, the first scrape, the retention and the head are those of a real server.
func TestLookAtAServer(t *testing.T) {
	both, want := target(t, "one", "two")
	probed := map[string]string{}
	for _, project := range []string{"one", "two"} {
		probed[project], _ = target(t, project)
	}
	p := promtest.Start(t, promtest.Config{
		YAML: strings.NewReplacer("BOTH", both, "ONE", probed["one"], "TWO", probed["two"]).Replace(`
global: {scrape_interval: 3s, scrape_timeout: 3s}
scrape_configs:
- job_name: opper
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
  static_configs: [{targets: [BOTH], labels: {region: eu, a.b: c}}]
- job_name: probe
  static_configs: [{targets: [ONE, TWO]}]
`),
		Flags: []string{"--storage.tsdb.retention.time=33d", "--storage.tsdb.retention.size=10GB"},
	})
	p.WaitScrapes(t, "opper", 3)
	p.WaitScrapes(t, "probe", 3)

	projects := []string{"one", "two"}
	at := parse(t, p.URL())
	live, err := Look(t.Context(), at, projects, map[string]string{"job": "opper"})
	if err != nil {
		t.Fatal(err)
	}
	var got []*dto.MetricFamily
	for _, project := range projects {
		got = append(got, live.First[project].Exposed...)
	}
	if got, want := asText(got, nil), asText(want, map[string]string{"job": "opper", "instance": both, "region": "eu", "a.b": "c"}); !maps.Equal(got, want) || len(want) != 16 {
		t.Errorf("the first scrape is\n%v, want\n%v", got, want)
	}
	samples, err := p.Samples(t.Context(), `opper_traces_total{job="opper"}`, time.Hour)
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	for _, series := range samples {
		if first, found := series.Values[0].Timestamp.Time(), live.First[string(series.Metric["project"])].At; !first.Equal(found) {
			t.Errorf("the first sample of %v is of %v, found %v", series.Metric, first, found)
		}
		if live.Head.IsZero() || live.Head.After(series.Values[0].Timestamp.Time()) || time.Since(live.Head) > time.Hour {
			t.Errorf("the head begins at %v, after the first sample", live.Head)
		}
	}
	if want := 33 * 24 * time.Hour; live.Retention != want {
		t.Errorf("the retention is %v, want %v", live.Retention, want)
	}

	// Projects may be scraped from several targets, and without native histograms.
	live, err = Look(t.Context(), at, append(projects, "without traces"), map[string]string{"job": "probe"})
	if err != nil || len(live.First) != 2 {
		t.Fatal(live, err)
	}
	for project, address := range probed {
		text := asText(live.First[project].Exposed, nil)
		for labels, value := range text {
			if !strings.Contains(labels, fmt.Sprintf("instance=%q", address)) || !strings.Contains(labels, fmt.Sprintf("project=%q", project)) || strings.Contains(value, "schema") {
				t.Errorf("%s has %s: %s", project, labels, value)
			}
		}
		if len(text) != 8 {
			t.Errorf("%s has %v", project, text)
		}
	}

	for name, test := range map[string]struct {
		projects []string
		labels   map[string]string
		want     string
	}{
		"several instances":         {projects, nil, `has the live series of several instances, choose one with --label: "a.b"="c", instance=`},
		"a label that is not there": {projects, map[string]string{"job": "opper", "instance": "b"}, `--label: no live series has instance="b", job="opper": they have "a.b"="c", instance=`},
		"another project":           {[]string{"three"}, nil, `has no series opper_traces_open of project three, only of project="one", project="two"`},
	} {
		_, err := Look(t.Context(), at, test.projects, test.labels)
		if err == nil || !strings.HasPrefix(err.Error(), "--from-server="+p.URL()+": "+test.want) {
			t.Errorf("%s: the error is %v, want %s", name, err, test.want)
		}
	}

	empty := promtest.Start(t, promtest.Config{YAML: "global: {}\n"})
	if _, err := Look(t.Context(), parse(t, empty.URL()), projects, nil); err == nil || !strings.HasSuffix(err.Error(), "has no series opper_traces_open of the last 32 days: does it scrape the exporter?") {
		t.Errorf("without series the error is %v", err)
	}
}

func parse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestURL(t *testing.T) {
	for _, address := range []string{"", "localhost:9090", "/prometheus", "ftp://localhost", "http://", "http://a b"} {
		if u, err := ParseURL(address); err == nil || !strings.HasPrefix(err.Error(), "expected a URL such as http://localhost:9090, got ") {
			t.Errorf("%q: %v, %v", address, u, err)
		}
	}
}

// Series of another instance that began before have the traces of a history, too.
func TestOlderInstance(t *testing.T) {
	set := func(instance, project string, begin model.Time) *model.SampleStream {
		return &model.SampleStream{
			Metric: model.Metric{"instance": model.LabelValue(instance), "project": model.LabelValue(project)},
			Values: []model.SamplePair{{Timestamp: begin}, {Timestamp: begin + 9}},
		}
	}
	sets := model.Matrix{set("a", "one", 5), set("b", "one", 4), set("b", "two", 3), set("c", "three", 1)}
	for instance, want := range map[string]string{"a": "b", "b": ""} {
		chosen, older, err := choose(sets, []string{"one", "two"}, map[string]string{"instance": instance})
		if err != nil || chosen["one"].labels["instance"] != instance || (want == "") != (older == "") || !strings.Contains(older, want) {
			t.Errorf("%s: chosen is %v, older %v, want %q, %v", instance, chosen, older, want, err)
		}
	}
}

// Whatever else is behind the URL, there is one line that says so and shows no password.
func TestLookAtSomethingElse(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	answer := func(status int, kind, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body) // the client has gone away
		}))
		t.Cleanup(s.Close)
		return strings.Replace(s.URL, "http://", "http://user:private@", 1)
	}
	for name, test := range map[string]struct{ url, want string }{
		"not reachable": {closed.URL, "connect: connection refused"},
		"a login page":  {answer(200, "text/html; charset=utf-8", "<html>"), "answers /api/v1/query_range with text/html (200 OK), expected JSON of Prometheus' API"},
		"no Prometheus": {answer(404, "text/plain", "not found"), "answers /api/v1/query_range with text/plain (404 Not Found), expected JSON"},
		"unauthorized":  {answer(401, "", "no"), "answers /api/v1/query_range with no type of content (401 Unauthorized)"},
		"other JSON":    {answer(200, "application/json", "[]"), "bad_response: "},
		"an error":      {answer(503, "application/json", `{"status":"error","errorType":"unavailable","error":"starting up"}`), "server error: 503"},
		"other result":  {answer(200, "application/json", `{"status":"success","data":{"resultType":"vector","result":[]}}`), "with a vector, expected a matrix"},
	} {
		_, err := Look(t.Context(), parse(t, test.url), []string{"default"}, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "private") {
			t.Errorf("%s: the error is %v, want %s", name, err, test.want)
		}
	}
}

// onlyQueries answers for one series that has been scraped from first on.
type onlyQueries struct {
	first time.Time
	every time.Duration
}

func (o onlyQueries) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := func(param string) time.Time {
		seconds, err := strconv.ParseFloat(r.FormValue(param), 64)
		if err != nil {
			panic(err)
		}
		return time.UnixMilli(int64(math.Round(seconds * 1e3)))
	}
	var start, end time.Time
	var step time.Duration
	switch r.URL.Path {
	case "/api/v1/query_range":
		start, end = at("start"), at("end")
		step = time.Duration(at("step").UnixMilli()) * time.Millisecond
	case "/api/v1/query":
		end = at("time")
		start, step = end.Add(-time.Minute+time.Millisecond), time.Millisecond
	default:
		http.NotFound(w, r)
		return
	}
	var values []string
	for t := start; !t.After(end); t = t.Add(step) {
		// The last sample at t or before.
		last := t.Add(-(t.Sub(o.first) % o.every))
		if !t.Before(o.first) && last.After(t.Add(-step)) {
			values = append(values, fmt.Sprintf(`[%d.%03d,"1"]`, t.Unix(), t.UnixMilli()%1000))
		}
	}
	series := ""
	if len(values) > 0 {
		series = `{"metric":{"job":"opper","project":"default"},"values":[` + strings.Join(values, ",") + `]}`
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, series) // the client notices a cut answer
}

// The first sample is found wherever it lies between the hours and minutes that are
// asked for, on a server that has nothing but queries.
func TestFirstSample(t *testing.T) {
	now := time.UnixMilli(1_800_000_123_456)
	for range 200 {
		first := now.Add(-time.Duration(rand.Int64N(int64(oldest)))).Truncate(time.Millisecond)
		s := httptest.NewServer(onlyQueries{first: first, every: 15 * time.Second})
		live, err := lookAt(t.Context(), now, parse(t, s.URL), []string{"default"}, nil)
		s.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !live.First["default"].At.Equal(first) || live.Retention != 0 || !live.Head.IsZero() {
			t.Fatalf("the first sample is of %v, found %+v", first, live)
		}
	}
}

func TestRetention(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"15d": 15 * 24 * time.Hour, "30d or 10GiB": 30 * 24 * time.Hour, "10GiB": 0, "": 0, "1w or 80%": 7 * 24 * time.Hour,
	} {
		if got := retention(text); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
