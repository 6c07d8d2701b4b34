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
	"opper_exporter/collector/store"
	"opper_exporter/collector/sums"
	"opper_exporter/collector/walk"
)

// progressEvery is how often a long first walk says in the log how far it is,
// and saves what it has met.
const progressEvery = 10 * time.Second

// progressRows and progressEntries are the numbers of rows, and of entries of
// open and of abandoned traces, after which the initial sync is committed, however
// little time has passed: the memory of a transaction grows with the pages that
// its entries fall on, and those of traces have no order.
const (
	progressRows    = 1 << 12
	progressEntries = 1 << 10
)

// holdAtMost is how long the zeros of a new name are shown if they are not read
// by everybody who scrapes.
const holdAtMost = 10 * time.Minute

// Config says how a project is collected.
type Config struct {
	Project     string
	Interval    time.Duration  // between syncs; 0 syncs when Refresh is called
	Settle      time.Duration  // from when a trace is first seen ended until it is counted
	Abandon     time.Duration  // from when a trace without an end is first seen until it is given up
	Backfill    *time.Duration // see ledger.Config
	SweepEvery  time.Duration  // between complete walks; 0 is never
	SweepPause  time.Duration  // between two pages of a complete walk
	Concurrency int            // requests at once in a long walk
	Classic     bool           // expose the classic buckets of the traces' histograms
	Native      bool           // expose native buckets
	Sums        sums.Config
	Clock       *Clock           // by which ages are measured; nil is a new one
	Now         func() time.Time // in place of both clocks; nil is that of the system, and Clock for ages
	Logger      log.Logger
	// Source returns where to read from in one sync: each has its own budget of
	// retries.
	Source func() walk.Source
	// Store keeps what has been counted; nil keeps nothing.
	Store Store
	// List identifies the list that is read: its URL, and the filter on names.
	List List
	// AllRead reports whether everybody who scrapes has read what has been shown
	// since then, as Readers do; nil waits for nobody.
	AllRead func(since time.Time) bool
}

// Store keeps the states of projects.
type Store interface {
	// Load returns what is kept of a project, if there is anything.
	Load(project string) (store.State, bool, error)
	// Commit adds changes to what is kept of a project, or with fresh puts them
	// in its place. When it returns nil, they are durable. store.ErrBroken is
	// final: what is on disk is not, or no longer, what was committed.
	Commit(project string, changes store.State, fresh bool) error
}

// Project is one API key's worth of traces. It is a prometheus.Collector, and
// all its methods are safe for concurrent use.
type Project struct {
	cfg    Config
	wall   func() time.Time // for what is published: when something was
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
	began, lastGood time.Time
	told, saved     time.Time // of the first walk: when it last logged, and was saved
	savedRows       int       // and how many rows had been met then
	unsaved         int       // and how many entries could not be saved
	refused         string    // why the last commit failed; empty if it did not
	failing         bool
	swept           time.Time                // when a page of a sweep was read last
	origin          origin                   // of what the first walk begins
	fresh           bool                     // what is stored, if anything is, is not gone on from
	zeros           map[*sums.Name]time.Time // held, and since when their zeros are shown
	found           func(ledger.Events)      // is told what is added up; nil tells nobody
	broken          error                    // what is wrong with the store for good
	halt            context.CancelFunc       // ends the sync under way
}

// origin is why there is a first walk.
type origin int

const (
	nothingStored origin = iota
	otherList            // what is stored counts another list
	resumed              // a first walk was interrupted
)

// NewProject returns a project that goes on from what is stored of it, or has
// read nothing yet.
func NewProject(cfg Config) (*Project, error) {
	wall := cfg.Now
	if wall == nil {
		if cfg.Clock == nil {
			cfg.Clock = NewClock()
		}
		wall, cfg.Now = time.Now, cfg.Clock.Now
	} else {
		cfg.Clock = nil
	}
	cfg.Sums.Partial = cfg.Backfill != nil
	p := &Project{
		cfg:    cfg,
		wall:   wall,
		press:  newPress(cfg),
		health: newHealth(cfg.Project, cfg.Native, cfg.Now, cfg.Interval),
		ready:  make(chan struct{}),
		wanted: make(chan struct{}, 1),
		began:  wall(),
		fresh:  true,
		zeros:  map[*sums.Name]time.Time{},
		halt:   func() {},
	}
	if p.cfg.AllRead == nil {
		p.cfg.AllRead = func(time.Time) bool { return true }
	}
	p.published.Store(&snapshot{})
	ledgerCfg := ledger.Config{Settle: cfg.Settle, Abandon: cfg.Abandon, Look: cfg.Interval, Backfill: cfg.Backfill}
	if cfg.Clock != nil {
		ledgerCfg.Wall = cfg.Clock.Wall
	}
	walkCfg := walk.Config{
		Now: cfg.Now, Interval: cfg.Interval, SweepEvery: cfg.SweepEvery, Concurrency: cfg.Concurrency,
		Logger: log.With(cfg.Logger, "project", cfg.Project), Progress: p.progress,
	}
	restored, err := p.restore(ledgerCfg, walkCfg)
	if err != nil {
		return nil, err
	}
	p.saved = cfg.Now()
	if !restored {
		p.led = ledger.New(ledgerCfg)
		p.sums = sums.New(cfg.Sums, p.began)
		p.sums.Renewed = p.origin == otherList
		p.walker = walk.New(walkCfg, p.led)
	} else if !p.led.Baseline() {
		p.publish()
	}
	return p, nil
}

