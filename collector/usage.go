package collector

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/aggregate"
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

var errUnjoinable = errors.New("no trace of the usage is in the list")

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
	interval time.Duration       // 0 is never
	source   func() usage.Source // of one read, which waits for the limits as long as it takes; nil if there is none
	metrics  *usageMetrics
	set      *usage.Set
	pages    usage.Pages // for the goroutine that reads
	kinds    [usageKinds]usageAttempts
	budget   opper.Budget // what is known of it
	noTraces bool         // it has been logged that there is usage and no trace
	models   status.Usage // of the models alone, as they are published

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
	err         error // of the last one
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

func newUsageReader(cfg *config.Project) *usageReader {
	r := &usageReader{interval: cfg.UsageInterval, metrics: newUsageMetrics(cfg.Name), answers: make(chan usageAnswer, 1)}
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

// usageRequest returns what to read now.
func (p *project) usageRequest() usageRequest {
	now, u := p.clock.Now(), p.usage
	q := usageRequest{began: now, pages: &u.pages}
	q.from, q.to = u.set.Window(p.clock.System())
	since, isWaiting := p.aggregates.WaitingSince()
	if !isWaiting {
		since = p.clock.System().Add(-proofWindow)
	}
	q.tracesSince = since.Add(-time.Hour).Truncate(time.Hour) // clients set the start, and their clocks may be fast
	for k := range usageKinds {
		q.asked[k] = !now.Before(u.kinds[k].next)
	}
	q.asked[byTrace] = q.asked[byTrace] && (isWaiting || u.set.IsUndecided())
	return q
}

// readUsage reads usage in the background, unless its counters may be those of another
// upstream.
func (p *project) readUsage(ctx context.Context) {
	if p.isUnproven() || p.origin == otherUpstream && !p.isPublished() {
		p.usage.timer.Reset(p.usage.interval)
		return
	}
	p.usage.begin(ctx, p.usageRequest())
}

// countUsage counts what was read, and publishes it. Costs of traces appear with the next
// sync that succeeds.
func (p *project) countUsage(a usageAnswer) {
	u := p.usage
	if u.timer != nil {
		u.timer.Reset(max(u.interval-p.clock.Now().Sub(a.began), 0))
	}
	p.metrics.stall.begin() // its commit may hang
	defer p.metrics.stall.end()
	if a.hasRead(byModel) {
		before := u.set.CountedBy()
		a.errs[byModel] = u.set.Apply(a.models, a.from, a.byProject, p.proof(&a), p.clock.System())
		if by := u.set.CountedBy(); by != "" && by != before {
			level.Warn(p.logger).Log("msg", "usage is that of another project, which counts it", "counted_by", by)
		}
	}
	if a.errs[byModel] != nil {
		u.set.Failed()
	}
	switch {
	case a.hasRead(byTrace):
		a.errs[byTrace] = p.countCosts(a.traces, a.began)
	case opper.Permanent(a.errs[byTrace]):
		p.aggregates.GiveUpCosts(p.clock.Now())
	}
	// One that could not be read once is still the best that is known.
	if a.asked[budget] && (a.errs[budget] == nil || u.kinds[budget].err != nil || opper.Permanent(a.errs[budget])) {
		u.budget = a.budget
		u.metrics.budget(a.budget)
	}
	for k := range usageKinds {
		if a.asked[k] {
			p.usageRead(k, a.errs[k])
		}
	}
	// Without news there is nothing to commit: above all no state of an upstream that has
	// never answered.
	if a.hasRead(byModel) || a.hasRead(byTrace) {
		p.zeros.release(p.deps.Clock.Now())
		if p.commit() {
			p.publishUsage()
		}
	}
	p.publishUsageStatus()
	if p.isPublished() && p.ledger.Listed() == 0 && len(a.models) > 0 && !u.noTraces {
		u.noTraces = true
		level.Info(p.logger).Log("msg", "no traces listed, usage flows")
	}
}

// countCosts joins usage by trace, whose read began at a time, to the traces that were
// counted. It returns an error if it can't be joined to any. The time of the answer would
// not do: a sync that took long meanwhile may have counted traces of which it has nothing.
func (p *project) countCosts(rows []opper.Usage, began time.Time) error {
	costs := make(map[ledger.ID]aggregate.TraceCost, len(rows))
	hasTraces, isJoined := false, false
	for i := range rows {
		r := &rows[i]
		if r.Trace == "" {
			continue
		}
		hasTraces = true
		id := ledger.KeyOf(r.Trace)
		c := costs[id]
		c.Cost, c.InputTokens, c.OutputTokens = c.Cost+r.Cost, c.InputTokens+r.InputTokens, c.OutputTokens+r.OutputTokens
		costs[id] = c
		isJoined = isJoined || p.ledger.HasSeen(id)
	}
	before := p.aggregates.CostsUnknown
	p.aggregates.ApplyCosts(costs, began)
	if hasTraces && !isJoined && p.aggregates.CostsUnknown > before {
		return errUnjoinable
	}
	return nil
}

// proof returns the Opper project of which the usage has a trace of the list. That may
// follow as long as the list or the usage by trace has not been read.
func (p *project) proof(a *usageAnswer) usage.Proof {
	for i := range a.traces {
		if r := &a.traces[i]; r.Project != "" && r.Trace != "" && p.ledger.HasSeen(ledger.KeyOf(r.Trace)) {
			return usage.Proof{Own: r.Project}
		}
	}
	isRefused := p.usage.kinds[byTrace].refused || opper.Permanent(a.errs[byTrace])
	hasRead := a.hasRead(byTrace) && p.isPublished()
	return usage.Proof{IsAhead: !isRefused && !hasRead}
}

// usageRead takes in how a read has ended.
func (p *project) usageRead(k usageKind, err error) {
	u := p.usage
	before := u.kinds[k]
	at := usageAttempts{err: err, refused: errors.Is(err, errUnjoinable) || opper.Permanent(err), lastSuccess: before.lastSuccess}
	if err == nil {
		at.lastSuccess = p.clock.System()
	}
	wait := u.interval
	switch {
	case at.refused:
		wait = max(wait, refusedInterval)
	case k == budget && err == nil:
		wait = max(wait, budgetInterval)
	}
	at.next = p.clock.Now().Add(wait - u.interval/2) // the tick that is meant may be a bit early
	u.kinds[k] = at
	u.metrics.read(k, at)
	logger := log.With(p.logger, "kind", k)
	switch {
	case err == nil && before.err != nil:
		level.Info(logger).Log("msg", "usage is read again")
	case err == nil:
	case before.err != nil && at.refused == before.refused:
		level.Debug(logger).Log("msg", "usage not read", "err", err)
	case at.refused:
		level.Warn(logger).Log("msg", "usage refused", "retry_seconds", wait.Seconds(), "err", err)
	default:
		level.Error(logger).Log("msg", "usage not read", "err", err)
	}
}
