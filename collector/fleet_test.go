package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// fleet is a Collector of several projects, each of which has an Opper of its own. The
// name of each trace is its id, so that the exposition tells how it was counted.
type fleet struct {
	t      testing.TB
	key    opper.KeySource
	log    promtest.Output
	store  *heldStore
	c      *Collector
	ended  chan error // what Run returned
	cancel context.CancelFunc
	armed  atomic.Pointer[hold]

	mu      sync.Mutex
	oppers  map[string]*fleetOpper        // by the project's name
	added   int                           // traces in all
	exposed map[string]map[string]float64 // what each project counted last, by its name
}

type fleetOpper struct {
	*oppertest.Server
	http *httptest.Server
}

// renamed is the end of the other name of a project with the same Opper.
const renamed = ", renamed"

// hold stops the next of some moment until it is released.
type hold struct {
	moment, project   string // an empty project is any
	reached, released chan struct{}
}

// heldStore is a store whose commits can be held, and which can fail to load.
type heldStore struct {
	*store.Store
	fleet    *fleet
	unusable atomic.Pointer[string] // the project whose state can't be loaded
}

func (s *heldStore) Commit(project string, changes map[string][]byte, fresh bool) error {
	s.fleet.at("commit", project)
	return s.Store.Commit(project, changes, fresh)
}

var errUnusable = errors.New("unusable for a test")

func (s *heldStore) Load(project string, visit func(string, []byte) error) (bool, error) {
	if name := s.unusable.Load(); name != nil && *name == project {
		return false, errUnusable
	}
	return s.Store.Load(project, visit)
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	f := &fleet{t: t, oppers: map[string]*fleetOpper{}, exposed: map[string]map[string]float64{}}
	var err error
	if f.key, err = opper.FixedKey(apiKey); err != nil {
		t.Fatal(err)
	}
	opened, err := store.Open(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	f.store = &heldStore{Store: opened, fleet: f}
	return f
}

// start runs projects. They are ended by end.
func (f *fleet) start(projects ...config.Project) {
	f.t.Helper()
	var err error
	if f.c, err = New(projects, Deps{Logger: level.NewFilter(log.NewLogfmtLogger(&f.log), level.AllowInfo()), Clock: NewClock(), Store: f.store}); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.ended = cancel, make(chan error, 1)
	go func() { f.ended <- f.c.Run(ctx) }()
	f.t.Cleanup(cancel)
}

func (f *fleet) end() {
	f.t.Helper()
	f.cancel()
	if err := <-f.ended; err != nil {
		f.t.Error(err)
	}
}

// opper returns the Opper of a project, which it makes if there is none.
func (f *fleet) opper(name string, traces int) *fleetOpper {
	f.mu.Lock()
	o := f.oppers[name]
	if o == nil {
		o = &fleetOpper{Server: oppertest.New(oppertest.Config{Key: apiKey, NoRecord: true})}
		f.oppers[name] = o
		o.OnRequest(func(r oppertest.Request) {
			p := f.c.find(name)
			if p == nil {
				p = f.c.find(name + renamed)
			}
			switch {
			case r.ID != "":
			case p == nil || !p.snapshots.isPublished():
				if r.Offset > 0 {
					f.at("initial sync", name)
				}
			case r.Offset > 0 && r.Limit == opper.PageSize:
				f.at("sweep", name)
			default:
				f.at("sync", name)
			}
		})
		o.http = httptest.NewServer(o)
		f.t.Cleanup(o.http.Close)
	}
	f.mu.Unlock()
	f.trace(o, traces)
	return o
}

// trace adds traces that have ended.
func (f *fleet) trace(o *fleetOpper, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var traces []oppertest.Trace
	for range n {
		f.added++
		now := time.Now()
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", f.added)
		traces = append(traces, oppertest.Trace{ID: id, Name: &id, Status: new("success"), Start: new(now.Add(-time.Second)), End: &now, Tokens: new(int64(7))})
	}
	o.Add(traces...)
}

// project returns the configuration of a project of this name.
func (f *fleet) project(name string, change ...func(*config.Project)) config.Project {
	p := testConfig().Project
	p.Name, p.Opper = name, opper.Options{URL: f.opper(name, 0).http.URL, Key: f.key}
	p.Interval, p.SweepInterval, p.SettleDelay, p.Aggregate.MaxNames = 50*time.Millisecond, time.Millisecond, time.Millisecond, 1<<20
	for _, change := range change {
		change(&p)
	}
	p.UpstreamURL = p.Opper.URL + "/v2"
	p.Digest = fmt.Sprint(p.Opper.URL, p.Interval, p.SweepInterval, p.SettleDelay, p.Concurrency, p.Aggregate.DurationBuckets)
	return p
}

// at is called at each moment that can be held.
func (f *fleet) at(moment, project string) {
	h := f.armed.Load()
	if h == nil || h.moment != moment || h.project != "" && h.project != project || !f.armed.CompareAndSwap(h, nil) {
		return
	}
	close(h.reached)
	<-h.released
}

// hold stops the next of some moment. reached returns when it has come.
func (f *fleet) hold(moment, project string) (reached, release func()) {
	h := &hold{moment: moment, project: project, reached: make(chan struct{}), released: make(chan struct{})}
	f.armed.Store(h)
	release = sync.OnceFunc(func() { close(h.released) })
	f.t.Cleanup(release)
	return func() {
		f.t.Helper()
		select {
		case <-h.reached:
		case err := <-f.ended:
			f.t.Fatalf("Run has ended: %v\n%s", err, f.log.String())
		case <-time.After(patience):
			f.t.Fatalf("no %s of %q\n%s", moment, project, f.log.String())
		}
	}, release
}

// patience is how long a condition is awaited that holds at once. It is less than the
// time after which an idle connection is closed anyway.
const patience = time.Minute

// await waits for a condition.
func (f *fleet) await(what string, condition func() bool) {
	f.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(until) {
			f.t.Fatalf("not %s\n%s", what, f.log.String())
		}
	}
}

