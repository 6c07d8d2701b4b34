// Package collector exposes the traces of Opper projects as Prometheus metrics.
// Background syncs read them; a scrape is served from memory.
package collector

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"opper_exporter/collector/config"
)

// Deps are what a Collector depends on.
type Deps struct {
	Logger log.Logger
	Clock  *Clock
	Store  Store // nil disables persistence
	// AllRead reports whether every scraper of a project has read what has been
	// exposed of it since a time. If it is nil, no scraper is waited for.
	AllRead func(project string, since time.Time) bool
}

// Store persists the state of projects.
type Store interface {
	// Load calls visit with each entry that is stored of a project, in the order of
	// their keys, and reports whether there are any.
	Load(project string, visit func(key string, body []byte) error) (bool, error)
	// Commit stores the entries of a project that have changed, by key, and deletes
	// those without a body. With fresh, it deletes all others too.
	// When it returns nil, they are durable. store.ErrBroken is final: what is on
	// disk is not, or no longer, what was committed.
	Commit(project string, changes map[string][]byte, fresh bool) error
}

// Collector exposes what the last sync of each project published. It is a
// prometheus.Collector, and safe for concurrent use.
type Collector struct {
	projects []*project
}

// New returns a Collector of projects, which continue from their state.
func New(projects []config.Project, deps Deps) (*Collector, error) {
	c := &Collector{}
	for _, cfg := range projects {
		p, err := openProject(cfg, deps)
		if err != nil {
			return nil, err
		}
		c.projects = append(c.projects, p)
	}
	return c, nil
}

// Run syncs all projects until ctx ends. It returns an error only if the store
// breaks: nothing could be published from then on.
func (c *Collector) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range c.projects {
		g.Go(func() error { return p.run(ctx) })
	}
	return g.Wait()
}

// Refresh syncs all projects and returns when that is done or ctx ends; the
// syncs go on then. Calls at the same time share syncs. Initial syncs are not
// waited for.
func (c *Collector) Refresh(ctx context.Context, project string) {
	var wg sync.WaitGroup
	for _, p := range c.of(project) {
		wg.Go(func() { p.refresh(ctx) })
	}
	wg.Wait()
}

// of returns one project, or all if the name is empty.
func (c *Collector) of(name string) []*project {
	if name == "" {
		return c.projects
	}
	for i, p := range c.projects {
		if p.cfg.Name == name {
			return c.projects[i : i+1]
		}
	}
	return nil
}

// Projects returns the names of the projects, sorted.
func (c *Collector) Projects() []string {
	var names []string
	for _, p := range c.projects {
		names = append(names, p.cfg.Name)
	}
	slices.Sort(names)
	return names
}

// Gatherer returns the metrics of a project, or of all if the name is empty; nil if
// there is none of this name.
func (c *Collector) Gatherer(project string) prometheus.Gatherer {
	projects := c.of(project)
	if project != "" && len(projects) == 0 {
		return nil
	}
	r := prometheus.NewRegistry()
	r.MustRegister(&Collector{projects: projects})
	return r
}

// IsReady reports whether each project has published.
func (c *Collector) IsReady(project string) bool {
	for _, p := range c.of(project) {
		if !p.isReady() {
			return false
		}
	}
	return true
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
	for _, p := range c.projects {
		p.metrics.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.projects {
		p.collect(ch)
	}
}
