// Package e2e_test runs the exporter as users do: the real binary, scraped by a
// real Prometheus server.
package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "opper_exporter")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "opper_exporter")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-o", binary, "opper_exporter").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	m.Run() // the process ends with what it returned
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
}

var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// process is an exporter that was started.
type process struct {
	cmd   *exec.Cmd
	log   promtest.Output
	ended chan struct{} // closed when it has
}

// command is what starts the binary against an Opper, on a free port.
func command(url string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{
		"--opper.url=" + url, "--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0",
	}, args...)...)
	cmd.Env = append(os.Environ(), "OPPER_API_KEY=key")
	return cmd
}

// start runs a command. What still runs at the end of the test is killed.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	promtest.DependOnSources(t)
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // the state of the process says the same and more
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error says that it has ended
		<-p.ended
		if t.Failed() {
			t.Logf("%v\n%s", cmd.ProcessState, p.log.String())
		}
	})
	return p
}

// address returns where the process listens, once it does.
func (p *process) address() (string, bool) {
	found := listening.FindStringSubmatch(p.log.String())
	if found == nil {
		return "", false
	}
	return found[1], true
}

// running fails the test if the process has ended.
func (p *process) running(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("the exporter has ended: %v", p.cmd.ProcessState)
	default:
	}
}

// listening returns where the process listens, when it does.
func (p *process) listening(t testing.TB) string {
	t.Helper()
	var address string
	promtest.Eventually(t, func() (err error) {
		p.running(t)
		var ok bool
		if address, ok = p.address(); !ok {
			err = errors.New("no address in the log")
		}
		return err
	})
	return address
}

// ready waits until the first walk is published, and returns the address.
func (p *process) ready(t testing.TB) string {
	t.Helper()
	address := p.listening(t)
	promtest.Eventually(t, func() error {
		p.running(t)
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ready: %s", resp.Status)
		}
		return nil
	})
	return address
}

// stop ends the process as an operator does. Its status must be 0.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	<-p.ended
	if !p.cmd.ProcessState.Success() {
		t.Errorf("exporter: %v", p.cmd.ProcessState)
	}
}

// opper serves an Opper and returns its URL.
func opper(t testing.TB, s *oppertest.Server) string {
	t.Helper()
	upstream := httptest.NewServer(s)
	t.Cleanup(upstream.Close)
	return upstream.URL
}

// exporter starts the binary against an Opper and returns its address once it
// is ready. It must end with status 0 when it is told to stop.
func exporter(t *testing.T, s *oppertest.Server, args ...string) string {
	t.Helper()
	p := start(t, command(opper(t, s), append([]string{"--storage.path=" + t.TempDir()}, args...)...))
	t.Cleanup(func() { p.stop(t) })
	return p.ready(t)
}

// What Opper's documented example program computes from the list (the average
// duration, the average tokens, and the share of traces whose status is
// success) comes out of a real Prometheus server, over protobuf and over text.
func TestPrometheus(t *testing.T) {
	began := time.Now().Add(-5 * time.Hour)
	s := oppertest.New(oppertest.Config{Seed: 1})
	s.FillHistory(2500, 12, began, time.Now().Add(-2*time.Hour))
	walking := time.Now()
	address := exporter(t, s, "--collector.success-status=success")
	sums, err := oracle.NewTruth(s, oracle.Rules{
		Settle: 30 * time.Second, Abandon: time.Hour, InitialSync: walking, InitialSyncDone: time.Now(), Success: []string{"success"},
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

// The default buckets.
var (
	durationBounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	tokenBounds    = []float64{16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}
)

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
	for _, upper = range durationBounds {
		if seconds <= upper {
			return lower, upper
		}
		lower = upper
	}
	return lower, math.Inf(1)
}