// counted returns how often each trace is counted in what is published of a project.
func (f *fleet) counted(p *project) map[string]float64 {
	out := map[string]float64{}
	for _, m := range *p.snapshots.published.Load() {
		if m.Desc() == tracesTotal {
			v := valueOf(m)
			out[labelOf(v, "trace_name")] += v.GetCounter().GetValue()
		}
	}
	return out
}

// observe fails if a trace is counted twice or no longer.
func (f *fleet) observe() {
	f.t.Helper()
	for _, p := range f.c.all() {
		if !p.snapshots.isPublished() {
			continue
		}
		now := f.counted(p)
		for trace, n := range now {
			if n > 1 {
				f.t.Errorf("trace %s of %q is counted %v times", trace, p.cfg.Name, n)
			}
		}
		for trace, n := range f.exposed[p.cfg.Name] {
			if now[trace] < n {
				f.t.Errorf("trace %s of %q is no longer counted", trace, p.cfg.Name)
			}
		}
		f.exposed[p.cfg.Name] = now
	}
}

// awaitAll waits until each trace of a project is counted.
func (f *fleet) awaitAll(name string) {
	f.t.Helper()
	want := f.opper(name, 0).Len()
	f.await(fmt.Sprintf("all %d traces of %q counted", want, name), func() bool {
		p := f.c.find(name)
		total := 0.0
		for _, n := range f.counted(p) {
			total += n
		}
		return total >= float64(want)
	})
}

// gather returns the metrics of a project as values.
func (f *fleet) gather(gatherer prometheus.Gatherer) values {
	f.t.Helper()
	families, err := gatherer.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	return valuesOf(families)
}

func (f *fleet) apply(projects ...config.Project) {
	f.t.Helper()
	if err := f.c.Apply(projects); err != nil {
		f.t.Fatalf("%v\n%s", err, f.log.String())
	}
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
