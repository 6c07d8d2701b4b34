// Package e2e_test proves on a real Prometheus server what opper_backfill promises:
// the history is the truth, the live series continue it without a reset, and no
// live sample of any series is lost by it.
package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

var full = flag.Bool("full", false, "30 days of 50 names and 200 000 traces, and 500 windows")

func TestMain(m *testing.M) {
	exportertest.Main(m)
	if err := os.RemoveAll(programDir); err != nil {
		panic(err)
	}
}

const (
	day = 24 * time.Hour
	// patience is far above what any awaited condition needs.
	patience = 10 * time.Minute
	// poll is not shorter, or a server would do little else than say how it is.
	poll = 250 * time.Millisecond
)

// size is how much there is of what.
type size struct {
	days, names, places, traces, windows int
}

// sizeOf lets a test run beside the others, which mostly wait, unless it is a full one.
func sizeOf(t *testing.T) size {
	t.Helper()
	if *full {
		return size{days: 30, names: 50, places: 200, traces: 200_000, windows: 500}
	}
	t.Parallel()
	// Enough for blocks of each length. One name has no place.
	return size{days: 8, names: 4, places: 3, traces: 6000, windows: 40}
}

// world is an Opper with a history, an exporter that has counted it, and, once
// it is served, a server that scrapes the exporter and another target.
type world struct {
	*promtest.Server
	opper    *oppertest.Server
	upstream string
	exporter *exportertest.Process
	address  string
	truth    *truth
	began    time.Time // when the first traces ended
	served   time.Time // since when the server may have scraped
}

func newWorld(t *testing.T, n size, flags ...string) *world {
	t.Helper()
	now := time.Now()
	w := &world{
		opper: oppertest.New(oppertest.Config{Seed: now.UnixNano(), NoRecord: true}),
		began: now.Add(-time.Duration(n.days)*day + time.Hour),
	}
	w.opper.FillHistory(n.traces, n.names, w.began, now.Add(-2*time.Minute))
	upstream := httptest.NewServer(w.opper)
	t.Cleanup(upstream.Close)
	w.upstream = upstream.URL

	w.exporter = exportertest.MustStart(t, exportertest.Command(exportertest.Binary(t), w.upstream,
		slices.Concat(collectorFlags(n), flags, []string{"--storage.path=" + t.TempDir(), "--web.enable-lifecycle"})...))
	w.address = w.exporter.AwaitReady(t)
	exposed := exportertest.MustScrape(t, w.address).Lasting
	w.truth = newTruth(t, w.opper, func(label string) bool {
		_, ok := exposed[fmt.Sprintf(`opper_traces_total{outcome="success",project="default",trace_name=%q}`, label)]
		return ok
	})
	if got := exposed.Total("opper_traces_total", ""); got != float64(w.truth.total()) {
		t.Fatalf("the exporter has counted %v traces, want %d", got, w.truth.total())
	}
	return w
}

// serve starts the server, which may have blocks already.
func (w *world) serve(t *testing.T, blocks string, flags ...string) {
	t.Helper()
	w.served = time.Now()
	// A scrape that takes longer than its timeout ends all series: windows that end then
	// have no sample at their end. A full history keeps the server busy.
	interval := "500ms"
	if *full {
		interval = "5s"
	}
	w.Server = promtest.Start(t, promtest.Config{
		Blocks: blocks,
		YAML: fmt.Sprintf(`
global: {scrape_interval: %[1]s, scrape_timeout: %[1]s}
scrape_configs:
- job_name: opper
  scrape_protocols: [PrometheusProto]
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
  static_configs: [{targets: [%[2]q], labels: {region: eu}}]
- job_name: other
  static_configs: [{targets: [%[3]q]}]
`, interval, w.address, otherTarget(t)),
		Flags: append([]string{"--storage.tsdb.retention.time=60d", "--storage.tsdb.block-reload-interval=1s"}, flags...),
	})
	w.WaitScrapes(t, "opper", 2)
	w.WaitScrapes(t, "other", 2)
}

func collectorFlags(n size) []string {
	return []string{
		"--collector.interval=1s", "--collector.settle-delay=1s", "--collector.usage-interval=0s",
		"--collector.max-trace-names=" + strconv.Itoa(n.places),
	}
}

