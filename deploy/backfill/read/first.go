package read

import (
	"cmp"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/backfill/history"
)

// counter is a trace name, as it is exposed, and an outcome.
type counter struct{ name, outcome string }

// countsOf returns the numbers of traces that are exposed.
func countsOf(exposed []*dto.MetricFamily) map[counter]int {
	counts := map[counter]int{}
	each(exposed, "opper_traces_total", func(m *dto.Metric) {
		counts[counter{labelOf(m, "trace_name"), labelOf(m, "outcome")}] = int(m.GetCounter().GetValue())
	})
	return counts
}

// each calls do with the metrics of a family.
func each(exposed []*dto.MetricFamily, family string, do func(*dto.Metric)) {
	for _, f := range exposed {
		if f.GetName() != family {
			continue
		}
		for _, m := range f.GetMetric() {
			do(m)
		}
	}
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// countedFirst removes the events that were not yet counted in the first scrape: those that
// ended after the last that was, and as many of the latest as have been counted since. now
// and first are the counts, and the labels under which they have the names of rows.
func (p *project) countedFirst(now, first map[counter]int, labelsNow, labelsFirst []string) []history.Event {
	lastEnds := map[string]int64{}
	each(p.first.Exposed, "opper_trace_last_end_timestamp_seconds", func(m *dto.Metric) {
		lastEnds[labelOf(m, "trace_name")] = int64(math.Round(m.GetGauge().GetValue()*1e6)+999) / 1000
	})
	at := p.first.At.UnixMilli()
	// What had ended before was first seen by the last sync but one, and has settled.
	settled := at - (p.settle + 2*p.cfg.Interval).Milliseconds()
	slices.SortFunc(p.events, func(a, b history.Event) int { return cmp.Compare(b.End, a.End) })
	return slices.DeleteFunc(p.events, func(e history.Event) bool {
		last := lastEnds[labelsFirst[e.Name]]
		if e.Outcome == uint8(aggregate.Abandoned) {
			last = at
		}
		c := counter{labelsNow[e.Name], aggregate.Outcome(e.Outcome).String()}
		if e.End <= min(last, settled) || e.End <= last && now[c] <= first[c] {
			return false
		}
		first[c]++
		return true
	})
}
