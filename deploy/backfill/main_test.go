package main

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/backfill/plan"
	"opper_exporter/deploy/backfill/read"
	"opper_exporter/opper/oppertest"
)

const testKey = "op-test-KEY-51c7e0"

const day = 24 * time.Hour

// bench is an Opper in memory, and where the program writes what it reads there.
type bench struct {
	t      *testing.T
	opper  *oppertest.Server
	url    string
	output string
}

func newBench(t *testing.T, traces int, over time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, opper: oppertest.New(oppertest.Config{Key: testKey, NoRecord: true}), output: filepath.Join(t.TempDir(), "history")}
	if traces > 0 {
		now := time.Now()
		b.opper.FillHistory(traces, 3, now.Add(-over), now.Add(-time.Minute))
	}
	server := httptest.NewServer(b.opper)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

// run runs the program. Arguments that are given replace those that it needs.
func (b *bench) run(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	b.t.Helper()
	var all []string
	for _, needed := range []string{"--opper.url=" + b.url, "--opper.max-requests-per-second=0", "--output=" + b.output, "--label=job=opper", "--label=instance=exporter:16773", "--step=4m"} {
		name, _, _ := strings.Cut(needed, "=")
		if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, name) }) {
			all = append(all, needed)
		}
	}
	var out, errors bytes.Buffer
	status = run(ctx, append(all, args...), func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }, &out, &errors)
	for _, text := range []string{out.String(), errors.String()} {
		if strings.Contains(text, testKey) || strings.Contains(text, oppertest.Secret) {
			b.t.Fatalf("a secret is printed:\n%s", text)
		}
	}
	return status, out.String(), errors.String()
}

// mustRun runs the program, which has to succeed.
func (b *bench) mustRun(args ...string) (stdout, stderr string) {
	b.t.Helper()
	status, stdout, stderr := b.run(b.t.Context(), args...)
	if status != 0 {
		b.t.Fatalf("exit status %d\n%s", status, stderr)
	}
	return stdout, stderr
}

// files returns what the output directory holds.
func (b *bench) files(dir string) []string {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.output, dir))
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// blocks opens all that is in the directory of blocks.
func (b *bench) blocks() []*tsdb.Block {
	b.t.Helper()
	var blocks []*tsdb.Block
	for _, name := range b.files(blocksDir) {
		block, err := tsdb.OpenBlock(nil, filepath.Join(b.output, blocksDir, name), nil, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = block.Close() })
		blocks = append(blocks, block)
	}
	slices.SortFunc(blocks, func(x, y *tsdb.Block) int { return int(x.MinTime()/1000 - y.MinTime()/1000) })
	return blocks
}

// A history of blocks and the state that continues it are written, and nothing else.
func TestWritesBlocksAndAState(t *testing.T) {
	b := newBench(t, 1_000, 3*day)
	out, errs := b.mustRun()
	if got := strings.Join(b.files("."), " "); got != "blocks state" {
		t.Errorf("the output has %s", got)
	}
	blocks := b.blocks()
	if n := len(blocks); n < 33 || n > 36 {
		t.Errorf("%d blocks", n)
	}
	for i, block := range blocks {
		if i > 0 && block.MinTime() != blocks[i-1].MaxTime() {
			t.Errorf("block %d begins at %d, and the one before ends at %d", i, block.MinTime(), blocks[i-1].MaxTime())
		}
	}
	if last := time.UnixMilli(blocks[len(blocks)-1].MaxTime()); time.Since(last) < 3*time.Hour || time.Since(last) > 5*time.Hour+time.Minute {
		t.Errorf("the last block ends at %s", last)
	}
	for _, want := range []string{"blocks     3", "wrote 3", "chown " + b.output + "/state to the user of the exporter"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(errs, `msg="initial sync complete" listed=1000 counted=1000`) {
		t.Errorf("the log is\n%s", errs)
	}
	state, err := store.OpenReadOnly(filepath.Join(b.output, stateDir))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close() //nolint:errcheck // it was only read
	if known, err := collector.ReadKnown(state, "default"); err != nil || known.Listed != 1_000 || known.IsInitialSync {
		t.Errorf("state: %+v, %v", known, err)
	}
}

// A name whose first trace is younger than the last block has a 0 there.
func TestNameThatBeganAfterTheLastBlock(t *testing.T) {
	b := newBench(t, 100, 3*day)
	end := time.Now().Add(-10 * time.Minute)
	b.opper.Add(oppertest.Trace{ID: "late", Name: new("late"), Start: &end, End: &end, Status: new("success")})
	b.mustRun()
	if last := b.last("late", "success"); last != 0 {
		t.Errorf("the history ends with %v, want 0", last)
	}
}

func TestWritesText(t *testing.T) {
	b := newBench(t, 200, 3*day)
	out, _ := b.mustRun("--format=openmetrics")
	files := b.files(openMetricsDir)
	if len(files) < 3 || len(files) > 4 || files[0] != time.Now().UTC().Add(-3*day).Format(time.DateOnly)+".txt" {
		t.Errorf("files: %q", files)
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(b.output, openMetricsDir, name))
		if err != nil || !strings.HasSuffix(string(text), "# EOF\n") || !strings.Contains(string(text), `opper_traces_total{instance="exporter:16773",job="opper",`) {
			t.Errorf("%s has %d bytes, %v", name, len(text), err)
		}
	}
	if !strings.Contains(out, "files      ") || !strings.Contains(out, "wrote ") {
		t.Errorf("printed\n%s", out)
	}
}

