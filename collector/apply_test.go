package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

func settleLater(p *config.Project)  { p.SettleDelay *= 2 }
func otherBuckets(p *config.Project) { p.Aggregate.DurationBuckets = []float64{1, 2} }

// An unchanged project keeps running: not even a request in flight is canceled.
func TestApplyLeavesUnchangedProjectsAlone(t *testing.T) {
	f := newFleet(t)
	f.opper("changed", 3)
	f.opper("same", 3)
	f.start(f.project("same"), f.project("changed"))
	f.awaitAll("same")
	f.awaitAll("changed")
	same, changed := f.c.find("same"), f.c.find("changed")
	reached, release := f.hold("sync", "same")
	reached()
	failures := f.gather(f.c.Gatherer("same"))["opper_exporter_syncs_total{error}"]
	before := f.gather(f.c.Gatherer("changed"))

	f.opper("added", 5)
	f.apply(f.project("added"), f.project("same"), f.project("changed", settleLater))
	f.awaitAll("added")
	if f.c.find("same") != same || f.c.find("changed") == changed {
		t.Error("the wrong project was replaced")
	}
	// Counters of the process go on, and what was published stays.
	for key, n := range f.gather(f.c.Gatherer("changed")) {
		if strings.Contains(key, "_total{") && n < before[key] || key == "opper_up{}" && n != 1 {
			t.Errorf("%s is %v, was %v", key, n, before[key])
		}
	}
	if clock := f.c.find("changed").clock; clock != changed.clock || clock == same.clock {
		t.Error("ages are measured by another clock")
	}
	if st := f.c.find("changed").status(); st.Traffic.Since != changed.activity.started || st.Traffic.Requests() < 1 {
		t.Errorf("traffic: %+v", st.Traffic)
	}
	release()
	syncs := f.gather(f.c.Gatherer("same"))["opper_exporter_syncs_total{success}"]
	f.await("synced again", func() bool {
		got := f.gather(f.c.Gatherer("same"))
		if n := got["opper_exporter_syncs_total{error}"]; n != failures {
			t.Fatalf("%v syncs have failed, not %v", n, failures)
		}
		return got["opper_exporter_syncs_total{success}"] > syncs
	})
	if got := f.c.Projects(); !slices.Equal(got, []string{"added", "changed", "same"}) {
		t.Errorf("projects %q", got)
	}
	if line := f.log.Lines("projects changed"); len(line) != 1 || !strings.Contains(line[0], "projects=3 added=added changed=changed removed=") {
		t.Errorf("log: %q", line)
	}
	f.end()
}

// The series of a removed project end. Its state is stored, and it continues from there if
// it comes back.
func TestRemovedProjectKeepsItsState(t *testing.T) {
	f := newFleet(t)
	f.opper("goes", 250)
	f.start(f.project("goes"), f.project("stays"))
	f.awaitAll("goes")
	f.observe()
	gone := f.c.find("goes")
	f.apply(f.project("stays"))
	if f.c.Gatherer("goes") != nil || f.c.IsReady("goes") || f.gather(f.c.Gatherer(""))["opper_exporter_gaps_total{}"] != 0 {
		t.Error("it is still there")
	}
	gone.requests.mu.Lock()
	if !gone.requests.isStopped {
		t.Error("it still runs")
	}
	gone.requests.mu.Unlock()
	f.trace(f.opper("goes", 0), 3)
	f.apply(f.project("stays"), f.project("goes", settleLater))
	if got := f.counted(f.c.find("goes")); len(got) < 250 {
		t.Errorf("it begins with %d traces", len(got))
	}
	f.awaitAll("goes")
	f.observe()
	if n := len(f.log.Lines("initial sync complete", "project=goes")); n != 1 {
		t.Errorf("%d initial syncs", n)
	}
	f.end()
}

