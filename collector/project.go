package collector

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

const (
	// progressInterval is how often a long initial sync logs its progress and
	// commits.
	progressInterval = 10 * time.Second
	// progressRows and progressEntries are the numbers of rows, and of entries of
	// open and abandoned traces, after which the initial sync commits, however
	// little time has passed: the memory of a transaction grows with the pages that
	// its entries fall on, and those of traces have no order.
	progressRows    = 1 << 12
	progressEntries = 1 << 10
	// syncRetries is the maximum number of retried requests in one sync.
	syncRetries = 4
)

// project is one API key's worth of traces: sync, apply, commit, publish.
type project struct {
	cfg    config.Project
	deps   Deps
	logger log.Logger
	// source returns where to read from in one sync: each has its own budget of
	// retries.
	source     func() syncer.Source
	ledger     *ledger.Ledger
	syncer     reader
	aggregates *aggregate.Set
	zeros      *zeroFirst
	builder    *snapshots
	metrics    *instrumentation
	activity   *activity

	published       atomic.Pointer[snapshot]
	publishedStatus atomic.Pointer[status.Published] // of the same sync
	ready           chan struct{}                    // closed when the initial sync is published

	wanted chan struct{} // asks for a sync; holds one
	mu     sync.Mutex
	flight chan struct{} // closed when the sync that is wanted or running ends; nil if none is

	// Only of the goroutine that syncs.
	began, lastSuccess time.Time
	loggedAt, savedAt  time.Time // of the initial sync's progress
	savedRows          int       // that the initial sync had read when it committed last
	unsaved            int       // entries that it could not commit then
	commitErr          error     // of the last one
	failing            bool
	sweptAt            time.Time // when a page of a sweep was read last
	origin             origin
	upstream           upstream           // of what is counted
	fresh              bool               // the state on disk, if any, is to be replaced
	broken             error              // why the store is broken
	halt               context.CancelFunc // ends the running sync
}

// reader reads what has changed in the list; a *syncer.Syncer does.
type reader interface {
	Sync(ctx context.Context, src syncer.Source) iter.Seq2[syncer.Part, error]
	Sweep(ctx context.Context, src syncer.Source) (ledger.Events, error)
	IsSweepDue() bool
	IsUnsorted() bool
	Total() int
	State() ([]byte, error)
}

// openProject returns a project that reads from Opper.
func openProject(cfg config.Project, deps Deps) (*project, error) {
	metrics := newInstrumentation(cfg.Name, cfg.NativeHistograms)
	opts := cfg.Opper
	opts.Observe, opts.Received = metrics.observeRequest, metrics.observeReceived
	opts.Logger = log.With(deps.Logger, "project", cfg.Name)
	client, err := opper.New(opts)
	if err != nil {
		return nil, err
	}
	return newProject(cfg, deps, metrics, func() syncer.Source { return client.WithRetries(syncRetries) })
}

// newProject returns a project that continues from its state, or has read
// nothing yet.
func newProject(cfg config.Project, deps Deps, metrics *instrumentation, source func() syncer.Source) (*project, error) {
	cfg.Aggregate.Partial = cfg.InitialLookback != nil
	metrics.stall = newStall(deps.Clock.Now, cfg.Interval, metrics.up)
	p := &project{
		cfg:     cfg,
		deps:    deps,
		logger:  log.With(deps.Logger, "project", cfg.Name),
		source:  source,
		zeros:   newZeroFirst(cfg.Name, deps.AllRead),
		builder: newSnapshots(&cfg),
		metrics: metrics,
		ready:   make(chan struct{}),
		wanted:  make(chan struct{}, 1),
		began:   deps.Clock.System(),
		savedAt: deps.Clock.Now(),
		fresh:   true,
		halt:    func() {},
	}
	p.published.Store(&snapshot{})
	p.activity = newActivity(metrics, deps.Clock)
	p.countFromZero()
	if err := p.restore(); err != nil {
		return nil, err
	}
	if !p.ledger.IsInitialSync() && !p.isUnproven() {
		p.publish()
	}
	return p, nil
}