// The projects of a file are one history.
func TestWritesAllProjects(t *testing.T) {
	b, other := newBench(t, 100, 2*day), newBench(t, 100, 2*day)
	key := filepath.Join(t.TempDir(), "key")
	file := filepath.Join(t.TempDir(), "projects.yml")
	projects := "projects:\n  - {name: checkout, api_key_file: " + key + ", url: '" + b.url + "'}\n  - {name: search, api_key_file: " + key + ", url: '" + other.url + "'}\n"
	for path, content := range map[string]string{key: testKey, file: projects} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	args := []string{"--config.file=" + file, "--output=" + b.output, "--label=job=opper", "--label=instance=exporter:16773", "--step=4m", "--opper.max-requests-per-second=0"}
	if status := run(t.Context(), args, func(string) string { return "" }, &out, &errs); status != 0 {
		t.Fatalf("exit status %d\n%s", status, errs.String())
	}
	index, err := b.blocks()[20].Index()
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close() //nolint:errcheck // it was only read
	for label, want := range map[string]string{"project": "checkout search", "job": "opper", "instance": "exporter:16773"} {
		if got, err := index.SortedLabelValues(t.Context(), label, nil); err != nil || strings.Join(got, " ") != want {
			t.Errorf("label %s has the values %q, %v", label, got, err)
		}
	}
}

// With a state, the history ends where that began to count, and there is no other state.
func TestHistoryOfAState(t *testing.T) {
	b := newBench(t, 300, 3*day)
	b.mustRun()
	state := filepath.Join(b.output, stateDir)
	b.output = filepath.Join(t.TempDir(), "again")
	out, _ := b.mustRun("--state=" + state)
	if got := strings.Join(b.files("."), " "); got != "blocks" {
		t.Errorf("the output has %s", got)
	}
	if strings.Contains(out, "--storage.path") {
		t.Errorf("printed\n%s", out)
	}
	b.output = filepath.Join(t.TempDir(), "until")
	until := time.Now().Add(-day).UTC()
	out, _ = b.mustRun("--state="+filepath.Join(state, "opper_exporter.db"), "--until="+until.Format(time.RFC3339))
	if want := until.Add(-lateness-30*time.Second).Truncate(2*time.Hour).Format(time.RFC3339) + " (the last 2h boundary before --until, less 15m30s)"; !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
}

// A trace that ended just before the first scrape was counted after that, and by then its
// series had begun: with it, the history would end above them, which looks like a reset.
func TestTraceThatWasCountedAfterTheFirstScrape(t *testing.T) {
	b := newBench(t, 100, 3*day)
	scraped := time.Now().Add(-day).Truncate(2 * time.Hour)
	for id, ago := range map[string]time.Duration{"before": 5 * time.Hour, "settles": 20 * time.Second, "by a slow clock": 10 * time.Minute} {
		end := scraped.Add(-ago)
		b.opper.Add(oppertest.Trace{ID: id, Name: new("late"), Start: &end, End: &end, Status: new("success")})
	}
	b.mustRun()
	state := filepath.Join(b.output, stateDir)
	b.output = filepath.Join(t.TempDir(), "again")
	b.mustRun("--state="+state, "--until="+scraped.UTC().Format(time.RFC3339))
	if last := b.last("late", "success"); last != 1 {
		t.Errorf("the history ends with %v, the first scrape had 1", last)
	}
}