// A configuration that cannot be applied changes nothing, and all projects keep running.
func TestApplyIsAllOrNothing(t *testing.T) {
	f := newFleet(t)
	f.opper("a", 3)
	f.opper("b", 3)
	f.start(f.project("a"), f.project("b"))
	f.awaitAll("a")
	f.awaitAll("b")
	// It has a state that cannot be read.
	f.opper("c", 3)
	f.apply(f.project("a"), f.project("b"), f.project("c"))
	f.awaitAll("c")
	f.apply(f.project("a"), f.project("b"))
	noURL := func(p *config.Project) { p.Opper.URL = "nowhere" }
	for name, c := range map[string]struct {
		projects []config.Project
		unusable string
		want     string
	}{
		"two of one name":          {[]config.Project{f.project("b", settleLater), f.project("a"), f.project("a")}, "", `there are two projects with the name "a"`},
		"no client":                {[]config.Project{f.project("a", settleLater), f.project("b", noURL)}, "", `project "b": url: `},
		"state of an added one":    {[]config.Project{f.project("a", otherBuckets), f.project("c")}, "c", `state of project "c": `},
		"state of a changed one":   {[]config.Project{f.project("a", otherBuckets), f.project("b", settleLater)}, "b", `state of project "b": `},
		"state of the only change": {[]config.Project{f.project("a", otherBuckets), f.project("b")}, "a", `state of project "a": `},
	} {
		before := f.c.all()
		f.store.unusable.Store(&c.unusable)
		if err := f.c.Apply(c.projects); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		f.store.unusable.Store(nil)
		if !slices.Equal(before, f.c.all()) {
			t.Errorf("%s: other projects run", name)
		}
		for _, project := range []string{"a", "b"} {
			f.trace(f.opper(project, 0), 2)
			f.awaitAll(project)
		}
		f.observe()
	}
	// Nothing of it is in the state either.
	f.end()
	lines := len(f.log.Lines("buckets have changed"))
	f.start(f.project("a"), f.project("b"))
	if n := len(f.log.Lines("buckets have changed")); n != lines {
		t.Error("the state has other buckets")
	}
	f.observe()
	f.end()
}

// fullStore refuses commits while it is full.
type fullStore struct {
	storetest.Memory
	isFull bool
}

func (s *fullStore) Commit(project string, changes map[string][]byte, fresh bool) error {
	if s.isFull {
		return errors.New("no space left on device")
	}
	return s.Memory.Commit(project, changes, fresh)
}

// Where the state cannot be written, new buckets wait for the first commit.
func TestChangedBucketsWaitForTheirCommit(t *testing.T) {
	cfg := testConfig()
	stored := new(fullStore)
	cfg.Store = stored
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "a"))
	b.step(settle)
	b.sync()
	stored.isFull = true
	cfg.Aggregate.DurationBuckets = []float64{1, 2}
	b.restarted(cfg)
	if b.project.snapshots.isPublished() {
		t.Error("buckets are exposed that are not in the state")
	}
	stored.isFull = false
	b.sync()
	if got := b.gather(); got["opper_traces_total{success,a}"] != 1 || got["opper_trace_duration_seconds_count{success,a}"] != 0 {
		t.Errorf("after the commit: %v", got.of(sumFamilies...))
	}
}

// One bad key does not keep the process from being ready, nor does a project that is
// added later.
func TestReadiness(t *testing.T) {
	f := newFleet(t)
	f.opper("good", 3)
	f.opper("bad", 3)
	f.opper("slow", 250)
	wrong, err := opper.FixedKey("wrong")
	if err != nil {
		t.Fatal(err)
	}
	slow := f.project("slow")
	f.start(f.project("good"), f.project("bad", func(p *config.Project) { p.Opper.Key = wrong }))
	f.await("ready", func() bool { return f.c.IsReady("") })
	if !f.c.IsReady("good") || !f.c.IsReady("bad") || f.c.IsReady("none") {
		t.Error("one is not ready")
	}
	reached, release := f.hold("initial sync", "slow")
	f.apply(f.project("good"), slow)
	reached()
	if f.c.IsReady("slow") || !f.c.IsReady("") {
		t.Error("the initial sync of one that was added decides for all")
	}
	release()
	f.await("ready", func() bool { return f.c.IsReady("slow") })
	f.end()
}

// A project that hangs holds up one scrape of all projects, not each of them.
func TestLateProjectIsNotWaitedFor(t *testing.T) {
	f := newFleet(t)
	f.opper("a", 3)
	f.opper("b", 3)
	onScrape := func(p *config.Project) { p.Interval = 0 }
	f.start(f.project("a", onScrape), f.project("b", onScrape))
	f.await("ready", func() bool { return f.c.find("a").snapshots.isPublished() && f.c.find("b").snapshots.isPublished() })
	reached, release := f.hold("sync", "a")
	ctx, cancel := context.WithCancel(t.Context())
	var first sync.WaitGroup
	first.Go(func() { f.c.Refresh(ctx, "") })
	reached()
	cancel()
	first.Wait()
	f.c.Refresh(context.Background(), "")
	release()
	f.await("an end of the sync", func() bool {
		p := f.c.find("a")
		p.requests.mu.Lock()
		defer p.requests.mu.Unlock()
		return !p.requests.isLate
	})
	f.end()
}

