package grafana_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

var pastShown = flag.Duration("past", 30*time.Hour, "how much history TestPanelsAreFullAtFirstLook looks at")

const (
	// points are asked of each panel.
	points = 200
	// sparse is the share of points that may have no value: for a while an agent may not fail.
	sparse = 0.1
)

// inHistory are the metrics that a history has.
var inHistory = []string{
	"opper_traces_total", "opper_trace_tokens_total", "opper_trace_last_end_timestamp_seconds",
	"opper_trace_duration_seconds", "opper_trace_duration_seconds_bucket", "opper_trace_duration_seconds_count", "opper_trace_duration_seconds_sum",
	"opper_tokens_per_trace", "opper_tokens_per_trace_bucket", "opper_tokens_per_trace_count", "opper_tokens_per_trace_sum",
}

// As soon as the demo is up, each panel of traces has values for all of its time: at
// each point of a graph, and where there is one value only.
func TestPanelsAreFullAtFirstLook(t *testing.T) {
	server := promtest.At(startDemo(t, *pastShown))
	server.WaitScrapes(t, "opper", 2)
	step := (*pastShown / points).Round(time.Second)
	builtins := map[string]string{
		"__interval": seconds(step), "__rate_interval": seconds(max(step, 20*time.Minute)), "__range": seconds(*pastShown),
	}
	graphs, values := 0, 0
	for _, d := range readDashboards(t) {
		chosen, err := options(t, server, d)
		if err != nil {
			t.Fatal(err)
		}
		if v := d.variable("trace_name"); v != nil && !v.IncludeAll {
			chosen[v.Name] = []string{"sql-analyst"} // of all agents it fails most often, so each panel has something to show
		}
		for _, p := range d.all() {
			for _, target := range p.Targets {
				promql, err := d.fill(target.Expr, chosen, builtins)
				if err != nil {
					t.Fatal(err)
				}
				parsed, err := server.Parse(t.Context(), promql)
				if err != nil {
					t.Fatal(err)
				}
				offset, ok := lookBack(parsed)
				if !ok {
					continue
				}
				now := time.Now()
				begin := now.Add(-*pastShown + offset + time.Hour)
				if now.Before(begin) {
					continue // it asks for what was before
				}
				if !target.Range {
					begin = now
				}
				found, asked, err := answered(t.Context(), server, promql, begin, now, step)
				if err != nil {
					t.Fatal(err)
				}
				if float64(found) < (1-sparse)*float64(asked) {
					t.Errorf("%s, %s, %s: values at %d of %d points since %v\n%s", filepath.Base(d.file), p.Title, target.RefID, found, asked, begin, promql)
				}
				if target.Range {
					graphs++
				} else {
					values++
				}
			}
		}
	}
	if graphs < 5 || values < 5 {
		t.Errorf("only %d graphs and %d values are of traces", graphs, values)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0fs", d.Seconds()) }

// lookBack returns the longest offset of an expression; not ok if it asks for what a
// history lacks.
func lookBack(n *promtest.Node) (offset time.Duration, ok bool) {
	selectors := selectorsOf(n)
	for _, s := range selectors {
		if !slices.Contains(inHistory, s.Name) {
			return 0, false
		}
		offset = max(offset, s.Offset)
	}
	return offset, len(selectors) > 0
}

// answered returns at how many points an expression has a value.
func answered(ctx context.Context, server *promtest.Server, promql string, begin, end time.Time, step time.Duration) (found, asked int, err error) {
	matrix, err := server.QueryRange(ctx, promql, begin, end, step)
	if err != nil {
		return 0, 0, err
	}
	at := map[int64]bool{}
	for _, series := range matrix {
		for _, v := range series.Values {
			if finite(v.Value) {
				at[int64(v.Timestamp)] = true
			}
		}
		for _, h := range series.Histograms {
			at[int64(h.Timestamp)] = true
		}
	}
	return len(at), int(end.Sub(begin)/step) + 1, nil
}

// startDemo runs the demo, and returns the URL of its Prometheus.
func startDemo(t *testing.T, history time.Duration) string {
	t.Helper()
	root, err := promtest.ProjectDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "demo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./deploy/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address := exportertest.FreeAddress(t)
	cmd := exec.Command(path, "--prometheus", "--prometheus.listen-address="+address, "--history="+history.String(),
		"--opper.listen-address=127.0.0.1:0", "--web.listen-address="+exportertest.FreeAddress(t), "--exporter="+exportertest.Binary(t))
	cmd.Dir, cmd.Env = root, append(os.Environ(), "TMPDIR="+t.TempDir())
	demo := exportertest.MustStart(t, cmd)
	t.Cleanup(func() { demo.Stop(t) })
	promtest.Eventually(t, func() error {
		demo.MustRun(t)
		if !strings.Contains(demo.Log.String(), "http://"+address+"/alerts") {
			return errors.New("the demo is not up")
		}
		return nil
	})
	return "http://" + address
}
