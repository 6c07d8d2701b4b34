// Package read runs the exporter's own collector once, and returns what it publishes and
// which traces it has counted.
package read

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/server"
	"opper_exporter/opper"
)

// progressInterval is how often progress is reported.
const progressInterval = 200 * time.Millisecond

// Config says what is read, and where to.
type Config struct {
	Projects                  []config.Project
	MaxRequestsPerSecondTotal float64
	// State is a copy of the exporter's state, or its directory. Empty makes a state.
	State string
	// Directory is where a state is made, or copied to for as long as it is read.
	Directory string
	// First is the first scrape of each project on the server; nil if no server was asked.
	First    map[string]server.First
	Logger   log.Logger
	Progress func(read, listed int) // called now and then, with numbers of traces
}

// Result is what a history is made of.
type Result struct {
	Projects []history.Project
	// Since is when the state began to count: the exporter has published nothing of it
	// earlier, unless it is Renewed: other series were there before. It is zero without a
	// state.
	Since   time.Time
	Renewed bool
	// Undated is the number of counted traces without a usable time, and Future of those
	// that ended later than they were read.
	Undated, Future int
}

// Run reads what is listed, once.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	r := &reader{cfg: cfg, clock: collector.NewClock()}
	for _, p := range cfg.Projects {
		p.UsageInterval, p.Aggregate.Costs = 0, false
		r.projects = append(r.projects, &project{cfg: p, began: r.clock.System(), indexes: map[string]uint32{}})
	}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	result := &Result{}
	for _, p := range r.projects {
		if first, ok := cfg.First[p.cfg.Name]; ok {
			p.first = &first
		} else if cfg.First != nil && len(p.events) > 0 {
			return nil, fmt.Errorf("project %q: --from-server has no series of it with these labels: does it scrape the project?", p.cfg.Name)
		}
		h, err := p.history()
		if err != nil {
			return nil, fmt.Errorf("project %q: %w", p.cfg.Name, err)
		}
		result.Projects = append(result.Projects, h)
		result.Undated += p.undated
		result.Future += p.future
		if p.known == nil {
			continue
		}
		s := p.known.Aggregates
		result.Renewed = result.Renewed || s.Renewed
		if result.Since.IsZero() || s.Since.Before(result.Since) {
			result.Since = s.Since
		}
	}
	return result, nil
}

type reader struct {
	cfg      Config
	clock    *collector.Clock
	projects []*project
}

// read reads the list of all projects as the exporter does when it has no state. With a
// state, that is published before, and only what it has counted is taken.
func (r *reader) read(ctx context.Context) (err error) {
	if r.cfg.State != "" {
		if err := r.restore(); err != nil {
			return fmt.Errorf("--state: %w", err)
		}
		return r.list(ctx, collector.Deps{})
	}
	state, err := store.Open(r.cfg.Directory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	if err := r.list(ctx, collector.Deps{Store: state}); err != nil {
		return err
	}
	for _, p := range r.projects {
		if err := p.countFuture(state); err != nil {
			return fmt.Errorf("project %q: %w", p.cfg.Name, err)
		}
	}
	return state.Verify()
}

// restore publishes the state of each project, and keeps which traces it has counted.
func (r *reader) restore() (err error) {
	if err := copyState(r.cfg.State, r.cfg.Directory); err != nil {
		return err
	}
	state, err := store.Open(r.cfg.Directory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	for _, p := range r.projects {
		if p.known, err = known(state, &p.cfg); err != nil {
			return fmt.Errorf("project %q: %w", p.cfg.Name, err)
		}
	}
	c, err := collector.New(r.configs(), collector.Deps{Logger: log.NewNopLogger(), Clock: r.clock, Store: state})
	if err != nil {
		return err
	}
	for _, p := range r.projects {
		if err := p.gather(c); err != nil {
			return err
		}
		// The state may have counted any trace, and what it has counted has settled, also
		// by a clock that is ahead.
		p.lookback, p.settle = p.cfg.InitialLookback, p.cfg.SettleDelay
		p.cfg.InitialLookback, p.cfg.SettleDelay = nil, -time.Hour
	}
	return nil
}

// list reads what is listed of all projects.
func (r *reader) list(ctx context.Context, deps collector.Deps) error {
	byName := map[string]*project{}
	for _, p := range r.projects {
		byName[p.cfg.Name] = p
	}
	deps.Logger, deps.Clock, deps.Limit = r.cfg.Logger, r.clock, opper.NewSharedLimit(r.cfg.MaxRequestsPerSecondTotal)
	deps.Observe = func(project string, counted []ledger.Counted) { byName[project].observe(counted) }
	c, err := collector.New(r.configs(), deps)
	if err != nil {
		return err
	}
	stop := r.report(c)
	err = c.ReadOnce(ctx)
	stop()
	for _, p := range r.projects {
		if err == nil && p.known == nil {
			err = p.gather(c)
		}
	}
	return err
}

func (r *reader) configs() []config.Project {
	var all []config.Project
	for _, p := range r.projects {
		all = append(all, p.cfg)
	}
	return all
}

// report reports the progress of all projects until stop is called.
func (r *reader) report(c *collector.Collector) (stop func()) {
	stopped := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-ticker.C:
				r.cfg.Progress(progress(c))
			}
		}
	})
	return func() {
		close(stopped)
		reporting.Wait()
		r.cfg.Progress(progress(c))
	}
}

// progress returns how many of the listed traces have been read.
func progress(c *collector.Collector) (read, listed int) {
	for _, st := range c.Status() {
		switch {
		case st.Initial != nil:
			read += st.Initial.Read
			listed += max(st.Initial.Total, st.Initial.Read)
		case st.Published != nil && st.Published.Listed > 0:
			read += st.Published.Listed
			listed += st.Published.Listed
		}
	}
	return read, listed
}
