package check

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
	"opper_exporter/opper/oppertest"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	projectKey = "op-TESTKEY4PROJECTCHECK"
	ownProject = "0b6f1c6e-0000-4000-8000-000000000001"
)

// The list is a day long and ends now, which is before a state of any real clock.
var now = time.Date(2020, 11, 26, 12, 0, 0, 0, time.UTC)

// fakeClock moves with each request that the server gets.
type fakeClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fixture is an Opper with some traces, and a check of it.
type fixture struct {
	*oppertest.Server
	usage *oppertest.Usage
	url   string
	clock fakeClock
	took  time.Duration // by each request
	key   string
	args  []string
}

func newFixture(t *testing.T, cfg oppertest.Config, traces int) *fixture {
	t.Helper()
	f := &fixture{clock: fakeClock{at: now}, took: 200 * time.Millisecond, key: projectKey}
	f.usage = oppertest.NewUsage(oppertest.UsageConfig{Now: f.clock.now})
	cfg.Key, cfg.Usage, cfg.Project = projectKey, f.usage, ownProject
	f.Server = oppertest.New(cfg)
	f.FillHistory(traces, min(traces, 7), now.Add(-24*time.Hour), now)
	f.OnRequest(func(oppertest.Request) { f.clock.add(f.took) })
	server := httptest.NewServer(f.Server)
	t.Cleanup(server.Close)
	f.url = server.URL
	f.args = []string{"--collector.failure-status=error,failed,failure,cancelled"}
	return f
}

func (f *fixture) config(t *testing.T, args ...string) *config.Validated {
	t.Helper()
	args = append(append([]string{"check", "--storage.path=" + filepath.Join(t.TempDir(), "data"), "--opper.url=" + f.url}, f.args...), args...)
	for i, arg := range args { // kingpin takes no flag twice
		if strings.HasPrefix(arg, "--storage.path=") && i > 1 {
			args[1], args[i] = arg, "--log.level=info"
		}
	}
	cfg, _, err := config.Parse(args, func(name string) string { return map[string]string{"OPPER_API_KEY": f.key}[name] }, &strings.Builder{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// check returns what is printed, and the error.
func (f *fixture) check(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cfg := f.config(t, args...)
	err := run(t.Context(), cfg, &out, f.clock.now)
	got := strings.NewReplacer(f.url, "http://opper.example", strings.TrimPrefix(f.url, "http://"), "opper.example:80", cmp.Or(cfg.StoragePath, "\x00"), "DATA").Replace(out.String())
	if i := strings.IndexFunc(out.String(), func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }); i >= 0 || strings.Contains(out.String(), `\u`) {
		t.Errorf("not printable, from byte %d: %q", i, out.String())
	}
	for _, secret := range []string{oppertest.Secret, f.key, projectKey} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%s is printed", secret)
		}
	}
	return got, err
}

// use makes calls of models, the first of which cost more, of each of some Opper
// projects, over the last two days. The latest are of the traces listed last.
func (f *fixture) use(models int, projects ...string) {
	rows, _, _ := f.List(0, 20)
	for _, project := range projects {
		for i := range models {
			for j := range 48 {
				call := oppertest.Call{
					Time: now.Add(-time.Duration(j)*time.Hour - time.Minute), Model: new(fmt.Sprintf("provider/model-%02d", i)), Project: project,
					Amounts: oppertest.Amounts{Cost: int64(1_234_567_890 >> i), InputTokens: 1000, OutputTokens: 100},
				}
				if j == 0 && i < len(rows) {
					call.Trace = rows[i].ID
				}
				f.usage.Add(call)
			}
		}
	}
}

