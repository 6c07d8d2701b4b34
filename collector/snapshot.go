package collector

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
)

// Labels that are the same in all projects.
var (
	reasonNoID         = newLabel("reason", "no_id")
	reasonVanishedOpen = newLabel("reason", "vanished_open")
	reasonMissing      = newLabel("reason", "missing")
	reasonNegative     = newLabel("reason", "negative")
	inputTokens        = newLabel("token_type", "input")
	outputTokens       = newLabel("token_type", "output")

	outcomes = func() (labels [len(aggregate.Outcomes)]*dto.LabelPair) {
		for _, o := range aggregate.Outcomes {
			labels[o] = newLabel("outcome", o.String())
		}
		return labels
	}()
)

// snapshot is what one sync published of the traces. It is immutable.
type snapshot []prometheus.Metric

// snapshots builds and publishes snapshots. Only the metrics of names whose aggregate has
// changed are built anew. What is published is safe for concurrent use.
type snapshots struct {
	published atomic.Pointer[snapshot]
	status    atomic.Pointer[status.Published] // of the same sync
	ready     chan struct{}                    // closed when the initial sync is published

	project           labels // that one alone
	maxNames          int
	durations, tokens *scale
	costs             *scale                 // nil if they are not exposed
	names             map[string]nameMetrics // of the last snapshot, by label
	metrics           int                    // of the last snapshot
}

type nameMetrics struct {
	changes uint64
	created time.Time
	labels  labels
	metrics []prometheus.Metric
	traces  [len(aggregate.Outcomes)]uint64
}

func newSnapshots(cfg *config.Project) *snapshots {
	b := &snapshots{
		ready:     make(chan struct{}),
		project:   labels{newLabel("project", cfg.Name)},
		maxNames:  cfg.Aggregate.MaxNames,
		durations: newScale(cfg, cfg.Aggregate.DurationBuckets, 1e6),
		tokens:    newScale(cfg, cfg.Aggregate.TokenBuckets, 1),
	}
	if cfg.Aggregate.Costs {
		b.costs = newScale(cfg, aggregate.CostBuckets, status.Dollar)
	}
	b.published.Store(&snapshot{})
	return b
}

// publish exposes a snapshot, see build.
func (b *snapshots) publish(s *aggregate.Set, led *ledger.Ledger, listed int) {
	metrics, st := b.build(s, led, listed)
	b.published.Store(&metrics)
	b.status.Store(st)
	if !b.isPublished() {
		close(b.ready)
	}
}

// isPublished reports whether the initial sync is published.
func (b *snapshots) isPublished() bool {
	select {
	case <-b.ready:
		return true
	default:
		return false
	}
}