// Syncs that found nothing new have written nothing. Their time is known nevertheless
// when a project continues with other settings, before its first sync.
func TestLastSuccessDoesNotGoBack(t *testing.T) {
	f := newFleet(t)
	f.opper("a", 3)
	f.start(f.project("a", func(p *config.Project) { p.Interval = 0 }))
	last := func() float64 {
		return f.gather(f.c.Gatherer("a"))["opper_exporter_last_success_timestamp_seconds{}"]
	}
	f.await("published", func() bool { return last() > 0 })
	first := last()
	f.await("a later sync", func() bool { f.c.Refresh(t.Context(), "a"); return last() > first+0.1 })
	before := last()
	reached, release := f.hold("sync", "a")
	f.apply(f.project("a", func(p *config.Project) { p.Interval = time.Hour }))
	reached()
	if got := last(); got < before {
		t.Errorf("the last success was at %v, and is at %v now", before, got)
	}
	release()
	f.end()
}

// A scrape that waits for a sync is not left waiting when its project stops.
func TestStoppedProjectLetsScrapesGo(t *testing.T) {
	f := newFleet(t)
	f.opper("a", 3)
	onScrape := func(p *config.Project) { p.Interval = 0 }
	f.start(f.project("a", onScrape))
	f.await("ready", func() bool { return f.c.IsReady("") })
	old := f.c.find("a")
	reached, release := f.hold("sync", "a")
	var waiting sync.WaitGroup
	waiting.Go(func() { f.c.Refresh(context.Background(), "") })
	reached()
	f.apply(f.project("a"))
	waiting.Wait()
	release()
	old.refresh(context.Background(), false)
	f.c.Refresh(context.Background(), "") // has an interval: there is nothing to wait for
	f.end()
}

// Projects have clocks of their own: one that continues from a state that was written
// when the clock of the system was wrong moves no other one's.
func TestOpenedProjectMovesNoOtherClock(t *testing.T) {
	h := newHost()
	deps := Deps{Clock: h.clock()}
	st := deps.Clock.state()
	h.set(day)
	h.wait(time.Hour)
	running, opened := deps.Clock.another(), deps.Clock.another()
	opened.restore(st)
	if off := opened.Now().Sub(h.wall); off != -day {
		t.Errorf("the clock of the state is %v off", off)
	}
	if off := running.Now().Sub(h.wall); off != 0 {
		t.Errorf("the other clock is %v off", off)
	}
}

// BenchmarkApply changes one of 1 000 projects.
func BenchmarkApply(b *testing.B) {
	f := newFleet(b)
	projects := make([]config.Project, 1000)
	for i := range projects {
		projects[i] = f.project("p", func(p *config.Project) { p.Interval = time.Hour })
		projects[i].Name = fmt.Sprint("p", i)
	}
	f.start(projects...)
	for b.Loop() {
		projects[500].Digest += "x"
		f.apply(projects...)
	}
	f.end()
}

// A key file that changes to the key of another project, as before a reload that is
// refused, does not make the project read the other one's list; nor after a reload.
func TestKeyFilesAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	cfg := func(name string) config.Project {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("key-of-"+name), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := opper.KeyFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p := testConfig().Project
		p.Name, p.Digest, p.UpstreamURL, p.Opper = name, name, "http://localhost/v2", opper.Options{URL: "http://localhost", Key: key}
		return p
	}
	a, b := cfg("a"), cfg("b")
	b.UpstreamURL = "http://localhost/v3" // the same list
	c, err := New([]config.Project{a, b}, Deps{Logger: log.NewNopLogger(), Clock: NewClock()})
	if err != nil {
		t.Fatal(err)
	}
	added := cfg("c")
	if err := c.Apply([]config.Project{a, b, added}); err != nil {
		t.Fatal(err)
	}
	for i, of := range []string{"key-of-c", "key-of-a"} {
		if err := os.WriteFile(filepath.Join(dir, "b"), []byte(of+strings.Repeat("\n", i+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if sum := b.Opper.Key.Sum(); sum == a.Opper.Key.Sum() || sum == added.Opper.Key.Sum() {
			t.Errorf("b has %s", of)
		}
	}
}
