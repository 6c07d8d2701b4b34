// Package collector keeps the metrics of Opper projects: it runs the syncs and
// hands out what the last one published. A scrape is served from memory.
package collector

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/sums"
	"opper_exporter/collector/walk"
)

// progressEvery is how often a long first walk says in the log how far it is.
const progressEvery = 10 * time.Second

// Config says how a project is collected.
type Config struct {
	Project     string
	Interval    time.Duration // between syncs; 0 syncs when Refresh is called
	Settle      time.Duration // from when a trace is first seen ended until it is counted
	Abandon     time.Duration // from when a trace without an end is first seen until it is given up
	Concurrency int           // requests at once in a long walk
	Native      bool          // expose native buckets beside the classic ones
	Sums        sums.Config
	Now         func() time.Time // nil is time.Now
	Logger      log.Logger
	// Source returns where to read from in one sync: each has its own budget of
	// retries.
	Source func() walk.Source
}

// Project is one API key's worth of traces. It is a prometheus.Collector, and
// all its methods are safe for concurrent use.
type Project struct {
	cfg    Config
	led    *ledger.Ledger
	walker *walk.Walker
	sums   *sums.Sums
	press  *press
	health *health

	published atomic.Pointer[snapshot]
	ready     chan struct{} // closed when the baseline is published

	wanted chan struct{} // asks for a sync; holds one
	mu     sync.Mutex
	flight chan struct{} // closed when the sync that is wanted or running ends; nil if none is

	// Only of the goroutine that runs the syncs.
	began, lastGood, told time.Time
	failing               bool
}

// NewProject returns a project that has read nothing yet.
func NewProject(cfg Config) *Project {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Project{
		cfg:    cfg,
		led:    ledger.New(ledger.Config{Settle: cfg.Settle, Abandon: cfg.Abandon, Look: cfg.Interval}),
		press:  newPress(cfg.Project, cfg.Native, cfg.Sums),
		health: newHealth(cfg.Project),
		ready:  make(chan struct{}),
		wanted: make(chan struct{}, 1),
		began:  cfg.Now(),
	}
	p.sums = sums.New(cfg.Sums, p.began)
	p.walker = walk.New(walk.Config{
		Now: cfg.Now, Interval: cfg.Interval, Concurrency: cfg.Concurrency, Logger: cfg.Logger, Progress: p.progress,
	}, p.led)
	p.published.Store(&snapshot{})
	return p
}

// Run syncs until ctx ends: at once, and then at the interval or, if that is 0,
// whenever Refresh is called.
func (p *Project) Run(ctx context.Context) {
	tick := make(<-chan time.Time)
	if p.cfg.Interval > 0 {
		t := time.NewTicker(p.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	for {
		p.sync(ctx)
		p.landed()
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-p.wanted:
		}
	}
}

// Refresh syncs and returns when that is done or ctx ends; the sync goes on
// then. Calls at the same time share one sync. The first walk is not waited
// for.
func (p *Project) Refresh(ctx context.Context) {
	p.mu.Lock()
	if p.flight == nil {
		p.flight = make(chan struct{})
		p.wanted <- struct{}{}
	}
	flight := p.flight
	p.mu.Unlock()
	select {
	case <-p.ready:
	default:
		return
	}
	select {
	case <-flight:
	case <-ctx.Done():
	}
}

// landed ends the wait of those who wanted the sync that has just ended.
func (p *Project) landed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.wanted:
		// Asked for while this sync ran: it is the one that they share.
	default:
	}
	if p.flight != nil {
		close(p.flight)
		p.flight = nil
	}
}

// Ready is closed once the first complete walk is published.
func (p *Project) Ready() <-chan struct{} { return p.ready }

// sync does one sync. A sync that fails changes no number that is published:
// what it found is published with the next one that succeeds.
func (p *Project) sync(ctx context.Context) {
	start := p.cfg.Now()
	baseline := p.led.Baseline()
	ev, err := p.walker.Sync(ctx, p.cfg.Source())
	p.apply(ev)
	now := p.cfg.Now()
	took := now.Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			p.failing = true
			p.health.failed(took)
			level.Error(p.cfg.Logger).Log("msg", "sync failed", "project", p.cfg.Project, "duration_seconds", took.Seconds(), "err", err)
		}
		return
	}
	if baseline {
		p.sums.EndBaseline(now)
	}
	p.meetOpen()
	shot := p.press.print(p.sums, p.led, p.walker.Total())
	p.published.Store(&shot)
	p.health.succeeded(now, took)
	p.lastGood = now
	logger := level.Debug(p.cfg.Logger)
	if p.failing || baseline {
		logger = level.Info(p.cfg.Logger)
	}
	msg := "sync finished"
	if baseline {
		msg = "first walk finished"
		close(p.ready)
	}
	logger.Log("msg", msg, "project", p.cfg.Project, "duration_seconds", took.Seconds(), "listed", p.led.Listed(), "counted", len(ev.Counted))
	p.failing = false
}

// apply adds up what was found. A name that is new was at 0 at the last good
// sync.
func (p *Project) apply(ev ledger.Events) { p.sums.Apply(ev, p.before()) }

// before returns when the last good sync was, or when the project began.
func (p *Project) before() time.Time {
	if p.lastGood.IsZero() {
		return p.began
	}
	return p.lastGood
}

// meetOpen gives sums to names that traces got while they run, in an order that
// does not depend on chance.
func (p *Project) meetOpen() {
	names := map[string]struct{}{}
	p.led.Open(func(r ledger.Row) { names[r.Name] = struct{}{} })
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p.sums.Meet(name, p.before())
	}
}

// progress takes in what the first walk has found so far, and tells how far it
// is.
func (p *Project) progress(ev ledger.Events, met, total int) {
	p.apply(ev)
	p.health.up.Set(1)
	ratio := 0.0
	if total > 0 {
		ratio = min(float64(met)/float64(total), 1)
		p.health.progress.Set(ratio)
	}
	if now := p.cfg.Now(); now.Sub(p.told) >= progressEvery {
		if !p.told.IsZero() {
			level.Info(p.cfg.Logger).Log("msg", "first walk goes on", "project", p.cfg.Project, "met", met, "listed", total, "progress_ratio", ratio)
		}
		p.told = now
	}
}

// Describe implements prometheus.Collector.
func (p *Project) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
	for _, c := range p.health.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (p *Project) Collect(ch chan<- prometheus.Metric) {
	for _, m := range *p.published.Load() {
		ch <- m
	}
	for _, c := range p.health.collectors() {
		c.Collect(ch)
	}
}
