package promtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
)

// exporter serves a gauge and a histogram that has 100 observations, 0.1 to
// 10.0 seconds, classic and native buckets and an exemplar.
type exporter struct {
	*httptest.Server
	gauge prometheus.Gauge

	mu    sync.Mutex
	types map[string]string // content type of the last answer by path
}

func newExporter(t *testing.T) *exporter {
	t.Helper()
	e := &exporter{types: map[string]string{}}
	e.gauge = prometheus.NewGauge(prometheus.GaugeOpts{Name: "test_value", Help: "A value."})
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                        "test_duration_seconds",
		Help:                        "A duration.",
		Buckets:                     []float64{1, 2.5, 5, 10},
		NativeHistogramBucketFactor: 1.1,
	})
	for i := 1; i <= 100; i++ {
		histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(float64(i)/10, prometheus.Labels{"trace_id": fmt.Sprint("t", i)})
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(e.gauge, histogram)
	handler := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.types[r.URL.Path] = w.Header().Get("Content-Type")
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *exporter) config(jobs string) Config {
	return Config{YAML: "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 100ms}\n" +
		"rule_files: [test.rules]\n" +
		"scrape_configs:\n" + strings.ReplaceAll(jobs, "TARGET", e.Listener.Addr().String())}
}

func TestServerScrapesAndAnswers(t *testing.T) {
	e := newExporter(t)
	c := e.config(`
- job_name: protobuf
  metrics_path: /protobuf
  scrape_protocols: [PrometheusProto]
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
  static_configs: [{targets: [TARGET]}]
- job_name: openmetrics
  metrics_path: /openmetrics
  scrape_protocols: [OpenMetricsText1.0.0]
  static_configs: [{targets: [TARGET]}]
`)
	c.RuleFiles = map[string]string{"test.rules": "groups: [{name: test, rules: [{record: test:up:sum, expr: sum(up)}]}]"}
	c.Flags = []string{"--enable-feature=exemplar-storage"}
	began := time.Now()
	s := Start(t, c)
	s.WaitScrapes(t, "protobuf", 2)
	s.WaitScrapes(t, "openmetrics", 2)

	e.mu.Lock()
	types := fmt.Sprint(e.types)
	e.mu.Unlock()
	for _, want := range []string{"/protobuf:application/vnd.google.protobuf", "/openmetrics:application/openmetrics-text"} {
		if !strings.Contains(types, want) {
			t.Errorf("the content types are %s, want %s", types, want)
		}
	}

	// A machine that is busy may fail a scrape between two queries: the next
	// one mends it.
	for _, test := range []struct {
		promql string
		want   float64
		within float64
	}{
		{`up{job="protobuf"}`, 1, 0},
		{`up{job="openmetrics"}`, 1, 0},
		// Half a native bucket of factor 1.1 is 5 %, interpolation does better.
		{`histogram_quantile(0.5, test_duration_seconds{job="protobuf"})`, 5, 0.25},
		{`histogram_quantile(0.5, sum by (le) (test_duration_seconds_bucket{job="protobuf"}))`, 5, 1e-9},
		{`histogram_quantile(0.5, sum by (le) (test_duration_seconds_bucket{job="openmetrics"}))`, 5, 1e-9},
		{`histogram_count(test_duration_seconds{job="protobuf"})`, 100, 0},
		{`histogram_sum(test_duration_seconds{job="protobuf"})`, 505, 1e-9},
	} {
		Eventually(t, func() error {
			v, err := s.Query(t.Context(), test.promql, time.Now())
			if err != nil {
				return err
			}
			if len(v) != 1 || math.Abs(float64(v[0].Value)-test.want) > test.within {
				return fmt.Errorf("%s = %v, want %v", test.promql, v, test.want)
			}
			return nil
		})
	}

	v, err := s.Query(t.Context(), `last_over_time(test_duration_seconds{job="protobuf"}[1m])`, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(v) != 1 || v[0].Histogram == nil || v[0].Histogram.Count != 100 {
		t.Errorf("the native histogram is %v, want 100 observations", v)
	}

	// A bucket keeps the exemplar that was observed last.
	for _, job := range []string{"protobuf", "openmetrics"} {
		series, err := s.Exemplars(t.Context(), fmt.Sprintf(`test_duration_seconds_bucket{job=%q,le="5.0"}`, job), began.Add(-time.Hour), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(series) != 1 || len(series[0].Exemplars) != 1 {
			t.Fatalf("the exemplars of job %s are %+v, want one", job, series)
		}
		x := series[0].Exemplars[0]
		if x.Labels["trace_id"] != "t50" || x.Value != 5 || time.Since(x.Timestamp.Time()) > time.Hour || series[0].Labels["job"] != model.LabelValue(job) {
			t.Errorf("the exemplar of job %s is %+v, want t50 with 5", job, series[0])
		}
	}

	Eventually(t, func() error {
		m, err := s.QueryRange(t.Context(), `test:up:sum`, began, time.Now(), 100*time.Millisecond)
		if err != nil {
			return err
		}
		if len(m) != 1 || len(m[0].Values) < 2 || m[0].Values[len(m[0].Values)-1].Value != 2 {
			return fmt.Errorf("the rule gives %v", m)
		}
		return nil
	})

	if _, err := s.Query(t.Context(), `1`, time.Now()); err == nil || !strings.Contains(err.Error(), "scalar") {
		t.Errorf("a scalar gives the error %v", err)
	}
	if _, err := s.Query(t.Context(), `sum(`, time.Now()); err == nil || !strings.Contains(err.Error(), "parse error") {
		t.Errorf("an expression that cannot be read gives the error %v", err)
	}
}

func TestWaitScrapesSeesWhatIsExposedNow(t *testing.T) {
	e := newExporter(t)
	c := e.config("- {job_name: test, static_configs: [{targets: [TARGET]}]}\n")
	s := Start(t, c)
	for i := range 10 {
		e.gauge.Set(float64(i))
		s.WaitScrapes(t, "test", 1)
		v, err := s.Query(t.Context(), "last_over_time(test_value[1m])", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(v) != 1 || v[0].Value != model.SampleValue(i) {
			t.Fatalf("the server has %v, want %d", v, i)
		}
	}
}

func TestWaitScrapesCountsScrapes(t *testing.T) {
	targets := []Target{
		{Job: "a", URL: "http://a1/metrics", Labels: model.LabelSet{"instance": "a1"}},
		{Job: "a", URL: "http://a2/metrics", Labels: model.LabelSet{"instance": "a2"}, LastError: "connection refused"},
		{Job: "b", Labels: model.LabelSet{"instance": "b1"}},
	}
	sample := func(instance string, n int) *model.Sample {
		return &model.Sample{Metric: model.Metric{"instance": model.LabelValue(instance)}, Value: model.SampleValue(n)}
	}
	for name, test := range map[string]struct {
		job     string
		scrapes model.Vector
		want    string
	}{
		"enough":        {"a", model.Vector{sample("a1", 2), sample("a2", 3)}, ""},
		"too few":       {"a", model.Vector{sample("a1", 2), sample("a2", 1)}, `1 of 2 scrapes of http://a2/metrics, last error: "connection refused"`},
		"never scraped": {"a", model.Vector{sample("a1", 2)}, "0 of 2 scrapes of http://a2/metrics"},
		"unknown job":   {"c", nil, `no target in job "c"`},
	} {
		err := scraped(targets, test.scrapes, test.job, 2)
		if fmt.Sprint(err) == "<nil>" && test.want == "" {
			continue
		}
		if err == nil || test.want == "" || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, test.want)
		}
	}
}

func TestServerEndsWithItsTest(t *testing.T) {
	var s *Server
	t.Run("inner", func(t *testing.T) {
		s = Start(t, Config{YAML: "global: {}\n"})
		if err := s.exited.Err(); err != nil {
			t.Fatalf("the server is not running: %v", err)
		}
	})
	if cause := context.Cause(s.exited); cause == nil || !strings.Contains(cause.Error(), "exit status 0") {
		t.Errorf("the server ended with %v, want exit status 0", cause)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/-/healthy", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("the server still answers %s", resp.Status)
	}
}

func TestRestartKeepsTheData(t *testing.T) {
	e := newExporter(t)
	s := Start(t, e.config("- {job_name: test, static_configs: [{targets: [TARGET]}]}\n"))
	e.gauge.Set(1)
	s.WaitScrapes(t, "test", 1)
	e.gauge.Set(2)
	s.Restart(t)
	s.WaitScrapes(t, "test", 1)
	series, err := s.Samples(t.Context(), "test_value", time.Hour)
	if err != nil || len(series) != 1 {
		t.Fatal(series, err)
	}
	if values := series[0].Values; values[0].Value > 1 || values[len(values)-1].Value != 2 {
		t.Errorf("the samples are %v, want those from before and after the restart", values)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir(), "wal")); err != nil {
		t.Error(err)
	}
}

