package collector

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/syncer"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

// syncRetries is the maximum number of retried requests in one sync.
const syncRetries = 4

// project is one API key's worth of traces: sync, apply, commit, publish.
type project struct {
	cfg    config.Project
	deps   Deps
	logger log.Logger
	clock  *Clock        // of ages
	client *opper.Client // nil if source needs none
	// source returns where to read from in one sync, which waits for the limits
	// until a time, or for ever: each has its own budget of retries.
	source func(opper.Priority, time.Time) syncer.Source

	// Safe for concurrent use.
	snapshots *snapshots
	metrics   *instrumentation
	activity  *activity
	requests  syncRequests
	hasFailed atomic.Bool // a sync, or the commit of one

	// What is counted. This and what follows is of the goroutine that syncs.
	upstream           upstream
	syncer             listSyncer
	ledger             *ledger.Ledger
	aggregates         *aggregate.Set
	usage              *usageReader
	began, lastSuccess time.Time

	state       *persistence
	zeros       zeroFirst
	initial     initialProgress
	failing     bool
	sweptAt     time.Time          // when a page of a sweep was read last
	isContinued bool               // of a project of this process
	halt        context.CancelFunc // ends the running sync

	stop func() // ends run, and returns when it has ended; for Collector alone
}

// listSyncer reads what has changed in the list; a *syncer.Syncer does.
type listSyncer interface {
	Sync(ctx context.Context, src syncer.Source) iter.Seq2[syncer.Part, error]
	Sweep(ctx context.Context, src syncer.Source) (ledger.Events, error)
	IsBehind() bool
	IsSweepDue() bool
	IsUnsorted() bool
	Total() int
	State() ([]byte, error)
}

// openProject returns a project that reads from Opper. With old, it is the same one
// with other settings: counters of the process and the clock go on. It is to be
// restored, and then exposed.
func openProject(cfg config.Project, deps Deps, old *project) (*project, error) {
	metrics := newInstrumentation(cfg.Name, cfg.NativeHistograms)
	clock := deps.Clock.another()
	if old != nil {
		metrics.continueFrom(old.metrics)
		clock = old.clock
	}
	opts := cfg.Opper
	opts.Shared, opts.Transports = deps.Limit, deps.transports
	opts.Observe, opts.Received, opts.Waited = metrics.observeRequest, metrics.observeReceived, metrics.observeWait
	opts.Logger = log.With(deps.Logger, "project", cfg.Name)
	client, err := opper.New(opts)
	if err != nil {
		return nil, fmt.Errorf("project %q: %w", cfg.Name, err)
	}
	p := newProject(cfg, deps, metrics, clock, func(p opper.Priority, waitUntil time.Time) syncer.Source {
		return client.WithRetries(syncRetries).WithPriority(p).WaitUntil(waitUntil)
	})
	p.client = client
	p.usage.source = func() usage.Source {
		return client.WithRetries(usageRetries).WithPriority(opper.PriorityUsage)
	}
	if old != nil {
		if old.client != nil {
			client.Continue(old.client)
		}
		p.isContinued, p.activity.started = true, old.activity.started
		if cfg.UpstreamURL == old.cfg.UpstreamURL {
			p.usage.continueFrom(old.usage)
		}
	}
	return p, nil
}

// newProject returns a project that has read nothing yet.
func newProject(cfg config.Project, deps Deps, metrics *instrumentation, clock *Clock, source func(opper.Priority, time.Time) syncer.Source) *project {
	cfg.Aggregate.Partial, cfg.Aggregate.Wall = cfg.InitialLookback != nil, clock.Wall
	metrics.interval.Set(cfg.Interval.Seconds())
	metrics.stall = newStall(clock.Now, cfg.Interval, metrics.up)
	p := &project{
		cfg:       cfg,
		deps:      deps,
		logger:    log.With(deps.Logger, "project", cfg.Name),
		source:    source,
		clock:     clock,
		zeros:     zeroFirst{project: cfg.Name, clock: deps.Clock, allRead: deps.AllRead, exposed: map[aggregate.ZeroPending]time.Time{}},
		snapshots: newSnapshots(&cfg),
		metrics:   metrics,
		initial:   initialProgress{savedAt: clock.Now()},
		requests:  syncRequests{wanted: make(chan struct{}, 1)},
		began:     clock.System(),
		halt:      func() {},
		stop:      func() {},
	}
	p.usage = newUsageReader(&cfg, clock, p.logger)
	p.activity = newActivity(metrics, clock)
	p.state = &persistence{project: cfg.Name, store: deps.Store, clock: clock, metrics: metrics, logger: p.logger}
	p.countFromZero()
	return p
}

// expose publishes what was restored, if it is known to be what is configured. What
// restarts from zero is committed first. All projects must be restored by then.
func (p *project) expose() {
	p.usage.set.EndRestore()
	if p.state.hasReset && !p.commit() || p.isUnproven() {
		return
	}
	if !p.state.isFresh || len(p.usage.set.Models()) > 0 {
		p.publishUsage()
	}
	if !p.state.isFresh && !p.ledger.IsInitialSync() {
		p.publish()
	}
}

