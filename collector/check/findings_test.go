package check

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
	"opper_exporter/opper/oppertest"
)

// report returns what a check says as JSON.
func (f *fixture) report(t *testing.T, args ...string) *Report {
	t.Helper()
	out, _ := f.check(t, append(args, "--json")...)
	var got struct{ Projects []*Report }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return got.Projects[0]
}

func texts(findings []Finding) string {
	var all []string
	for _, f := range findings {
		all = append(all, f.Text+" "+f.Advice)
	}
	return strings.Join(all, "\n")
}

// What is found besides the states, each with what to do.
func TestFindings(t *testing.T) {
	t.Parallel()
	fault := func(status int, shape string) func(*fixture) { return fail(oppertest.Errors(status)[shape]) }
	for name, c := range map[string]struct {
		cfg           oppertest.Config
		prepare       func(*fixture)
		args          []string
		problem, note string // empty for none
	}{
		"suspended":          {prepare: fault(403, "v2 string"), problem: "account is suspended"},
		"gateway with 502":   {prepare: fault(502, "html"), problem: "answers with a web page"},
		"wrong path":         {prepare: fault(404, "v2 string"), problem: "/v2/traces (404)"},
		"redirect":           {prepare: fault(302, "empty"), problem: "redirects (302)"},
		"refused parameter":  {prepare: fault(422, "v2 list"), problem: "API is not as documented"},
		"failing":            {prepare: fault(503, "empty"), problem: "Opper fails: opper answered 503"},
		"no JSON":            {prepare: fail(oppertest.Garbage), problem: "answer cannot be used"},
		"timeout":            {prepare: fail(oppertest.Hang), args: []string{"--opper.timeout=2s"}, problem: "raise --opper.timeout (now 2s)"},
		"limited for a time": {prepare: func(f *fixture) { f.Fail(oppertest.Fault{Answer: oppertest.TooMany("0")}) }, problem: "lower --opper.max-requests-per-second (now no limit)"},
		"fails on the way":   {prepare: func(f *fixture) { f.Fail(oppertest.Fault{Answer: oppertest.Errors(403)["empty"], After: 3}) }, problem: "account is suspended"},
		"deep offsets":       {cfg: oppertest.Config{MaxOffset: 250}, problem: "from offset 300 on"},
		"too many names":     {args: []string{"--collector.max-trace-names=3"}, problem: "7 names are more than the limit of 3"},
		"all excluded":       {args: []string{"--collector.trace-name-include=none"}, problem: "excluded by their names"},
		"filter":             {args: []string{"--opper.name-filter=none"}, problem: "Check --opper.name-filter"},
		"shuffled":           {cfg: oppertest.Config{Shuffle: true}, problem: "not sorted"},
		"no total_count":     {cfg: oppertest.Config{TotalCount: func(int) *int { return nil }}, note: "how many traces are listed"},
		"no tokens":          {prepare: func(f *fixture) { f.url += "/v3" }, note: "use /v2"},
		"oldest first":       {cfg: oppertest.Config{OldestFirst: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, c.cfg, 500)
			if c.prepare != nil {
				c.prepare(f)
			}
			r := f.report(t, append(c.args, "--opper.max-requests-per-second=0")...)
			problems, notes := texts(r.Problems), texts(r.Notes)
			if !strings.Contains(problems, c.problem) || len(r.Problems) != count(c.problem != "") {
				t.Errorf("problems %q, want %q", problems, c.problem)
			}
			if !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

// A check that the time is up for says so, with what it has read.
func TestStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t, oppertest.Config{}, 5000)
	f.Fail(oppertest.Fault{After: 4, Times: -1, Answer: oppertest.Hang})
	deadline, stop := context.WithCancel(t.Context())
	defer stop()
	requests := 0
	f.OnRequest(func(oppertest.Request) {
		if requests++; requests > 4 {
			stop()
		}
	})
	r, err := check(deadline, f.config(t, "--opper.max-requests-per-second=0").Projects[0], new(storedState), f.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Sample.Stopped || !strings.Contains(texts(r.Notes), "with 3 of 8 pages read") || r.List == nil || *r.List.Listed != 5000 {
		t.Errorf("got %+v", r)
	}

	// Without any answer, that is the problem.
	f.Fail(oppertest.Fault{Times: -1, Answer: oppertest.Hang})
	deadline, stop = context.WithCancel(t.Context())
	defer stop()
	f.OnRequest(func(oppertest.Request) { stop() })
	r, err = check(deadline, f.config(t).Projects[0], new(storedState), f.clock.now)
	if err != nil || !strings.Contains(texts(r.Problems), "No usable answer") || r.Key.Accepted != nil {
		t.Errorf("got %+v, %v", r, err)
	}
}

// The initial sync costs what the check says.
func TestInitialSyncIsEstimated(t *testing.T) {
	t.Parallel()
	f := newFixture(t, oppertest.Config{}, 3000)
	traffic := f.report(t, "--opper.max-requests-per-second=0").Traffic
	f.ResetRequests()
	f.state(t)
	if got := f.RequestCount(); traffic.InitialRequests < got-1 || traffic.InitialRequests > got+1 {
		t.Errorf("%d requests, estimated were %d", got, traffic.InitialRequests)
	}
}

// The state is read and nothing is written, in use or not.
func TestStateIsCompared(t *testing.T) {
	t.Parallel()
	f := newFixture(t, oppertest.Config{}, 500)
	dir := f.state(t)
	before := contents(t, dir)
	if r := f.report(t, "--storage.path="+dir); r.State.Result != stateSame || r.State.Known != 500 || r.State.Listed != 500 || len(r.Problems) > 0 {
		t.Errorf("own state: %+v, problems %v", r.State, r.Problems)
	}
	if after := contents(t, dir); after != before {
		t.Error("the state was written")
	}
	if r := f.report(t, "--storage.path="); r.State.Result != stateDisabled {
		t.Errorf("disabled: %+v", r.State)
	}
	if r := f.report(t, "--opper.project=other", "--storage.path="+dir); r.State.Result != stateNone || len(r.Problems) > 0 {
		t.Errorf("other project: %+v", r.State)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if r := f.report(t, "--storage.path="+missing); r.State.Result != stateNone {
		t.Errorf("missing: %+v", r.State)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}

	// All that is listed began after the last sync: expiry explains that none is known.
	later := newFixture(t, oppertest.Config{Seed: 2}, 0)
	later.FillHistory(50, 3, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
	if r := later.report(t, "--storage.path="+dir); r.State.Result != stateUntold || len(r.Problems) > 0 {
		t.Errorf("newer traces: %+v, problems %v", r.State, r.Problems)
	}

	running, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r := f.report(t, "--storage.path="+dir); r.State.Result != stateInUse || len(r.Problems) > 0 {
		t.Errorf("in use: %+v, problems %v", r.State, r.Problems)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "opper_exporter.db")
	if err := os.Truncate(damaged, 5000); err != nil {
		t.Fatal(err)
	}
	if r := f.report(t, "--storage.path="+dir); r.State.Result != stateUnusable || !strings.Contains(texts(r.Problems), "is damaged") {
		t.Errorf("damaged: %+v, problems %v", r.State, r.Problems)
	}
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(e.Name() + string(content))
	}
	return all.String()
}

// A running exporter receives what the check says of a list in which nothing is new.
func TestIdleTrafficIsThatOfARunningExporter(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]oppertest.Config{
		"newest first":   {},
		"oldest first":   {OldestFirst: true},
		"no total_count": {TotalCount: func(int) *int { return nil }},
		"not sorted":     {SortBy: oppertest.ByID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list.BodyBytes = 1000 // alike in all rows
			f := newFixture(t, list, 1000)
			said := f.report(t, "--opper.max-requests-per-second=0").Traffic
			cfg := f.config(t, "--opper.max-requests-per-second=0").Projects[0]
			syncs := day.Seconds() / cfg.Interval.Seconds()
			cfg.Interval, cfg.SweepPause = 0, time.Hour // syncs are asked for, and sweeps wait
			c, err := collector.New([]config.Project{cfg}, collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			const n = 4
			for !c.IsReady("") { // until it runs, it does not sync
				c.Refresh(ctx, "")
			}
			c.Refresh(ctx, "") // settles what the initial sync has read
			before := received(t, c)
			for range n {
				c.Refresh(ctx, "")
			}
			got := (received(t, c) - before) / n
			cancel()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if want := (said.IdleBytes - said.SweepBytes) / syncs; math.Abs(got-want) > 0.1*want {
				t.Errorf("a sync receives %.0f bytes, said are %.0f", got, want)
			}
		})
	}
}

// received returns how many bytes a collector says that it has received.
func received(t *testing.T, c *collector.Collector) (bytes float64) {
	t.Helper()
	families, err := c.Gatherer("").Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "opper_exporter_api_received_bytes_total" {
			bytes += f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return bytes
}

// Traces that cannot be counted, or not by what matters, are no health.
func TestUnusableTracesAreProblems(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(*oppertest.Trace){
		"have no id and are never counted": func(tr *oppertest.Trace) { tr.ID = "" },
		"ended traces have no status":      func(tr *oppertest.Trace) { tr.Status = nil },
		"No trace has a usable duration":   func(tr *oppertest.Trace) { tr.Start = nil },
		"All 20 traces are open":           func(tr *oppertest.Trace) { tr.End, tr.Status = nil, nil },
		"":                                 func(*oppertest.Trace) {},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, oppertest.Config{}, 0)
			for i := range 20 {
				start, end := now.Add(-time.Hour), now.Add(-50*time.Minute)
				tr := oppertest.Trace{ID: "trace-" + strconv.Itoa(i), Name: new("a"), Status: new("success"), Start: &start, End: &end, Tokens: new(int64(7))}
				spoil(&tr)
				f.Add(tr)
			}
			problems := f.report(t).Problems
			found := slices.ContainsFunc(problems, func(p Finding) bool { return want != "" && strings.Contains(p.Text, want) })
			if found != (want != "") || want == "" && len(problems) > 0 {
				t.Errorf("problems are %+v", problems)
			}
		})
	}
}