// Each state of an account has its text, and its exit status: 1 with an error.
func TestStates(t *testing.T) {
	t.Parallel()
	otherState := newFixture(t, oppertest.Config{Seed: 1}, 500).state(t)
	closed := httptest.NewServer(nil)
	closed.Close()
	for name, c := range map[string]struct {
		cfg     oppertest.Config
		traces  int
		prepare func(*fixture)
		found   string // in the problem; empty if there is none
	}{
		"healthy":   {traces: 5000, prepare: func(f *fixture) { f.use(7, ownProject) }},
		"wrong key": {traces: 500, prepare: func(f *fixture) { f.key = "op-WRONG" }, found: "401"},
		"empty":     {found: "lists no traces"},
		"unmapped words": {traces: 500, prepare: func(f *fixture) {
			f.args = []string{"--collector.success-status=success,ok"}
			for i := range 100 {
				f.Add(oppertest.Trace{ID: fmt.Sprint("evil", i), Name: new("\x1b[31mred\u202e\n"), Status: new("Needs\x1b[2J Review\n"), Start: &now, End: &now})
			}
		}, found: "cancelled"},
		"no retention rule": {prepare: func(f *fixture) { f.use(2, ownProject) }},
		"usage refused":     {traces: 500, prepare: func(f *fixture) { f.usage.SetTroubles(oppertest.UsageTroubles{Status: 403, BudgetStatus: 403}) }, found: "(403)"},
		"organization": {traces: 500, prepare: func(f *fixture) {
			f.use(2, ownProject, "0b6f1c6e-0000-4000-8000-000000000002", "0b6f1c6e-0000-4000-8000-000000000003")
			f.usage.SetTroubles(oppertest.UsageTroubles{OrganizationWide: true, RefuseGroups: []string{"trace_uuid"}, BudgetStatus: 404})
		}},
		"blocked": {traces: 500, prepare: func(f *fixture) {
			f.use(1, ownProject)
			f.usage.SetBudget(ownProject, oppertest.Budget{LimitCents: new(int64(5000)), Blocked: true})
		}, found: "blocks"},
		"huge pages":    {traces: 150, cfg: oppertest.Config{BodyBytes: 60_000}, found: "large"},
		"slow":          {traces: 5000, prepare: func(f *fixture) { f.took = 16 * time.Second }, found: "slow"},
		"unordered":     {traces: 5000, cfg: oppertest.Config{SortBy: oppertest.ByID}, found: "not sorted"},
		"other project": {traces: 500, prepare: func(f *fixture) { f.args = append(f.args, "--storage.path="+otherState) }, found: "other upstream"},
		"HTML gateway":  {traces: 500, prepare: fail(oppertest.HTML), found: "web page"},
		"429":           {traces: 500, prepare: fail(oppertest.TooMany("120")), found: "429"},
		"down":          {traces: 500, prepare: func(f *fixture) { f.url = closed.URL }, found: "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, c.cfg, c.traces)
			if c.prepare != nil {
				c.prepare(f)
			}
			text, err := f.check(t)
			if (err != nil) != (c.found != "") || err != nil && err.Error() != "check found a problem" {
				t.Errorf("error %v", err)
			}
			golden(t, filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt"), text)
			for line := range strings.Lines(text) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 100 {
					t.Errorf("%d columns: %s", n, line)
				}
			}

			out, err := f.check(t, "--json")
			if (err != nil) != (c.found != "") {
				t.Errorf("with --json: error %v", err)
			}
			var got struct {
				Healthy  bool
				Projects []Report
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Projects) != 1 {
				t.Fatalf("%v in %s", err, out)
			}
			problems := got.Projects[0].Problems
			if got.Healthy != (c.found == "") || len(problems) != count(c.found != "") {
				t.Fatalf("healthy %t, problems %+v", got.Healthy, problems)
			}
			if c.found != "" && !strings.Contains(problems[0].Text, c.found) {
				t.Errorf("problem %q, want %q in it", problems[0].Text, c.found)
			}
		})
	}
}

func fail(answer oppertest.Answer) func(*fixture) {
	return func(f *fixture) { f.Fail(oppertest.Fault{Answer: answer, Times: -1}) }
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has\n%s\ngot\n%s", path, want, got)
	}
}

// state returns the directory of a state of the fixture's list.
func (f *fixture) state(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := f.config(t, "--opper.max-requests-per-second=0")
	clock := collector.NewClock()
	c, err := collector.New([]config.Project{cfg.Projects[0]}, collector.Deps{Logger: log.NewNopLogger(), Clock: clock, Store: state})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !c.IsReady("") {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("not ready")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}
