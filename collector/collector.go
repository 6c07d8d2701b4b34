// Package collector exposes the traces of Opper projects as Prometheus metrics.
// Background syncs read them; a scrape is served from memory.
package collector

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

// Deps are what a Collector depends on.
type Deps struct {
	Logger log.Logger
	Clock  *Clock
	Store  Store // nil disables persistence
	// AllRead reports whether every scraper of a project has read what has been
	// exposed of it since a time. If it is nil, no scraper is waited for.
	AllRead func(project string, since time.Time) bool
	// Observe, if it is not nil, is called with all that is counted, by the goroutine of
	// its project. It must not hold on to the traces.
	Observe func(project string, counted []ledger.Counted)
	// Limit limits the requests of all projects together; nil disables it.
	Limit *opper.SharedLimit

	maxTaken   int               // see syncer.Config
	slots      slots             // of initial syncs; nil if their number is not limited
	transports *opper.Transports // of all projects
	owners     *usage.Owners     // of the usage of Opper's projects
}

// Store persists the state of projects.
type Store interface {
	// Load calls visit with each entry that is stored of a project, in the order of
	// their keys, and reports whether there are any.
	Load(project string, visit func(key string, body []byte) error) (bool, error)
	// Commit stores the entries of a project that have changed, by key, and deletes
	// those without a body. With fresh, it deletes all others too. Without any change,
	// it verifies that what is on disk is still what was committed.
	// When it returns nil, they are durable. store.ErrBroken is final: what is on
	// disk is not, or no longer, what was committed.
	Commit(project string, changes map[string][]byte, fresh bool) error
	// Projects returns the names of the projects of which something is stored.
	Projects() ([]string, error)
}

// Collector exposes what the last sync of each project published. It is a
// prometheus.Collector, and safe for concurrent use.
type Collector struct {
	deps     Deps
	projects atomic.Pointer[[]*project] // by name; replaced, not changed
	wasReady atomic.Bool                // each project was, once

	applying sync.Mutex       // one Apply at a time
	start    func(p *project) // runs a project; nil unless Run runs
}

// New returns a Collector of projects, which continue from their state.
func New(projects []config.Project, deps Deps) (*Collector, error) {
	deps.slots, deps.transports, deps.owners = newSlots(), opper.NewTransports(), usage.NewOwners()
	c := &Collector{deps: deps}
	c.projects.Store(new([]*project))
	if err := c.Apply(projects); err != nil {
		return nil, err
	}
	return c, nil
}

// Run syncs all projects until ctx ends. It returns an error only if the store
// breaks: nothing could be published from then on.
func (c *Collector) Run(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	start := func(p *project) {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		p.stop = func() {
			cancel()
			<-ended
		}
		running.Go(func() error {
			defer close(ended)
			return p.run(ctx)
		})
	}
	c.setStart(start)
	<-ctx.Done()
	c.setStart(nil)
	defer closeClients(c.all())
	return running.Wait()
}

// ReadOnce reads what Opper lists of all projects, publishes it, and returns the first
// error. It is called in place of Run, once.
func (c *Collector) ReadOnce(ctx context.Context) error {
	defer closeClients(c.all())
	reading, ctx := errgroup.WithContext(ctx)
	for _, p := range c.all() {
		reading.Go(func() error { return p.readOnce(ctx) })
	}
	return reading.Wait()
}

// setStart starts all projects.
func (c *Collector) setStart(start func(*project)) {
	c.applying.Lock()
	defer c.applying.Unlock()
	if c.start = start; start == nil {
		return
	}
	for _, p := range c.all() {
		start(p)
	}
}

// Projects returns the names of the projects, sorted.
func (c *Collector) Projects() []string {
	return namesOf(c.all())
}

// Refresh syncs a project, or all if project is empty, and returns when that is done
// or ctx ends; in that case the syncs continue in the background. Concurrent calls share
// syncs. It does not wait for initial syncs, nor, among several projects, for a sync for
// which an earlier call has waited in vain.
func (c *Collector) Refresh(ctx context.Context, project string) {
	var wg sync.WaitGroup
	matching := c.matching(project)
	for _, p := range matching {
		wg.Go(func() { p.refresh(ctx, len(matching) > 1) })
	}
	wg.Wait()
}

// IsReady reports whether a project has published, or could not because a sync
// failed or makes no progress for a minute. With an empty name, it reports whether that was once
// so of all: one that is added later must not take the others out of a load balancer.
func (c *Collector) IsReady(name string) bool {
	matching := c.matching(name)
	ready := !slices.ContainsFunc(matching, func(p *project) bool {
		return !p.snapshots.isPublished() && !p.hasFailed.Load() && !p.metrics.stall.hasPaused()
	})
	if name != "" {
		return ready && len(matching) > 0
	}
	if ready {
		c.wasReady.Store(true)
	}
	return c.wasReady.Load()
}

// Gatherer gathers the metrics of a project, or of all if the name is empty; nil if
// there is none of this name.
func (c *Collector) Gatherer(name string) prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	switch p := c.find(name); {
	case name == "":
		registry.MustRegister(c)
	case p == nil:
		return nil
	default:
		registry.MustRegister(p)
	}
	return registry
}

// Count returns a prometheus.Collector of the number of projects, which is a metric of
// the process.
func (c *Collector) Count() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "opper_exporter_projects",
		Help: "Number of projects that are configured.",
	}, func() float64 { return float64(len(c.all())) })
}

// Describe implements prometheus.Collector. It describes nothing, as projects come
// and go.
func (*Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.all() {
		p.Collect(ch)
	}
}

func (c *Collector) all() []*project { return *c.projects.Load() }

// matching returns all projects, or the one of this name.
func (c *Collector) matching(name string) []*project {
	if name == "" {
		return c.all()
	}
	if p := c.find(name); p != nil {
		return []*project{p}
	}
	return nil
}

// find returns a project, or nil.
func (c *Collector) find(name string) *project {
	all := c.all()
	i, ok := slices.BinarySearchFunc(all, name, func(p *project, name string) int { return cmp.Compare(p.cfg.Name, name) })
	if !ok {
		return nil
	}
	return all[i]
}