// Run syncs until ctx ends: at once, and then at the interval or, if that is 0,
// whenever Refresh is called. Between syncs it reads pages of complete walks. It
// returns an error only if the store breaks: from then on nothing could be
// published.
func (p *Project) Run(ctx context.Context) error {
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
			if sweeping && p.walker.SweepDue() {
				page = time.After(time.Until(p.swept.Add(p.sweepPause())))
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

// sweepPause returns how long to wait before the next page of a complete walk:
// not at all if only such walks find news.
func (p *Project) sweepPause() time.Duration {
	if p.walker.Unsorted() {
		return 0
	}
	return p.cfg.SweepPause
}

// sweep reads a page of a complete walk. It reports whether another one may
// follow before the next sync, which publishes what was found.
func (p *Project) sweep(ctx context.Context) bool {
	p.swept = time.Now()
	p.health.stall.begin()
	defer p.health.stall.end()
	ev, err := p.walker.Sweep(ctx, watchedSource{p.cfg.Source(), p.health.stall})
	p.apply(ev)
	if err != nil && ctx.Err() == nil {
		level.Warn(p.cfg.Logger).Log("msg", "complete walk interrupted, it goes on after the next sync", "project", p.cfg.Project, "err", err)
	}
	return err == nil
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

// sync does one sync, and reports whether Opper gave what it asked for. One that
// fails changes no number that is published: what it found is published with the
// next one that succeeds. So it is if the state can't be stored.
func (p *Project) sync(ctx context.Context) bool {
	start := p.cfg.Now()
	p.health.stall.begin()
	defer p.health.stall.end()
	ev, err := p.walker.Sync(ctx, watchedSource{p.cfg.Source(), p.health.stall})
	p.apply(ev)
	now := p.cfg.Now()
	took := now.Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			p.failing = true
			p.health.failed(took)
			level.Error(p.cfg.Logger).Log("msg", "sync failed", "project", p.cfg.Project, "duration_seconds", took.Seconds(), "err", err)
		}
		return false
	}
	ended := p.wall()
	p.sums.EndBaseline(ended)
	p.meetOpen()
	p.release(now)
	p.health.succeeded(took)
	p.lastGood = ended
	if !p.commit() {
		return true
	}
	select {
	case <-p.ready:
	default:
		p.tellBaseline()
	}
	p.publish()
	logger := level.Debug(p.cfg.Logger)
	if p.failing {
		logger = level.Info(p.cfg.Logger)
	}
	p.failing = false
	logger.Log("msg", "sync finished", "project", p.cfg.Project, "duration_seconds", took.Seconds(), "listed", p.led.Listed(), "counted", len(ev.Counted))
	return true
}

// tellBaseline says what the numbers begin with.
func (p *Project) tellBaseline() {
	var counted uint64
	for _, n := range p.sums.Names() {
		for _, t := range n.Tallies {
			counted += t.Traces
		}
	}
	msg := "first walk finished"
	if p.cfg.Store != nil && p.origin == nothingStored {
		msg = "first walk finished, as no state was found: if one was lost, Prometheus sees a reset as large as what was counted"
	}
	level.Info(p.cfg.Logger).Log("msg", msg, "project", p.cfg.Project, "listed", p.led.Listed(), "counted", counted)
}

// publish shows the sums as they are. They must be durable.
func (p *Project) publish() {
	p.published.Store(p.press.print(p.sums, p.led, p.walker.Total()))
	p.health.published(p.lastGood)
	now := p.cfg.Now()
	for _, n := range p.sums.Names() {
		if _, shown := p.zeros[n]; n.Held() && !shown {
			p.zeros[n] = now
		}
	}
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
}

// release lets the counts of names follow whose zeros have been read. They are
// shown when that is durable: no crash can bring the zeros back.
func (p *Project) release(now time.Time) {
	for n, since := range p.zeros {
		if p.cfg.AllRead(since) || now.Sub(since) >= holdAtMost {
			n.Release()
			delete(p.zeros, n)
		}
	}
}

// apply adds up what was found. A name that is new was at 0 at the last good
// sync.
func (p *Project) apply(ev ledger.Events) {
	if p.found != nil {
		p.found(ev)
	}
	p.sums.Apply(ev, p.before())
}

// before returns when the last good sync was, or when the project began.
func (p *Project) before() time.Time {
	if p.lastGood.IsZero() {
		return p.began
	}
	return p.lastGood
}

// meetOpen gives sums to names that traces got while they run. The places that
// are left go by label, so that it does not depend on chance who gets one.
func (p *Project) meetOpen() {
	places := p.sums.FreePlaces()
	first := map[string]string{} // raw names by label
	last := ""                   // no label behind it gets a place; empty if any may
	p.led.Open(func(r ledger.Row) {
		label, ok := p.sums.Unplaced(r.Name)
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
		p.sums.Meet(first[label], p.before())
	}
	p.led.Open(func(r ledger.Row) { p.sums.Meet(r.Name, p.before()) })
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
	now := p.cfg.Now()
	if now.Sub(p.told) >= progressEvery {
		if !p.told.IsZero() {
			level.Info(p.cfg.Logger).Log("msg", "first walk goes on", "project", p.cfg.Project, "met", met, "listed", total, "progress_ratio", ratio)
		}
		p.told = now
	}
	// What another list left is kept until there is something in its place.
	if p.origin != otherList && (now.Sub(p.saved) >= progressEvery || met-p.savedRows >= progressRows || p.led.Unsaved()-p.unsaved >= progressEntries) {
		p.commit()
		p.saved, p.savedRows, p.unsaved = now, met, p.led.Unsaved()
	}
}

// Describe implements prometheus.Collector.
func (p *Project) Describe(ch chan<- *prometheus.Desc) {
	p.published.Load().Describe(ch)
	p.health.Describe(ch)
}

// Collect implements prometheus.Collector.
func (p *Project) Collect(ch chan<- prometheus.Metric) {
	p.published.Load().Collect(ch)
	p.health.Collect(ch)
}
