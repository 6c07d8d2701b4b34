// Package e2e_test runs the exporter as users do: the real binary, scraped by a
// real Prometheus server.
package e2e_test

import (
	"fmt"
	"math"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

func TestMain(m *testing.M) { exportertest.Main(m) }

// command is what starts the exporter against an Opper.
func command(t testing.TB, url string, args ...string) *exec.Cmd {
	t.Helper()
	return exportertest.Command(exportertest.Binary(t), url, args...)
}

// start runs the exporter against an Opper.
func start(t testing.TB, url string, args ...string) *exportertest.Process {
	t.Helper()
	return exportertest.MustStart(t, command(t, url, args...))
}

// opper serves an Opper and returns its URL.
func opper(t testing.TB, s *oppertest.Server) string {
	t.Helper()
	upstream := httptest.NewServer(s)
	t.Cleanup(upstream.Close)
	return upstream.URL
}

// exporter starts the binary against an Opper and returns its address once it
// is ready. It must end with status 0 when it is asked to stop.
func exporter(t *testing.T, s *oppertest.Server, args ...string) string {
	t.Helper()
	p := start(t, opper(t, s), append([]string{"--storage.path=" + t.TempDir()}, args...)...)
	t.Cleanup(func() { p.Stop(t) })
	return p.AwaitReady(t)
}

// What Opper's documented example program computes from the list (the average
// duration, the average tokens, and the share of traces whose status is
// success) comes out of a real Prometheus server, over protobuf and over text.
func TestPrometheusAgreesWithOppersExample(t *testing.T) {
	began := time.Now().Add(-5 * time.Hour)
	s := oppertest.New(oppertest.Config{Seed: 1})
	s.FillHistory(2500, 12, began, time.Now().Add(-2*time.Hour))
	started := time.Now()
	address := exporter(t, s, "--collector.success-status=success")
	sums, err := oracle.NewTruth(s, oracle.Rules{
		Settle: 30 * time.Second, Abandon: time.Hour, InitialSync: started, InitialSyncDone: time.Now(), Success: []string{"success"},
	}).Sums()
	if err != nil {
		t.Fatal(err)
	}
	var all, success oracle.Sum
	var tokens oracle.TokenSum
	for key, sum := range sums.By {
		all.Traces += sum.Traces
		all.Durations += sum.Durations
		all.Micros += sum.Micros
		if key.Outcome == "success" {
			success.Traces += sum.Traces
		}
	}
	for _, sum := range sums.Tokens {
		tokens.Traces += sum.Traces
		tokens.Tokens += sum.Tokens
	}
	var durations []float64
	for _, tr := range s.Snapshot() {
		if d := seconds(tr); d >= 0 {
			durations = append(durations, d)
		}
	}
	slices.Sort(durations)
	median := durations[len(durations)/2]

	p := promtest.Start(t, promtest.Config{
		Flags: []string{"--enable-feature=exemplar-storage"},
		YAML: strings.ReplaceAll(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs:
- job_name: protobuf
  scrape_protocols: [PrometheusProto]
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
  static_configs: [{targets: [TARGET]}]
- job_name: text
  scrape_protocols: [OpenMetricsText1.0.0]
  static_configs: [{targets: [TARGET]}]
`, "TARGET", address),
	})
	p.WaitScrapes(t, "protobuf", 2)
	p.WaitScrapes(t, "text", 2)

	query := func(promql string, want, within float64) {
		t.Helper()
		promtest.Eventually(t, func() error {
			v, err := p.Query(t.Context(), promql, time.Now())
			if err != nil {
				return err
			}
			if len(v) != 1 || !(math.Abs(float64(v[0].Value)-want) <= within) {
				return fmt.Errorf("%s = %v, want %v within %v", promql, v, want, within)
			}
			return nil
		})
	}
	exact := 1e-9
	averageDuration := float64(all.Micros) / 1e6 / float64(all.Durations)
	averageTokens := float64(tokens.Tokens) / float64(tokens.Traces)
	for _, job := range []string{"protobuf", "text"} {
		for promql, want := range map[string]float64{
			`sum(opper_traces_total{JOB})`: float64(all.Traces),
			`sum(opper_traces_total{JOB,outcome="success"}) / sum(opper_traces_total{JOB})`:                          float64(success.Traces) / float64(all.Traces),
			`sum(opper_trace_duration_seconds_sum{JOB}) / sum(opper_trace_duration_seconds_count{JOB})`:              averageDuration,
			`sum(opper_tokens_per_trace_sum{JOB}) / sum(opper_tokens_per_trace_count{JOB})`:                          averageTokens,
			`sum(opper_trace_tokens_total{JOB})`:                                                                     float64(tokens.Tokens),
			`sum(opper_trace_duration_seconds_bucket{JOB,le="+Inf"}) - sum(opper_trace_duration_seconds_count{JOB})`: 0,
			`opper_up{JOB}`: 1,
		} {
			query(strings.ReplaceAll(promql, "JOB", fmt.Sprintf("job=%q", job)), want, exact*math.Abs(want))
		}
	}
	query(`histogram_avg(sum(opper_trace_duration_seconds{job="protobuf"}))`, averageDuration, exact*averageDuration)
	query(`histogram_avg(sum(opper_tokens_per_trace{job="protobuf"}))`, averageTokens, exact*averageTokens)
	query(`histogram_quantile(0.5, sum(opper_trace_duration_seconds{job="protobuf"}))`, median, 0.09*median)
	for _, job := range []string{"protobuf", "text"} {
		lower, upper := classicBucket(median)
		query(fmt.Sprintf(`histogram_quantile(0.5, sum by (le) (opper_trace_duration_seconds_bucket{job=%q}))`, job), (lower+upper)/2, (upper-lower)/2)
		series, err := p.Exemplars(t.Context(), fmt.Sprintf(`opper_trace_duration_seconds_bucket{job=%q}`, job), began, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, one := range series {
			for _, x := range one.Exemplars {
				tr, ok := s.Get(string(x.Labels["trace_id"]))
				if !ok {
					t.Errorf("job %s: no trace %v", job, x.Labels)
				} else if want := seconds(tr); math.Abs(float64(x.Value)-want) > 1e-6 || x.Timestamp.Time().Sub(*tr.End).Abs() > time.Millisecond {
					t.Errorf("job %s: exemplar %v at %v, want %v at %v", job, x.Value, x.Timestamp.Time(), want, tr.End)
				}
				found++
			}
		}
		if found == 0 {
			t.Errorf("job %s: no exemplars", job)
		}
	}
}

// seconds returns the duration of a trace, negative or NaN if it has none.
func seconds(tr oppertest.Trace) float64 {
	switch {
	case tr.DurationMS != nil:
		return *tr.DurationMS / 1e3
	case tr.Start != nil && tr.End != nil:
		return tr.End.Sub(*tr.Start).Seconds()
	}
	return math.NaN()
}

// classicBucket returns the bounds of the default bucket that takes a duration.
func classicBucket(seconds float64) (lower, upper float64) {
	for _, upper = range exportertest.DurationBuckets {
		if seconds <= upper {
			return lower, upper
		}
		lower = upper
	}
	return lower, math.Inf(1)
}