// otherTarget serves series that change with each scrape, and returns its address.
func otherTarget(t *testing.T) string {
	t.Helper()
	var scrapes atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := scrapes.Add(1)
		for i := range 20 {
			_, _ = fmt.Fprintf(w, "other_total{i=\"%d\"} %d\n", i, n) // the server notices a cut answer
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// state returns a copy of the exporter's state, in a file.
func (w *world) state(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.address+"/-/snapshot", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	path := filepath.Join(t.TempDir(), "opper_exporter.db")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, resp.Body)
	if err = errors.Join(err, f.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return path
}

// programDir is where the program was built, if it was.
var programDir string

var program = sync.OnceValues(func() (string, error) {
	root, err := promtest.ProjectDir()
	if err != nil {
		return "", err
	}
	if programDir, err = os.MkdirTemp("", "opper_backfill-"); err != nil {
		return "", err
	}
	path := filepath.Join(programDir, "opper_backfill")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join(root, "deploy", "backfill")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// backfill runs the program, and returns the directory of the blocks.
func (w *world) backfill(t *testing.T, n size, args ...string) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	cmd := exec.CommandContext(t.Context(), path, append(append([]string{
		"--opper.url=" + w.upstream, "--opper.max-requests-per-second=0", "--opper.max-requests-per-second-total=0", "--output=" + out,
	}, collectorFlags(n)...), args...)...)
	cmd.Env = append(os.Environ(), "OPPER_API_KEY=key")
	printed, err := cmd.CombinedOutput()
	t.Logf("%s:\n%s", cmd, printed)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, "blocks")
}

// moveIn moves blocks into the data directory of the running server, and waits until
// it has looked there.
func (w *world) moveIn(t *testing.T, blocks string) {
	t.Helper()
	entries, err := os.ReadDir(blocks)
	if err != nil || len(entries) == 0 {
		t.Fatalf("no blocks in %s: %v", blocks, err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(blocks, e.Name()), filepath.Join(w.DataDir(), e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	// One may have begun before.
	const reloads = "prometheus_tsdb_reloads_total"
	w.awaitMetric(t, reloads, w.metric(t, reloads)+2)
	if n := w.metric(t, "prometheus_tsdb_reloads_failures_total"); n > 0 {
		t.Fatalf("the server has failed to load blocks %v times", n)
	}
}

// awaitCompactions waits until the server has written n more blocks from its head, and
// merged what it can.
func (w *world) awaitCompactions(t *testing.T, n int) {
	t.Helper()
	const truncations = "prometheus_tsdb_head_truncations_total"
	w.awaitMetric(t, truncations, w.metric(t, truncations)+float64(n))
	if n := w.metric(t, "prometheus_tsdb_compactions_failed_total"); n > 0 {
		t.Fatalf("the server has failed to compact %v times", n)
	}
}

func (w *world) awaitMetric(t *testing.T, name string, atLeast float64) {
	t.Helper()
	eventually(t, func() error {
		if v := w.metric(t, name); v < atLeast {
			return fmt.Errorf("%s is %v, want %v", name, v, atLeast)
		}
		return nil
	})
}

// metric returns one of the server's own metrics, without labels.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("the server has no metric %s", name)
	return 0
}

// eventually is promtest's, with more patience: the server may be merging blocks of a
// history.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("never came true: %v", err)
		case <-tick.C:
		}
	}
}

// runs lists traces that ended at a time, and waits until the server has what the
// exporter then shows.
func (w *world) run(t *testing.T, n int, ended time.Time) {
	t.Helper()
	events := listTraces(w.opper, n, ended)
	want := float64(w.truth.total() + n)
	eventually(t, func() error {
		if got := exportertest.MustScrape(t, w.address).Lasting.Total("opper_traces_total", ""); got != want {
			return fmt.Errorf("%v traces are counted, want %v", got, want)
		}
		return nil
	})
	w.WaitScrapes(t, "opper", 2)
	for i := range events {
		events[i].at = time.Now().UnixMilli()
	}
	w.truth.add(events...)
}

// changeAtOpper deletes most of the traces that ended at a time, and changes others: the
// live series have counted them as they were.
func (w *world) changeAtOpper(t *testing.T, ended time.Time) {
	t.Helper()
	for i := range 100 {
		switch id := liveID(ended, i); {
		case i < 60:
			w.opper.Delete(id)
		case i < 80:
			w.opper.Update(id, func(t *oppertest.Trace) { t.Status, t.Tokens = new("error"), new(int64(1e6)) })
		default:
			w.opper.Update(id, func(t *oppertest.Trace) { t.Name = new("agent-01") })
		}
	}
}