// failed is a test that has failed, and keeps what it logs.
type failed struct {
	testing.TB
	cleanups []func()
	log      string
}

func (f *failed) Failed() bool                 { return true }
func (f *failed) Cleanup(c func())             { f.cleanups = append(f.cleanups, c) }
func (f *failed) Logf(format string, a ...any) { f.log += fmt.Sprintf(format, a...) }

func TestServerIsLoggedIfItsTestFails(t *testing.T) {
	f := &failed{TB: t}
	Start(f, Config{YAML: "global: {}\n"})
	for _, c := range f.cleanups {
		c()
	}
	if !strings.Contains(f.log, "Server is ready to receive web requests") || !strings.Contains(f.log, "See you next time!") {
		t.Errorf("the log is %q, want that of the server from start to end", f.log)
	}
}

func TestStartReportsABadConfig(t *testing.T) {
	_, err := start(t.TempDir(), Config{YAML: "nonsense: true\n"})
	if err == nil || !strings.Contains(err.Error(), "server ended: exit status") || !strings.Contains(err.Error(), "field nonsense not found") {
		t.Errorf("the error is %v, want the end of the server and its log", err)
	}
}

func TestAwaitReportsTheLastError(t *testing.T) {
	calls := 0
	if err := await(t.Context(), func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("await gives %v after %d calls, want nil after 3", err, calls)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cause, last := errors.New("the cause"), errors.New("the last one")
	err := await(ctx, func() error {
		cancel(cause)
		return last
	})
	if !errors.Is(err, cause) || !errors.Is(err, last) {
		t.Errorf("await gives %v, want both errors", err)
	}
}

func TestPromtoolReportsFaults(t *testing.T) {
	const good = "# HELP test_total A count.\n# TYPE test_total counter\ntest_total 1\n"
	if out, err := Promtool(t, strings.NewReader(good), "check", "metrics"); err != nil || out != "" {
		t.Errorf("a good exposition gives %v: %s", err, out)
	}
	const bad = "# TYPE test counter\ntest 1\n"
	out, err := Promtool(t, strings.NewReader(bad), "check", "metrics")
	if err == nil || !strings.Contains(out, "no help text") {
		t.Errorf("a bad exposition gives %v: %s", err, out)
	}
}