// sync runs one sync, and reports whether Opper answered what it asked for. One
// that fails changes no number that is published: what it read is published by
// the next one that succeeds, as it is if the state can't be committed.
func (p *project) sync(ctx context.Context) bool {
	start := p.clock.Now()
	p.metrics.stall.begin()
	defer p.metrics.stall.end()
	counted, err := p.read(ctx)
	if errors.Is(err, syncer.ErrOtherUpstream) {
		p.startOver()
		return p.sync(ctx)
	}
	now := p.clock.Now()
	took := now.Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			p.failed(took, err)
		}
		return false
	}
	ended := p.clock.System()
	p.aggregates.EndInitialSync(ended)
	p.zeros.endZeros()
	p.removeNames(now)
	p.placeOpen()
	p.metrics.synced(took, true)
	p.lastSuccess = ended
	committed := p.commitProven()
	p.activity.synced(took, p.state.err)
	if !committed {
		p.hasFailed.Store(true)
		return true
	}
	p.publish()
	p.publishUsage()
	logger := level.Debug(p.logger)
	if p.failing {
		logger = level.Info(p.logger)
	}
	p.failing = false
	logger.Log("msg", "sync complete", "duration_seconds", took.Seconds(), "listed", p.ledger.Listed(), "counted", counted)
	return true
}

// read applies what has changed in the list, and returns how many traces are counted.
func (p *project) read(ctx context.Context) (counted int, err error) {
	src, endSlot := p.syncSource()
	defer endSlot()
	for part, failure := range p.syncer.Sync(ctx, src) {
		p.apply(part.Events)
		counted += len(part.Events.Counted)
		if err = failure; !part.IsLast {
			p.progress(part)
		}
	}
	return counted, err
}

// failed notes that a sync has failed.
func (p *project) failed(took time.Duration, err error) {
	p.failing = true
	p.hasFailed.Store(true)
	p.metrics.synced(took, false)
	p.activity.synced(took, err)
	logger := p.logger
	if opper.Refused(err) {
		logger = log.WithSuffix(logger, "key_from", p.cfg.KeyOrigin)
	}
	level.Error(logger).Log("msg", "sync failed", "duration_seconds", took.Seconds(), "err", err)
}

// sweepPatience is how long a page of a sweep waits for the limits if there is no
// interval: a scrape may ask for a sync at any time.
const sweepPatience = time.Second

// sweep reads a page of a sweep. It reports whether another one may follow
// before the next sync, which publishes what was read and which no page waits
// beyond: sweeps come after the syncs of all projects, also of this one.
func (p *project) sweep(ctx context.Context, next time.Time) bool {
	if p.cfg.Interval == 0 {
		next = time.Now().Add(sweepPatience)
	}
	p.sweptAt, p.state.documentsAt = time.Now(), time.Time{}
	p.metrics.stall.begin()
	defer p.metrics.stall.end()
	ev, err := p.syncer.Sweep(ctx, watchedSource{p.source(opper.PrioritySweep, next), p.metrics.stall})
	p.apply(ev)
	switch {
	case errors.Is(err, opper.ErrPostponed):
		level.Debug(p.logger).Log("msg", "sweep postponed", "err", err)
	case err != nil && ctx.Err() == nil:
		level.Warn(p.logger).Log("msg", "sweep interrupted", "restarts", false, "err", err)
	}
	return err == nil
}

// sweepPause returns how long to wait before the next page of a sweep: not at
// all if only full scans find new traces.
func (p *project) sweepPause() time.Duration {
	if p.syncer.IsUnsorted() {
		return 0
	}
	return p.cfg.SweepPause
}

// apply adds up what was read.
func (p *project) apply(ev ledger.Events) {
	if p.deps.Observe != nil && len(ev.Counted) > 0 {
		p.deps.Observe(p.cfg.Name, ev.Counted)
	}
	known := len(p.aggregates.Unmapped())
	p.aggregates.Apply(ev, p.lastZero(), p.clock.Now())
	for _, u := range p.aggregates.Unmapped()[known:] {
		level.Warn(p.logger).Log("msg", "status maps to no outcome, its traces count as unknown", "status", u.Label,
			"flags", "--collector.success-status, --collector.failure-status")
	}
}

// lastZero returns when the aggregate of a new name was surely 0. What was exposed
// before the project began may have had series of an expired name until then.
func (p *project) lastZero() time.Time {
	return latest(p.lastSuccess, p.began)
}

// publish exposes the aggregates as they are. They must be durable.
func (p *project) publish() {
	p.snapshots.publish(p.aggregates, p.ledger, p.syncer.Total())
	p.aggregates.Published()
	p.activity.published(p.lastSuccess)
	p.metrics.published(p.lastSuccess)
	p.zeros.published(p.aggregates.ZeroPending())
}

// Describe implements prometheus.Collector. It describes nothing, so that a registry
// expects nothing in particular of a project.
func (*project) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (p *project) Collect(ch chan<- prometheus.Metric) {
	p.metrics.stall.update()
	published, collectors := []*snapshot{p.snapshots.published.Load()}, p.metrics.collectors()
	if p.usage.isOn() {
		published = append(published, p.usage.published.Load())
		collectors = append(collectors, p.usage.metrics.collectors()...)
	}
	for _, snapshot := range published {
		for _, m := range *snapshot {
			ch <- m
		}
	}
	for _, c := range collectors {
		c.Collect(ch)
	}
}