// last returns the last value of opper_traces_total.
func (b *bench) last(name, outcome string) (last float64) {
	b.t.Helper()
	blocks := b.blocks()
	q, err := tsdb.NewBlockQuerier(blocks[len(blocks)-1], 0, math.MaxInt64)
	if err != nil {
		b.t.Fatal(err)
	}
	defer q.Close() //nolint:errcheck // it was only read
	set := q.Select(b.t.Context(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "trace_name", name),
		labels.MustNewMatcher(labels.MatchEqual, "__name__", "opper_traces_total"), labels.MustNewMatcher(labels.MatchEqual, "outcome", outcome))
	last = -1
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next() != chunkenc.ValNone; {
			_, last = it.At()
		}
	}
	if set.Err() != nil {
		b.t.Fatal(set.Err())
	}
	return last
}

// The exporter has published what a state has counted, but not before it began.
func TestHistoryEndsWhereTheStateBegan(t *testing.T) {
	since := time.Now().Add(-50 * time.Hour)
	for name, c := range map[string]struct {
		o     options
		state read.Result
		want  []plan.End
		err   string
	}{
		"no state":           {options{}, read.Result{}, nil, ""},
		"state":              {options{Validated: &config.Validated{}, State: "s"}, read.Result{Since: since}, []plan.End{{At: since.Add(-lateness), What: "the state began to count, less 15m0s"}}, ""},
		"until":              {options{State: "s", Until: since}, read.Result{Since: since, Renewed: true}, nil, ""},
		"server":             {options{State: "s", FromServer: &url.URL{}}, read.Result{Since: since, Renewed: true}, nil, ""},
		"server without any": {options{State: "s", For: plan.NewPrometheus}, read.Result{Since: since}, nil, ""},
		"renewed":            {options{State: "s"}, read.Result{Since: since, Renewed: true}, nil, "--until: expected the first sample of the exporter's series on the server, as the state has replaced another one, or --from-server"},
	} {
		got, err := c.o.ends(nil, &c.state)
		if !slices.Equal(got, c.want) || err == nil != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// What the program can't do well it does not do: it says why in one line, and writes no
// block.
func TestRefusals(t *testing.T) {
	b := newBench(t, 300, 20*day+12*time.Hour)
	empty := newBench(t, 0, 0)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "01J"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	if err := os.Mkdir(filepath.Join(data, "chunks_head"), 0o700); err != nil {
		t.Fatal(err)
	}
	stopped, linked := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := cmp.Or(os.MkdirAll(filepath.Join(stopped, "01KAY0000000000000000000ZZ", "chunks"), 0o700),
		os.WriteFile(filepath.Join(stopped, "01KAY0000000000000000000ZZ", "meta.json"), nil, 0o600),
		os.Mkdir(filepath.Join(stopped, "inside"), 0o700), os.Symlink(filepath.Join(stopped, "inside"), linked)); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	if err := os.Mkdir(filepath.Join(fresh, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	unready := httptest.NewServer(http.NotFoundHandler())
	defer unready.Close()
	for name, c := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"unknown flag":          {[]string{"--labels=job=x"}, 2, "unknown long flag '--labels', did you mean '--label'?"},
		"command":               {[]string{"check"}, 2, "unexpected check"},
		"storage of exporter":   {[]string{"--storage.path=data"}, 2, "--storage.path: expected --state, with a copy of the state or the directory of a stopped exporter"},
		"no output":             {[]string{"--output="}, 2, "--output: expected a new directory"},
		"no job":                {[]string{"--label=instance=a"}, 2, "--label: expected job=VALUE, as the server adds it to the live series, or --from-server"},
		"no instance":           {[]string{"--label=job=a"}, 2, "--label: expected instance=VALUE, as the server adds it to the live series, or --from-server"},
		"label without value":   {[]string{"--label=job"}, 2, `--label: expected NAME=VALUE, such as job=opper, got "job"`},
		"label twice":           {[]string{"--label=job=a", "--label=job=b"}, 2, "--label: job is given twice"},
		"label of the exporter": {[]string{"--label=job=a", "--label=instance=b", "--label=project=c"}, 2, `--label: label "project" is the exporter's own`},
		"step":                  {[]string{"--step=5m"}, 2, `--step: expected a duration from 1s to 4m0s, got "5m"`},
		"no step":               {[]string{"--step=0s"}, 2, `--step: expected a duration from 1s to 4m0s, got "0s"`},
		"until":                 {[]string{"--until=yesterday"}, 2, `--until: expected a time such as 2026-11-26T18:00:00Z, got "yesterday"`},
		"until to come":         {[]string{"--until=2999-01-01T00:00:00Z"}, 2, "--until: expected the time of the first scrape, and 2999-01-01T00:00:00Z is yet to come"},
		"retention text":        {[]string{"--retention=long"}, 2, `--retention: expected a duration such as 31d, got "long"`},
		"server of blocks":      {[]string{"--for=thanos"}, 2, "enum value must be one of prometheus,new-prometheus,mimir, got 'thanos'"},
		"buckets":               {[]string{"--collector.duration-buckets=2,1"}, 2, "--collector.duration-buckets: expected increasing numbers, got \"1\" after 2"},
		"existing output":       {[]string{"--output=" + full}, 1, "--output: " + full + " is not empty: expected a new directory"},
		"output in a server":    {[]string{"--output=" + filepath.Join(data, "some", "where")}, 1, "is in the data directory " + data + " of a server: expected a directory beside it"},
		"output is a server":    {[]string{"--output=" + data}, 1, "is in the data directory " + data + " of a server"},
		"output in blocks":      {[]string{"--output=" + filepath.Join(stopped, "some")}, 1, "is in the data directory " + stopped + " of a server"},
		"output linked there":   {[]string{"--output=" + filepath.Join(linked, "some", "where")}, 1, "is in the data directory " + stopped + " of a server"},
		"output in a new one":   {[]string{"--output=" + filepath.Join(fresh, "some")}, 1, "is in the data directory " + fresh + " of a server"},
		"empty state":           {[]string{"--state="}, 2, "--state: expected a value"},
		"empty server":          {[]string{"--from-server="}, 2, "--from-server: expected a value"},
		"empty until":           {[]string{"--until="}, 2, "--until: expected a value"},
		"empty retention":       {[]string{"--retention="}, 2, "--retention: expected a value"},
		"output is a file":      {[]string{"--output=" + file}, 1, "--output: "},
		"no server":             {[]string{"--from-server=" + unready.URL, "--state=" + full}, 1, "--from-server"},
		"server is no URL":      {[]string{"--from-server=localhost:9090", "--state=" + full}, 2, `--from-server: expected a URL such as http://localhost:9090, got "localhost:9090"`},
		"server but no state":   {[]string{"--from-server=" + unready.URL}, 2, "--from-server: expected --state, too"},
		"server that is new":    {[]string{"--from-server=" + unready.URL, "--for=new-prometheus"}, 2, "--from-server: a server that runs has samples already, expected --for=prometheus"},
		"no state":              {[]string{"--state=" + full}, 1, "--state: there is no state in " + full},
		"retention":             {nil, 1, "and the server would delete what is older than 15d: let it keep at least 21d (--storage.tsdb.retention.time), and say so with --retention=21d"},
		"nothing before":        {[]string{"--until=2026-01-01T00:00:00Z"}, 1, "nothing to write: the history would begin at "},
		"nothing listed":        {[]string{"--opper.url=" + empty.url}, 1, "nothing to write: Opper lists no counted trace with a known time"},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t, b.output = t, filepath.Join(t.TempDir(), "history")
			status, _, errs := b.run(t.Context(), c.args...)
			lines := strings.Split(strings.TrimSpace(errs), "\n")
			last := lines[len(lines)-1]
			if status != c.status || !strings.HasPrefix(last, program+": error: ") || !strings.Contains(last, c.want) {
				t.Errorf("exit status %d, want %d with %q:\n%s", status, c.status, c.want, errs)
			}
			if _, err := os.Stat(filepath.Join(b.output, blocksDir)); err == nil {
				t.Error("there are blocks")
			}
		})
	}
}

// The exporter's flags can be given as they are.
func TestTakesFlagsOfTheExporter(t *testing.T) {
	b := newBench(t, 10, day)
	b.mustRun("--web.listen-address=:0", "--web.enable-lifecycle", "--collector.interval=1m", "--collector.usage-interval=0s", "--log.level=warn")
	_, help, _ := b.run(t.Context(), "--help")
	for flag, shown := range map[string]bool{"--collector.duration-buckets": true, "--output": true, "--label": true, "--web.max-requests": false, "--storage.path=": false} {
		if strings.Contains(help, flag) != shown {
			t.Errorf("%s is in the help: %t", flag, !shown)
		}
	}
}
