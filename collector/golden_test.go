package collector

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const hostile = "line\nbreak \"quoted\" \\back {a=\"b\"} # 日本"

// fixedHistory is a project with all that can become of a trace, under names
// that are hard to write.
func fixedHistory(t testing.TB) *bench {
	t.Helper()
	cfg := testConfig()
	cfg.Aggregate.MaxNames, cfg.Aggregate.Costs = 4, true
	b := newBench(t, oppertest.Config{}, cfg)
	id := 0
	add := func(name string, change func(*oppertest.Trace)) {
		id++
		tr := b.trace(id, name)
		if change != nil {
			change(&tr)
		}
		b.opper.Add(tr)
	}
	lasting := func(ms float64, status string, tokens int64) func(*oppertest.Trace) {
		return func(tr *oppertest.Trace) {
			tr.Start = new(tr.End.Add(-time.Duration(ms * 1e6)))
			tr.DurationMS, tr.Status, tr.Tokens = &ms, &status, &tokens
		}
	}
	b.step(-time.Hour)
	for i, ms := range []float64{0, 40, 700, 750, 800, 2500, 90_000, 7_200_000} {
		b.step(time.Second)
		add("support-bot", lasting(ms, []string{"success", "OK", "error"}[i%3], int64(10<<(2*i))))
	}
	add("support-bot", func(tr *oppertest.Trace) { tr.Status = nil })
	add("support-bot", func(tr *oppertest.Trace) { tr.Status = new("cancelled") })
	add(hostile, lasting(60_000, "success", 0))
	add(hostile, func(tr *oppertest.Trace) { tr.Tokens = nil })
	add("", func(tr *oppertest.Trace) { tr.Name, tr.DurationMS = nil, new(-3.0) })
	add("", func(tr *oppertest.Trace) { tr.Start, tr.DurationMS = nil, nil })
	add("(other)", nil)
	add("(other)", func(tr *oppertest.Trace) { tr.Start, tr.End, tr.DurationMS = new(b.now().Add(-time.Hour)), nil, nil })
	add("one too many", lasting(1234.567, "failed", 1_000_000_000))
	add("support-bot", func(tr *oppertest.Trace) { tr.ID = "" })
	b.step(time.Hour)
	b.opper.Add(b.open(100, "support-bot"), b.open(101, ""), b.open(102, hostile))
	b.step(-time.Minute)
	b.sync()
	b.step(time.Minute)
	b.opper.Delete(b.open(101, "").ID)
	b.opper.Add(b.trace(103, "a later name"), b.trace(104, hostile))
	b.opper.Update(b.trace(16, "").ID, func(tr *oppertest.Trace) { tr.End = new(b.now()) })
	b.sync()
	b.step(settle)
	b.sync()
	b.applyCosts(map[int]aggregate.TraceCost{104: {Cost: 12_345_678_901, InputTokens: 2000, OutputTokens: 35}, 103: {Cost: 1}})
	return b
}

// encoded is an exposition in one format.
func encoded(t testing.TB, families []*dto.MetricFamily, format expfmt.Format, opts ...expfmt.EncoderOption) []byte {
	t.Helper()
	var out bytes.Buffer
	e := expfmt.NewEncoder(&out, format, opts...)
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	if c, ok := e.(expfmt.Closer); ok {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// afterField is where prototext puts a second space, or does not, by the
// build: so that nothing relies on it.
var afterField = regexp.MustCompile(`(?m)^(\s*\w+:) +`)

func TestGoldenExposition(t *testing.T) {
	families := fixedHistory(t).families()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			// client_golang makes these, with the real time.
			switch f.GetName() {
			case "opper_exporter_syncs_total", "opper_exporter_state_commits_total", "opper_exporter_api_requests_total", "opper_exporter_api_received_bytes_total", "opper_exporter_api_limit_wait_seconds_total":
				m.Counter.CreatedTimestamp = timestamppb.New(epoch)
			case "opper_exporter_sync_duration_seconds", "opper_exporter_api_request_duration_seconds":
				m.Histogram.CreatedTimestamp = timestamppb.New(epoch)
			}
		}
	}
	var proto bytes.Buffer
	for _, f := range families {
		proto.WriteString(prototext.MarshalOptions{Multiline: true}.Format(f) + "\n")
	}
	openMetrics, err := expfmt.NewOpenMetricsFormat(expfmt.OpenMetricsVersion_1_0_0)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"text":                encoded(t, families, expfmt.NewFormat(expfmt.TypeTextPlain)),
		"openmetrics":         encoded(t, families, openMetrics),
		"openmetrics-created": encoded(t, families, openMetrics, expfmt.WithCreatedLines()),
		"protobuf":            afterField.ReplaceAll(proto.Bytes(), []byte("$1 ")),
	} {
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s:\n%s", name, path, firstDifference(string(got), string(want)))
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + strings.Join(w[min(i, len(w)):min(i+1, len(w))], "")
		}
	}
	return "got less than wanted"
}

// promlint and promtool find nothing to say, hostile names included.
func TestExpositionPassesPromlint(t *testing.T) {
	b := fixedHistory(t)
	families := b.families()
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	text := encoded(t, families, expfmt.NewFormat(expfmt.TypeTextPlain))
	if out, err := promtest.Promtool(t, bytes.NewReader(text), "check", "metrics"); err != nil || out != "" {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
