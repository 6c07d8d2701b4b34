package collector

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/sums"
)

// snapshot is what a scrape shows of the traces: all of one sync, or nothing.
// It never changes once it is published. It is a prometheus.Collector.
type snapshot []prometheus.Metric

// Describe implements prometheus.Collector.
func (s *snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (s *snapshot) Collect(ch chan<- prometheus.Metric) {
	for _, m := range *s {
		ch <- m
	}
}

// same reports whether two snapshots show the same.
func (s *snapshot) same(as *snapshot) bool {
	return slices.EqualFunc(*s, *as, func(a, b prometheus.Metric) bool { return a == b || a.(*metric).same(b.(*metric)) })
}

// press makes snapshots. Metrics are made anew only for names whose sums have
// changed.
type press struct {
	project           string
	durations, tokens scale
	made              map[string]edition
	last              *snapshot
}

type edition struct {
	changes uint64
	created time.Time
	metrics []prometheus.Metric
}

func newPress(cfg Config) *press {
	return &press{
		project:   cfg.Project,
		durations: scale{bounds: cfg.Sums.DurationBuckets, perOne: 1e6, classic: cfg.Classic, native: cfg.Native},
		tokens:    scale{bounds: cfg.Sums.TokenBuckets, perOne: 1, classic: cfg.Classic, native: cfg.Native},
		made:      map[string]edition{},
		last:      &snapshot{},
	}
}

// print makes a snapshot, or returns the last one if nothing has changed since.
func (p *press) print(s *sums.Sums, led *ledger.Ledger, listed int) *snapshot {
	var out snapshot
	open := map[*sums.Name]int{}
	led.Open(func(r ledger.Row) {
		if s.Wants(r.Name) {
			open[s.Find(r.Name)]++
		}
	})
	held := 0
	for _, n := range s.Names() {
		if n.Held() {
			held++
		}
		e, ok := p.made[n.Label]
		if !ok || e.changes != n.Changes || !e.created.Equal(n.Created) {
			e = edition{changes: n.Changes, created: n.Created, metrics: p.name(n)}
			p.made[n.Label] = e
		}
		out = append(out, e.metrics...)
		out = append(out, tracesOpen.gauge(float64(open[n]), p.project, n.Label))
	}
	if listed >= 0 {
		out = append(out, tracesListed.gauge(float64(listed), p.project))
	}
	for _, c := range []struct {
		family *family
		value  uint64
		reason []string
	}{
		{gapsTotal, s.Gaps, nil},
		{skippedTotal, s.Nameless, []string{"no_id"}},
		{skippedTotal, s.VanishedOpen, []string{"vanished_open"}},
		{unusableTotal, s.NoDuration, []string{"missing"}},
		{unusableTotal, s.BadDuration, []string{"negative"}},
		{lateEndsTotal, s.LateEnds, nil},
		{unmappedTotal, s.Unmapped, nil},
		{overflowTotal, s.Overflow, nil},
	} {
		out = append(out, c.family.counter(float64(c.value), s.Since, append([]string{p.project}, c.reason...)...))
	}
	out = append(out, traceNames.gauge(s.Distinct(), p.project), namesHeld.gauge(float64(held), p.project))
	if !out.same(p.last) {
		p.last = &out
	}
	return p.last
}

// name makes the metrics of one trace name: all of them, from 0 on.
func (p *press) name(n *sums.Name) []prometheus.Metric {
	n = n.Shown()
	var out []prometheus.Metric
	for _, o := range sums.Outcomes {
		t, outcome := &n.Tallies[o], o.String()
		out = append(out,
			tracesTotal.counter(float64(t.Traces), n.Created, p.project, n.Label, outcome),
			traceTokens.counter(float64(t.Tokens), n.Created, p.project, n.Label, outcome))
		if o != sums.Abandoned {
			out = append(out, traceDuration.histogram(&t.Durations, &p.durations, latest(n.Created, n.DurationsCreated), p.project, n.Label, outcome))
		}
	}
	out = append(out, tokensPerTrace.histogram(&n.Tokens, &p.tokens, latest(n.Created, n.TokensCreated), p.project, n.Label))
	if !n.LastEnd.IsZero() {
		out = append(out, traceLastEnd.gauge(float64(n.LastEnd.UnixMicro())/1e6, p.project, n.Label))
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
