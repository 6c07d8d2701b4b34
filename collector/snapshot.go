package collector

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
)

// snapshot is what one sync published of the traces. It is immutable.
type snapshot []prometheus.Metric

// snapshots builds snapshots. Only the metrics of names whose aggregate has changed
// are built anew.
type snapshots struct {
	project           string
	maxNames          int
	durations, tokens scale
	names             map[string]nameMetrics // by label
}

type nameMetrics struct {
	changes uint64
	created time.Time
	metrics []prometheus.Metric
	traces  [len(aggregate.Outcomes)]uint64
}

func newSnapshots(cfg *config.Project) *snapshots {
	return &snapshots{
		project:   cfg.Name,
		maxNames:  cfg.Aggregate.MaxNames,
		durations: scale{bounds: cfg.Aggregate.DurationBuckets, perOne: 1e6, classic: cfg.ClassicHistograms, native: cfg.NativeHistograms},
		tokens:    scale{bounds: cfg.Aggregate.TokenBuckets, perOne: 1, classic: cfg.ClassicHistograms, native: cfg.NativeHistograms},
		names:     map[string]nameMetrics{},
	}
}

// build returns a snapshot, and the same for the status. listed is negative if
// Opper did not say how many traces it lists.
func (b *snapshots) build(s *aggregate.Set, led *ledger.Ledger, listed int) (snapshot, *status.Published) {
	var out snapshot
	st := &status.Published{
		Since: s.Since, Listed: listed, Distinct: s.Distinct(),
		Gaps: s.Gaps, NoID: s.NoID, VanishedOpen: s.VanishedOpen, Overflow: s.Overflow, Failures: s.Failures(),
	}
	for _, o := range aggregate.Outcomes {
		st.Outcomes = append(st.Outcomes, status.Outcome{Name: o.String()})
	}
	open := map[*aggregate.Aggregate]int{}
	led.Open(func(r ledger.Row) {
		if s.IsIncluded(r.Name) {
			open[s.Find(r.Name)]++
			st.Open++
		}
	})
	all := s.All()
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
			b.names[n.Label] = m
		}
		for o, traces := range m.traces {
			st.Outcomes[o].Traces += traces
		}
		out = append(out, m.metrics...)
		out = append(out, newGauge(tracesOpen, float64(open[n]), b.project, n.Label))
	}
	if len(b.names) > len(all) {
		b.forget(all)
	}
	if listed >= 0 {
		out = append(out, newGauge(tracesListed, float64(listed), b.project))
	}
	for _, c := range []struct {
		desc   *prometheus.Desc
		value  uint64
		reason []string
	}{
		{gapsTotal, s.Gaps, nil},
		{skippedTotal, s.NoID, []string{"no_id"}},
		{skippedTotal, s.VanishedOpen, []string{"vanished_open"}},
		{unusableTotal, s.NoDuration, []string{"missing"}},
		{unusableTotal, s.BadDuration, []string{"negative"}},
		{lateEndsTotal, s.LateEnds, nil},
		{overflowTotal, s.Overflow, nil},
		{namesExpiredTotal, s.Expired, nil},
	} {
		out = append(out, newCounter(c.desc, float64(c.value), s.Since, append([]string{b.project}, c.reason...)...))
	}
	for _, u := range s.Unmapped() {
		out = append(out, newCounter(unmappedTotal, float64(u.Exposed()), u.Created, b.project, u.Label))
		st.Unmapped = append(st.Unmapped, status.Unmapped{Status: u.Label, Traces: u.Exposed()})
	}
	return append(out,
		newGauge(traceNames, st.Distinct, b.project),
		newGauge(traceNamesLimit, float64(b.maxNames), b.project),
		newGauge(namesZeroPending, float64(st.ZeroPending), b.project)), st
}

// forget drops the metrics of names that are no longer there.
func (b *snapshots) forget(all []*aggregate.Aggregate) {
	names := make(map[string]nameMetrics, len(all))
	for _, n := range all {
		names[n.Label] = b.names[n.Label]
	}
	b.names = names
}

// buildName returns the metrics of one trace name: all of them, from 0 on.
func (b *snapshots) buildName(n *aggregate.Aggregate) nameMetrics {
	m := nameMetrics{changes: n.Changes, created: n.Created}
	n = n.Exposed()
	var out []prometheus.Metric
	for _, o := range aggregate.Outcomes {
		t, outcome := &n.ByOutcome[o], o.String()
		m.traces[o] = t.Traces
		out = append(out,
			newCounter(tracesTotal, float64(t.Traces), n.Created, b.project, n.Label, outcome),
			newCounter(traceTokens, float64(t.Tokens), n.Created, b.project, n.Label, outcome))
		if o != aggregate.Abandoned {
			out = append(out, newHistogram(traceDuration, &t.Durations, &b.durations, latest(n.Created, n.DurationsCreated), b.project, n.Label, outcome))
		}
	}
	out = append(out, newHistogram(tokensPerTrace, &n.Tokens, &b.tokens, latest(n.Created, n.TokensCreated), b.project, n.Label))
	if !n.LastEnd.IsZero() {
		out = append(out, newGauge(traceLastEnd, float64(n.LastEnd.UnixMicro())/1e6, b.project, n.Label))
	}
	m.metrics = slices.Clip(out)
	return m
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
