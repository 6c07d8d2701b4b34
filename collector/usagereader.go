package collector

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

const (
	// budgetInterval is how often the budget is read, unless usage is read less often.
	budgetInterval = 5 * time.Minute
	// refusedInterval is after which Opper is asked again for what it has refused.
	refusedInterval = time.Hour
	// usageRetries is the maximum number of retried requests in one read of usage.
	usageRetries = 2
	// proofWindow is how far back usage by trace is read to find out which Opper project
	// is this one.
	proofWindow = 24 * time.Hour
)

// usageKind is a part of the usage, and a value of the label kind.
type usageKind int

const (
	byModel usageKind = iota
	byTrace
	budget
	usageKinds
)

// String returns the value of the label kind.
func (k usageKind) String() string { return [usageKinds]string{"model", "trace", "budget"}[k] }

// usageReader reads usage and budget in a goroutine of its own: neither reads nor syncs
// wait for each other. The goroutine that syncs counts what was read.
type usageReader struct {
	project     labels // that one alone
	clock       *Clock
	logger      log.Logger
	interval    time.Duration       // 0 is never
	source      func() usage.Source // of one read, which waits for the limits as long as it takes; nil if there is none
	metrics     *usageMetrics
	set         *usage.Set
	pages       usage.Pages // for the goroutine that reads
	kinds       [usageKinds]usageAttempts
	budget      opper.Budget // what is known of it
	noTraces    bool         // it has been logged that there is usage and no trace
	lacksTraces bool         // rows were missing from the last usage by trace
	unjoined    uint64       // traces in a row without a cost, while usage by trace had rows and no trace of the list
	models      status.Usage // of the models alone, as they are published

	timer   *time.Timer
	answers chan usageAnswer // holds one
	running sync.WaitGroup

	published       atomic.Pointer[snapshot]
	publishedStatus atomic.Pointer[status.Usage]
}

// usageAttempts is how reads of one kind have ended.
type usageAttempts struct {
	next        time.Time // when it may be read again
	refused     bool
	err         error     // of the last one
	failedFirst time.Time // when the first one failed since the last success, by the project's clock
	lastSuccess time.Time
}

// usageRequest says what to read.
type usageRequest struct {
	began       time.Time // by the project's clock
	asked       [usageKinds]bool
	from, to    time.Time
	tracesSince time.Time // until to
	pages       *usage.Pages
}

// usageAnswer is what was read.
type usageAnswer struct {
	usageRequest
	models, traces []opper.Usage
	byProject      bool // the models say their Opper projects
	budget         opper.Budget
	errs           [usageKinds]error
}

// hasRead reports whether a kind was read.
func (a *usageAnswer) hasRead(k usageKind) bool { return a.asked[k] && a.errs[k] == nil }

func newUsageReader(cfg *config.Project, clock *Clock, logger log.Logger) *usageReader {
	r := &usageReader{
		project: labels{newLabel("project", cfg.Name)}, clock: clock, logger: logger,
		interval: cfg.UsageInterval, metrics: newUsageMetrics(cfg.Name), answers: make(chan usageAnswer, 1),
	}
	r.published.Store(&snapshot{})
	return r
}

// continueFrom makes what another reader of the same project has read last stay exposed
// until it is read again. The other one may be running.
func (r *usageReader) continueFrom(old *usageReader) {
	r.metrics = old.metrics
	r.publishedStatus.Store(old.publishedStatus.Load())
}

// isOn reports whether usage is read at all.
func (r *usageReader) isOn() bool { return r.interval > 0 && r.source != nil }

// tick returns a channel that says when to read; nil is never.
func (r *usageReader) tick() <-chan time.Time {
	if !r.isOn() {
		return nil
	}
	if r.timer == nil {
		r.timer = time.NewTimer(0)
	}
	return r.timer.C
}

// stop returns when nothing is read any more, which the end of the context has ended. What
// has been read is dropped: it will be read again.
func (r *usageReader) stop() {
	r.running.Wait()
	r.timer = nil
	select {
	case <-r.answers:
	default:
	}
}

// request returns what to read now, given since when traces wait for their costs.
func (r *usageReader) request(since time.Time, isWaiting bool) usageRequest {
	now, system := r.clock.Now(), r.clock.System()
	q := usageRequest{began: now, pages: &r.pages}
	q.from, q.to = r.set.Window(system)
	if !isWaiting {
		since = system.Add(-proofWindow)
	}
	q.tracesSince = since.Add(-time.Hour).Truncate(time.Hour) // clients set the start, and their clocks may be fast
	for k := range usageKinds {
		q.asked[k] = !now.Before(r.kinds[k].next)
	}
	q.asked[byTrace] = q.asked[byTrace] && (isWaiting || r.set.IsUndecided())
	return q
}

