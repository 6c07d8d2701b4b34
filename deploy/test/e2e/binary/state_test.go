package binary_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// operate runs a command about the state, without a key, and returns what it
// prints.
func operate(t *testing.T, dir string, status int, args ...string) string {
	t.Helper()
	cmd := command(t, nil, append([]string{"state"}, append(args, "--storage.path="+dir)...)...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("state %q: status %d, %v: %s", args, got, err, out)
	}
	if status != 0 && strings.Count(string(out), "\n") != 1 {
		t.Errorf("state %q: more than one line: %s", args, out)
	}
	return string(out)
}

// ofTraces returns what traces are exposed as.
func ofTraces(s samples) samples {
	got := maps.Clone(s)
	maps.DeleteFunc(got, func(key string, _ float64) bool {
		return !strings.HasPrefix(key, "opper_trace") && !strings.HasPrefix(key, "opper_tokens")
	})
	return got
}

// The commands about the state change nothing but what they are for.
func TestStateCommands(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	dir := filepath.Join(t.TempDir(), "data")
	if out := operate(t, dir, 1, "show"); out != "opper_exporter: error: --storage.path: there is no state in "+dir+"\n" {
		t.Error(out)
	}
	e := startReady(t, url, "--storage.path="+dir, "--collector.settle-delay=0s")
	before := ofTraces(e.scrape())
	for _, args := range [][]string{{"show"}, {"forget", "default"}, {"rename", "default", "new"}, {"copy", dir + "2"}} {
		if out := operate(t, dir, 1, args...); !strings.HasPrefix(out, "opper_exporter: error: --storage.path: "+dir+"/opper_exporter.db is in use by another process") {
			t.Error(out)
		}
	}
	e.end()

	text := operate(t, dir, 0, "show")
	for _, part := range []string{dir + "/opper_exporter.db: version ", "\nproject \"default\"\n", "  traces listed          120\n", "  \"agent-00\"  "} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	var shown struct {
		Projects []struct {
			Name, URL  string
			Listed     int
			TraceNames []struct {
				Name   string
				Traces map[string]float64
			} `json:"trace_names"`
		}
	}
	if err := json.Unmarshal([]byte(operate(t, dir, 0, "show", "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	got := samples{}
	for _, n := range shown.Projects[0].TraceNames {
		for outcome, traces := range n.Traces {
			got[fmt.Sprintf("opper_traces_total{outcome=%q,project=\"default\",trace_name=%q}", outcome, n.Name)] = traces
		}
	}
	if of := shown.Projects[0]; of.Name != "default" || of.URL != url+"/v2" || of.Listed != 120 || !maps.Equal(got, before.of("opper_traces_total")) {
		t.Errorf("shown %+v, want %v", shown, before.of("opper_traces_total"))
	}

	// A copy is a state of its own.
	operate(t, dir, 0, "copy", dir+"2")
	if out := operate(t, dir, 1, "copy", dir+"2"); !strings.Contains(out, "file already exists") {
		t.Error(out)
	}

	// A renamed project goes on.
	if out := operate(t, dir, 1, "rename", "default", "default"); !strings.Contains(out, `there is already a project "default"`) {
		t.Error(out)
	}
	operate(t, dir, 0, "rename", "default", "new")
	e = startReady(t, url, "--storage.path="+dir, "--opper.project=new")
	renamed := samples{}
	for key, v := range ofTraces(e.scrape()) {
		renamed[strings.ReplaceAll(key, `project="new"`, `project="default"`)] = v
	}
	if !maps.Equal(renamed, before) {
		t.Errorf("after the renaming %v, want %v", renamed, before)
	}
	e.end()

	// A name that was forgotten begins at 0, and the traces that it had are not
	// counted again.
	if out := operate(t, dir, 1, "forget", "new", "none"); !strings.Contains(out, `project "new" has no trace name "none"`) {
		t.Error(out)
	}
	operate(t, dir, 0, "forget", "new", "agent-00")
	e = startReady(t, url, "--storage.path="+dir, "--opper.project=new", "--collector.settle-delay=0s")
	const forgotten = `opper_traces_total{outcome="success",project="new",trace_name="agent-00"}`
	was := e.scrape()
	if _, there := was[forgotten]; there || was.sum("opper_traces_total") == 0 {
		t.Errorf("after it was forgotten: %v", was.of("opper_traces_total"))
	}
	now := time.Now()
	server.Add(oppertest.Trace{ID: "again", Name: new("agent-00"), Status: new("success"), Start: &now, End: &now})
	var values []float64
	await(t, "it is counted", func() bool {
		v, there := e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10")[forgotten]
		if there && !slices.Contains(values, v) {
			values = append(values, v)
		}
		return v > 0
	})
	if !slices.Equal(values, []float64{0, 1}) {
		t.Errorf("it was %v", values)
	}
	now2 := e.scrape()
	if now2.sum("opper_traces_total") != was.sum("opper_traces_total")+1 {
		t.Errorf("counted %v, want one more than %v", now2.of("opper_traces_total"), was.of("opper_traces_total"))
	}
	e.end()

	// A project that was forgotten begins with an initial sync.
	operate(t, dir, 0, "forget", "new")
	if text := operate(t, dir, 0, "show"); strings.Contains(text, "project \"") {
		t.Error(text)
	}
	e = startReady(t, url, "--storage.path="+dir, "--opper.project=new", "--collector.settle-delay=0s")
	if n := e.scrape().sum("opper_traces_total"); n != 121 {
		t.Errorf("%v traces are counted, want 121", n)
	}
	e.end()

	e = startReady(t, url, "--storage.path="+dir+"2")
	e.scrape().mustKeep(t, before)
	if left, err := os.ReadDir(dir + "2"); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