// run syncs until ctx ends: at once, and then at the interval or, if that is 0,
// whenever refresh is called. Between syncs it reads pages of sweeps. It returns
// an error only if the store breaks.
func (p *project) run(ctx context.Context) error {
	ctx, p.halt = context.WithCancel(ctx)
	defer p.halt()
	tick := make(<-chan time.Time)
	if p.cfg.Interval > 0 {
		t := time.NewTicker(p.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	for ctx.Err() == nil {
		sweeping := p.sync(ctx)
		p.landed()
		for waiting := true; waiting; {
			var page <-chan time.Time
			if sweeping && p.syncer.IsSweepDue() {
				page = time.After(time.Until(p.sweptAt.Add(p.sweepPause())))
			}
			select {
			case <-ctx.Done():
				return p.broken
			case <-tick:
				waiting = false
			case <-p.wanted:
				waiting = false
			case <-page:
				sweeping = p.sweep(ctx)
			}
		}
	}
	return p.broken
}

// refresh syncs and returns when that is done or ctx ends; the sync goes on
// then. Calls at the same time share one sync. The initial sync is not waited
// for.
func (p *project) refresh(ctx context.Context) {
	p.mu.Lock()
	if p.flight == nil {
		p.flight = make(chan struct{})
		p.wanted <- struct{}{}
	}
	flight := p.flight
	p.mu.Unlock()
	if !p.isReady() {
		return
	}
	select {
	case <-flight:
	case <-ctx.Done():
	}
}

// landed ends the wait of those who wanted the sync that has just ended.
func (p *project) landed() {
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

// sync runs one sync, and reports whether Opper answered what it asked for. One
// that fails changes no number that is published: what it read is published by
// the next one that succeeds, as it is if the state can't be committed.
func (p *project) sync(ctx context.Context) bool {
	start := p.deps.Clock.Now()
	p.metrics.stall.begin()
	defer p.metrics.stall.end()
	counted := 0
	var err error
	for part, failure := range p.syncer.Sync(ctx, watchedSource{p.source(), p.metrics.stall}) {
		p.apply(part.Events)
		counted += len(part.Events.Counted)
		if err = failure; !part.IsLast {
			p.progress(part)
		}
	}
	if errors.Is(err, syncer.ErrOtherList) {
		p.startOver()
		return p.sync(ctx)
	}
	now := p.deps.Clock.Now()
	took := now.Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			p.failing = true
			p.metrics.synced(took, false)
			p.activity.synced(took, err)
			logger := p.logger
			if opper.Refused(err) {
				logger = log.WithSuffix(logger, "key_from", p.cfg.KeyOrigin)
			}
			level.Error(logger).Log("msg", "sync failed", "duration_seconds", took.Seconds(), "err", err)
		}
		return false
	}
	ended := p.deps.Clock.System()
	p.aggregates.EndInitialSync(ended)
	p.zeros.release(now)
	p.removeNames(now)
	p.placeOpen()
	p.metrics.synced(took, true)
	p.lastSuccess = ended
	before := p.upstream
	p.upstream = p.configured() // the syncer has proven it
	committed := p.commit()
	p.activity.synced(took, p.commitErr)
	if !committed {
		p.upstream = before
		return true
	}
	switch {
	case before != p.upstream:
		level.Info(p.logger).Log("msg", "upstream has changed, its list is the known one", "stored_url", before.URL, "url", p.upstream.URL)
	case !p.isReady():
		p.logInitialSync()
	}
	p.publish()
	logger := level.Debug(p.logger)
	if p.failing {
		logger = level.Info(p.logger)
	}
	p.failing = false
	logger.Log("msg", "sync complete", "duration_seconds", took.Seconds(), "listed", p.ledger.Listed(), "counted", counted)
	return true
}

// sweep reads a page of a sweep. It reports whether another one may follow
// before the next sync, which publishes what was read.
func (p *project) sweep(ctx context.Context) bool {
	p.sweptAt = time.Now()
	p.metrics.stall.begin()
	defer p.metrics.stall.end()
	ev, err := p.syncer.Sweep(ctx, watchedSource{p.source(), p.metrics.stall})
	p.apply(ev)
	if err != nil && ctx.Err() == nil {
		level.Warn(p.logger).Log("msg", "sweep interrupted", "err", err)
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
	known := len(p.aggregates.Unmapped())
	p.aggregates.Apply(ev, p.lastZero())
	for _, u := range p.aggregates.Unmapped()[known:] {
		level.Warn(p.logger).Log("msg", "status maps to no outcome, its traces count as unknown", "status", u.Label,
			"flags", "--collector.success-status, --collector.failure-status")
	}
}

// lastZero returns when the aggregate of a new name was surely 0. What was exposed
// before the project began may have had series of an expired name until then.
func (p *project) lastZero() time.Time {
	if p.lastSuccess.Before(p.began) {
		return p.began
	}
	return p.lastSuccess
}

// placeOpen gives aggregates to the names of open traces, which may have been renamed.
// The places that are left go by label, so that two replicas agree.
func (p *project) placeOpen() {
	places := p.aggregates.FreePlaces()
	first := map[string]string{} // raw names by label
	last := ""                   // no label behind it gets a place; empty if any may
	p.ledger.Open(func(r ledger.Row) {
		label, ok := p.aggregates.Unplaced(r.Name)
		if !ok || places == 0 || last != "" && label > last {
			return
		}
		first[label] = r.Name
		if len(first) > 2*places {
			sorted := slices.Sorted(maps.Keys(first))
			last = sorted[places-1]
			for _, beaten := range sorted[places:] {
				delete(first, beaten)
			}
		}
	})
	for _, label := range slices.Sorted(maps.Keys(first)) {
		p.aggregates.Ensure(first[label], p.lastZero())
	}
	p.ledger.Open(func(r ledger.Row) { p.aggregates.Ensure(r.Name, p.lastZero()) })
}

// publish exposes the aggregates as they are. They must be durable.
func (p *project) publish() {
	metrics, published := p.builder.build(p.aggregates, p.ledger, p.syncer.Total())
	p.published.Store(&metrics)
	p.publishedStatus.Store(published)
	p.activity.published(p.lastSuccess)
	p.metrics.published(p.lastSuccess)
	p.zeros.published(p.aggregates.ZeroPending(), p.deps.Clock.Now())
	if !p.isReady() {
		close(p.ready)
	}
}

// isReady reports whether the initial sync is published.
func (p *project) isReady() bool {
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

// collect hands out what is published.
func (p *project) collect(ch chan<- prometheus.Metric) {
	for _, m := range *p.published.Load() {
		ch <- m
	}
	p.metrics.Collect(ch)
}

// progress commits and logs the progress of the initial sync now and then.
func (p *project) progress(part syncer.Part) {
	p.metrics.up.Set(1)
	p.activity.progress(part)
	ratio := 0.0
	if part.Total > 0 {
		ratio = min(float64(part.Read)/float64(part.Total), 1)
		p.metrics.initialSync.Set(ratio)
	}
	now := p.deps.Clock.Now()
	if now.Sub(p.loggedAt) >= progressInterval {
		if !p.loggedAt.IsZero() {
			level.Info(p.logger).Log("msg", "initial sync running", "read", part.Read, "listed", part.Total, "progress_ratio", ratio)
		}
		p.loggedAt = now
	}
	// The state of another upstream is kept until there is something in its place.
	if p.origin != otherUpstream && (now.Sub(p.savedAt) >= progressInterval || part.Read-p.savedRows >= progressRows || p.ledger.Unsaved()-p.unsaved >= progressEntries) {
		p.commit()
		p.savedAt, p.savedRows, p.unsaved = now, part.Read, p.ledger.Unsaved()
	}
}

// logInitialSync logs what the counters begin with.
func (p *project) logInitialSync() {
	var counted uint64
	for _, n := range p.aggregates.All() {
		for _, t := range n.ByOutcome {
			counted += t.Traces
		}
	}
	level.Info(p.logger).Log("msg", "initial sync complete", "listed", p.ledger.Listed(), "counted", counted, "prior_state", p.origin != noState)
}