// build returns a snapshot, and the same for the status. listed is negative if
// Opper did not say how many traces it lists.
func (b *snapshots) build(s *aggregate.Set, led *ledger.Ledger, listed int) (snapshot, *status.Published) {
	out := make(snapshot, 0, b.metrics)
	st := &status.Published{
		Since: s.Since, Listed: listed, Distinct: s.Distinct(),
		Gaps: s.Gaps, NoID: s.NoID, VanishedOpen: s.VanishedOpen, Overflow: s.Overflow, Failures: s.Failures(),
	}
	for _, o := range aggregate.Outcomes {
		st.Outcomes = append(st.Outcomes, status.Outcome{Name: o.String(), Traces: s.OfExpired[o]})
	}
	open := map[*aggregate.Aggregate]int{}
	led.Open(func(r ledger.Row) {
		if s.IsIncluded(r.Name) {
			open[s.Find(r.Name)]++
			st.Open++
		}
	})
	all := s.All()
	names := make(map[string]nameMetrics, len(all))
	for _, n := range all {
		if n.IsZeroPending() {
			st.ZeroPending++
		}
		if n.Label != aggregate.Other {
			st.Names++
		}
		m := b.names[n.Label]
		if m.metrics == nil || m.changes != n.Changes || !m.created.Equal(n.Created) {
			m = b.buildName(n)
		}
		names[n.Label] = m
		for o, traces := range m.traces {
			st.Outcomes[o].Traces += traces
		}
		out = append(out, m.metrics...)
		out = append(out, &gauge{tracesOpen, m.labels, float64(open[n])})
	}
	b.names = names
	if listed >= 0 {
		out = append(out, &gauge{tracesListed, b.project, float64(listed)})
	}
	since := timestamppb.New(s.Since)
	for _, c := range []struct {
		desc   *prometheus.Desc
		value  uint64
		reason *dto.LabelPair
	}{
		{gapsTotal, s.Gaps, nil},
		{skippedTotal, s.NoID, reasonNoID},
		{skippedTotal, s.VanishedOpen, reasonVanishedOpen},
		{unusableTotal, s.NoDuration, reasonMissing},
		{unusableTotal, s.BadDuration, reasonNegative},
		{lateEndsTotal, s.LateEnds, nil},
		{overflowTotal, s.Overflow, nil},
		{namesExpiredTotal, s.Expired, nil},
	} {
		labels := b.project
		if c.reason != nil {
			labels = b.with(c.reason)
		}
		out = append(out, &counter{c.desc, labels, float64(c.value), since})
	}
	if b.costs != nil {
		out = append(out, &counter{costsUnknownTotal, b.project, float64(s.CostsUnknown), since})
	}
	for _, u := range s.Unmapped() {
		out = append(out, &counter{unmappedTotal, b.with(newLabel("status", u.Label)), float64(u.Exposed()), timestamppb.New(u.Created)})
		st.Unmapped = append(st.Unmapped, status.Unmapped{Status: u.Label, Traces: u.Exposed(), MapsNow: s.MapsNow(u)})
	}
	out = append(out,
		&gauge{traceNames, b.project, st.Distinct},
		&gauge{traceNamesLimit, b.project, float64(b.maxNames)},
		&gauge{namesZeroPending, b.project, float64(st.ZeroPending)})
	if len(out) > b.metrics { // append left room
		out = slices.Clone(out)
	}
	b.metrics = len(out)
	return out, st
}

// with returns the project's label and another one. Labels are sorted by name, so that of
// the other must be greater than "project".
func (b *snapshots) with(label *dto.LabelPair) labels { return labels{b.project[0], label} }

// buildName returns the metrics of one trace name: all of them, from 0 on.
func (b *snapshots) buildName(n *aggregate.Aggregate) nameMetrics {
	m := nameMetrics{changes: n.Changes, created: n.Created, labels: b.with(newLabel("trace_name", n.Label))}
	n = n.Exposed()
	created := timestamppb.New(n.Created)
	durationsCreated, tokensCreated := timestamppb.New(latest(n.Created, n.DurationsCreated)), timestamppb.New(latest(n.Created, n.TokensCreated))
	costsCreated := timestamppb.New(latest(n.Created, n.CostsCreated))
	var out []prometheus.Metric
	for _, o := range aggregate.Outcomes {
		t, labels := &n.ByOutcome[o], append(labels{outcomes[o]}, m.labels...)
		m.traces[o] = t.Traces
		out = append(out,
			&counter{tracesTotal, labels, float64(t.Traces), created},
			&counter{traceTokens, labels, float64(t.Tokens), created})
		if b.costs != nil {
			out = append(out, &counter{traceCost, labels, float64(t.Cost) / b.costs.perOne, costsCreated})
		}
		if o != aggregate.Abandoned {
			out = append(out, newHistogram(traceDuration, &t.Durations, b.durations, durationsCreated, labels))
		}
	}
	out = append(out, newHistogram(tokensPerTrace, &n.Tokens, b.tokens, tokensCreated, m.labels))
	if b.costs != nil {
		out = append(out,
			newHistogram(costPerTrace, &n.Costs, b.costs, costsCreated, m.labels),
			&counter{traceModelTokens, labels{b.project[0], inputTokens, m.labels[1]}, float64(n.InputTokens), costsCreated},
			&counter{traceModelTokens, labels{b.project[0], outputTokens, m.labels[1]}, float64(n.OutputTokens), costsCreated})
	}
	if !n.LastEnd.IsZero() {
		out = append(out, &gauge{traceLastEnd, m.labels, float64(n.LastEnd.UnixMicro()) / 1e6})
	}
	m.metrics = slices.Clone(out)
	return m
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