// begin reads in the background. What it reads is sent to answers.
func (r *usageReader) begin(ctx context.Context, request usageRequest) {
	src := r.source()
	r.running.Go(func() { r.answers <- request.read(ctx, src) })
}

// read reads what is asked for.
func (q usageRequest) read(ctx context.Context, src usage.Source) usageAnswer {
	a := usageAnswer{usageRequest: q}
	if q.asked[byModel] {
		a.models, a.byProject, a.errs[byModel] = q.pages.ReadBy(ctx, src, opper.GroupModel, q.from, q.to)
	}
	if q.asked[byTrace] {
		a.traces, _, a.errs[byTrace] = q.pages.ReadBy(ctx, src, opper.GroupTrace, q.tracesSince, q.to)
	}
	if q.asked[budget] {
		a.budget, a.errs[budget] = src.Budget(ctx)
	}
	return a
}

// proof returns the Opper project of which the usage has a trace of the list. That may
// follow as long as the list or the usage by trace has not been read.
func (r *usageReader) proof(a *usageAnswer, led *ledger.Ledger, isPublished bool) usage.Proof {
	for i := range a.traces {
		row := &a.traces[i]
		if _, hasSeen := led.Find(row.Trace); hasSeen && row.Project != "" && row.Trace != "" {
			return usage.Proof{Own: row.Project}
		}
	}
	isRefused := r.kinds[byTrace].refused || opper.Permanent(a.errs[byTrace])
	hasRead := a.hasRead(byTrace) && isPublished
	return usage.Proof{IsAhead: !isRefused && !hasRead}
}

// noteReads takes in how the reads have ended.
func (r *usageReader) noteReads(a *usageAnswer) {
	// One that could not be read once is still the best that is known.
	if a.asked[budget] && (a.errs[budget] == nil || r.kinds[budget].err != nil || opper.Permanent(a.errs[budget])) {
		if missing := a.budget.Missing; missing != "" && missing != r.budget.Missing {
			level.Warn(r.logger).Log("msg", "budget incomplete", "missing", missing)
		}
		r.budget = a.budget
		r.metrics.budget(a.budget)
	}
	for k := range usageKinds {
		if a.asked[k] {
			r.noteRead(k, a.errs[k])
		}
	}
}

// isRefused reports whether a kind that ended with an error is to be read less often.
// Usage by trace is so as well if it has failed for long, whatever the reason: traces must
// not wait for it without end, nor the window grow.
func (r *usageReader) isRefused(k usageKind, err error) bool {
	if errors.Is(err, errUnjoinable) || opper.Permanent(err) {
		return true
	}
	at := &r.kinds[k]
	return k == byTrace && err != nil && at.err != nil && r.clock.Now().Sub(at.failedFirst) >= refusedInterval
}

// noteRead takes in how a read has ended.
func (r *usageReader) noteRead(k usageKind, err error) {
	before := r.kinds[k]
	at := usageAttempts{err: err, refused: r.isRefused(k, err), lastSuccess: before.lastSuccess}
	switch {
	case err == nil:
		at.lastSuccess = r.clock.System()
	case before.err != nil:
		at.failedFirst = before.failedFirst
	default:
		at.failedFirst = r.clock.Now()
	}
	wait := r.interval
	switch {
	case at.refused:
		wait = max(wait, refusedInterval)
	case k == budget && err == nil:
		wait = max(wait, budgetInterval)
	}
	at.next = r.clock.Now().Add(wait - r.interval/2) // the tick that is meant may be a bit early
	r.kinds[k] = at
	r.metrics.read(k, at)
	logger := log.With(r.logger, "kind", k)
	switch {
	case err == nil && before.err != nil:
		level.Info(logger).Log("msg", "usage reads succeed again")
	case err == nil:
	case before.err != nil && at.refused == before.refused:
		level.Debug(logger).Log("msg", "usage read failed", "err", err)
	case at.refused:
		level.Warn(logger).Log("msg", "usage refused", "retry_seconds", wait.Seconds(), "err", err)
	default:
		level.Error(logger).Log("msg", "usage read failed", "err", err)
	}
}
