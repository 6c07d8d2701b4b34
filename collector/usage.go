package collector

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

var errUnjoinable = errors.New("no trace of the usage is in the list")

// minUnjoined is how many traces in a row must be without a cost before usage that has
// calls, but none of a trace, can't be joined: not every trace has a call.
const minUnjoined = 3

// readUsage reads usage in the background, unless its counters may be those of another
// upstream.
func (p *project) readUsage(ctx context.Context) {
	if p.isUnproven() || p.initial.origin == otherUpstream && !p.snapshots.isPublished() {
		p.usage.timer.Reset(p.usage.interval)
		return
	}
	p.usage.begin(ctx, p.usage.request(p.aggregates.WaitingSince()))
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
		proof := u.proof(&a, p.ledger, p.snapshots.isPublished())
		before, incomplete := u.set.CountedBy(), u.set.Incomplete
		a.errs[byModel] = u.set.Apply(a.models, a.from, a.byProject, proof, p.clock.System())
		if u.set.Incomplete > incomplete {
			u.logIncomplete(byModel, a.models)
		}
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
	case a.asked[byTrace] && u.isRefused(byTrace, a.errs[byTrace]):
		p.aggregates.AbandonCosts(p.clock.Now())
	}
	u.noteReads(&a)
	// Without changes there is nothing to commit: above all no state of an upstream that has
	// never answered.
	if a.hasRead(byModel) || a.hasRead(byTrace) {
		p.zeros.endZeros()
		if p.commit() {
			p.publishUsage()
		}
	}
	u.publishStatus(p.aggregates)
	if p.snapshots.isPublished() && p.ledger.Listed() == 0 && len(a.models) > 0 && !u.noTraces {
		u.noTraces = true
		level.Info(p.logger).Log("msg", "usage without listed traces")
	}
}

// countCosts joins usage by trace, whose read began at a time, to the traces that were
// counted. It returns an error if it can't be joined to any. The time of the answer would
// not do: a sync that took long meanwhile may have counted traces of which it has nothing.
func (p *project) countCosts(rows []opper.Usage, began time.Time) error {
	costs, unreadable := make(map[ledger.ID]aggregate.TraceCost, len(rows)), map[ledger.ID]bool{}
	hasTraces, isJoined := false, false
	for i := range rows {
		r := &rows[i]
		if r.Trace == "" {
			continue
		}
		id, hasSeen := p.ledger.Find(r.Trace)
		c := costs[id]
		c.Cost, c.InputTokens, c.OutputTokens = c.Cost+r.Cost, c.InputTokens+r.InputTokens, c.OutputTokens+r.OutputTokens
		costs[id] = c
		if r.IsUnreadable() {
			unreadable[id] = true
		}
		hasTraces, isJoined = true, isJoined || hasSeen
	}
	maps.DeleteFunc(costs, func(id ledger.ID, _ aggregate.TraceCost) bool { return unreadable[id] })
	u, before, incomplete := p.usage, p.aggregates.CostsUnknown, usage.Incomplete(rows)
	if len(incomplete) > 0 && !u.lacksTraces {
		u.logIncomplete(byTrace, rows)
	}
	u.lacksTraces = len(incomplete) > 0
	p.aggregates.ApplyCosts(costs, began, incomplete...)
	unknown := p.aggregates.CostsUnknown - before
	if u.unjoined += unknown; isJoined || len(rows) == 0 || u.lacksTraces {
		u.unjoined = 0
	}
	isUnjoinable := hasTraces && unknown > 0 || u.unjoined >= minUnjoined
	// With few traces the next read may have none that is due, which proves nothing.
	if !isJoined && (isUnjoinable || errors.Is(u.kinds[byTrace].err, errUnjoinable)) {
		return errUnjoinable
	}
	return nil
}

// logIncomplete logs what rows lack.
func (r *usageReader) logIncomplete(k usageKind, rows []opper.Usage) {
	unreadable := 0
	for i := range rows {
		if rows[i].IsUnreadable() {
			unreadable++
		}
	}
	level.Warn(r.logger).Log("msg", "usage incomplete", "kind", k, "unreadable_rows", unreadable, "truncated_hours", len(usage.Incomplete(rows)))
}

// publishUsage exposes the usage as it is. It must be durable.
func (p *project) publishUsage() {
	p.usage.publish(p.aggregates.Since)
	p.zeros.published(p.usage.set.ZeroPending())
}
