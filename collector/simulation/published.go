package simulation

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/ledgertest"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest/oracle"
)

// total adds a counted trace to what has to be published.
func (s *simulation) total(v oracle.Counted) {
	name := s.label(v.Name)
	labels := "{" + v.Outcome + "," + name + "}"
	s.totals["opper_traces_total"+labels]++
	if v.Tokens >= 0 {
		s.totals["opper_trace_tokens_total"+labels] += uint64(v.Tokens)
		s.totals["opper_tokens_per_trace_count{"+name+"}"]++
		s.totals["opper_tokens_per_trace_sum{"+name+"}"] += uint64(v.Tokens)
	}
	switch {
	case v.Outcome == "abandoned":
	case v.Unusable != "":
		s.totals["opper_exporter_durations_unusable_total{"+v.Unusable+"}"]++
	default:
		s.totals["opper_trace_duration_seconds_count"+labels]++
		s.totals["opper_trace_duration_seconds_sum"+labels] += uint64(v.Micros)
	}
}

// label is a name, or what stands for all of them if they share too few places.
func (s *simulation) label(name string) string {
	if s.names < 10 {
		return "any"
	}
	return name
}

// versionOf is what the oracle calls a counted trace.
var versionOf = ledgertest.Version

// watch looks at what is published: nothing may be lower than it ever was, and
// all of it must be what was counted and made durable.
func (s *simulation) watch() {
	shot := s.project.Published()
	if isSame(shot, s.last) || len(shot) == 0 && len(s.shown) == 0 {
		return
	}
	s.last = shot
	before := s.before
	s.before = make(map[prometheus.Metric]string, len(shot))
	present := make(map[string]bool, len(shot))
	initialSync := len(s.shown) == 0
	for _, each := range shot {
		key, same := before[each]
		if !same {
			m := s.write(each)
			key = s.nameOf(each.Desc(), m)
			if m.Gauge != nil {
				present[key] = true
				continue
			}
			was := s.shown[key]
			if was != nil {
				if err := fallen(was, m); err != nil {
					s.fail("%s: %v", key, err)
				}
			}
			s.shown[key] = m
			if was == nil {
				s.appears(key, initialSync)
			}
		}
		s.before[each] = key
		present[key] = true
	}
	s.leave(present)
	s.leaveZero()
	s.compare()
	s.shadow()
}

// write returns a metric as a scrape gets it.
func (s *simulation) write(m prometheus.Metric) *dto.Metric {
	out := new(dto.Metric)
	if err := m.Write(out); err != nil {
		s.fail("%v: %v", m.Desc(), err)
	}
	return out
}

// appears notes a series that is shown for the first time. With the initial sync,
// only names that were first seen after it are zero-pending.
func (s *simulation) appears(key string, initialSync bool) {
	if group := groupOf(key); group != "" && s.zero[group] == nil {
		s.zero[group] = &zeros{since: s.at, hasEnded: initialSync}
	}
	s.returns(key)
}

// leaveZero looks which groups are no longer at 0: they must have been read so.
func (s *simulation) leaveZero() {
	risen := map[string]string{}
	for key, m := range s.shown {
		if m.GetCounter().GetValue() > 0 || m.GetHistogram().GetSampleCount() > 0 {
			risen[groupOf(key)] = key
		}
	}
	for group, z := range s.zero {
		if key, ok := risen[group]; ok {
			if !z.hasEnded {
				s.fail("%s rises before every scraper has read the zeros", key)
			}
			delete(s.zero, group)
		}
	}
}

// groupOf returns which group a series is part of, if any.
func groupOf(key string) string {
	family, labels, _ := strings.Cut(key, "{")
	outcome, name, both := strings.Cut(strings.TrimSuffix(labels, "}"), ",")
	switch family {
	case "opper_traces_total", "opper_trace_tokens_total":
		return "counters of " + name
	case "opper_trace_duration_seconds", "opper_trace_duration_seconds_count", "opper_trace_duration_seconds_sum":
		return "durations of " + name
	case "opper_tokens_per_trace", "opper_tokens_per_trace_count", "opper_tokens_per_trace_sum":
		if !both {
			name = outcome
		}
		return "tokens of " + name
	case "opper_trace_cost_usd_total", "opper_trace_model_tokens_total", "opper_cost_usd_per_trace":
		if !both {
			name = outcome
		}
		return "costs of " + name
	}
	return ""
}

// compare holds what is published against what was counted and made durable.
func (s *simulation) compare() {
	got := maps.Clone(s.past)
	for key, m := range s.shown {
		s.addShown(got, key, m)
	}
	s.checkCosts(got)
	for _, keys := range []map[string]uint64{s.totals, got} {
		for key := range keys {
			less := got[key] < s.totals[key] && s.pending(key, got[key])
			if got[key] != s.totals[key] && !less {
				s.fail("%s is %d, and what is durable says %d", key, got[key], s.totals[key])
			}
		}
	}
}

// pending reports whether a sum may be lower than what was counted.
func (s *simulation) pending(key string, shown uint64) bool {
	group := groupOf(key)
	switch {
	case s.strict || group == "":
		return false
	case strings.HasSuffix(group, " any"):
		return len(s.zero) > 0
	}
	return s.zero[group] != nil && shown == s.past[key]
}

// addShown adds up what was published by the keys of what was counted.
func (s *simulation) addShown(got map[string]uint64, key string, m *dto.Metric) {
	family, labels, _ := strings.Cut(key, "{")
	if outcome, name, both := strings.Cut(strings.TrimSuffix(labels, "}"), ","); both {
		labels = outcome + "," + s.label(name) + "}"
	} else if family == "opper_tokens_per_trace" {
		labels = s.label(outcome) + "}"
	}
	switch family {
	case "opper_exporter_overflow_traces_total", "opper_exporter_unmapped_status_total":
	case "opper_trace_cost_usd_total", "opper_trace_model_tokens_total", "opper_cost_usd_per_trace", "opper_exporter_trace_costs_unknown_total":
		addCosts(got, family, m)
	case "opper_trace_duration_seconds":
		got[family+"_count{"+labels] += m.GetHistogram().GetSampleCount()
		got[family+"_sum{"+labels] += uint64(math.Round(1e6 * m.GetHistogram().GetSampleSum()))
	case "opper_tokens_per_trace":
		got[family+"_count{"+labels] += m.GetHistogram().GetSampleCount()
		got[family+"_sum{"+labels] += uint64(m.GetHistogram().GetSampleSum())
	default:
		got[family+"{"+labels] += uint64(m.GetCounter().GetValue())
	}
}

// shadow starts another project of a copy of what is stored, now and then: it
// would publish what is published.
func (s *simulation) shadow() {
	stored, ok := s.inner.(*storetest.Memory)
	if !ok || len(s.last) == 0 || s.made%8 != 0 {
		return
	}
	deps := s.deps(func(ledger.Events) {})
	deps.Store, deps.Logger = stored.Clone(), log.NewNopLogger()
	other := s.newProject(s.cfg, deps)
	n := s.project.Ledger().Listed()
	if was, is := s.project.Ledger().IDs(0, n), other.Ledger().IDs(0, other.Ledger().Listed()); !slices.Equal(was, is) {
		s.fail("%d are believed listed, and %d would be after a crash", len(was), len(is))
	}
	got := map[string]*dto.Metric{}
	for _, each := range other.Published() {
		m := s.write(each)
		got[s.nameOf(each.Desc(), m)] = m
	}
	for _, each := range s.last {
		m := s.write(each)
		key := s.nameOf(each.Desc(), m)
		if m.Gauge != nil {
			if key != "opper_exporter_trace_names{}" && got[key].GetGauge().GetValue() != m.GetGauge().GetValue() {
				s.fail("%s is %v, and would be %v after a crash", key, m.GetGauge().GetValue(), got[key].GetGauge().GetValue())
			}
			continue
		}
		if err := fallen(m, got[key]); err != nil {
			s.fail("%s, after a crash: %v", key, err)
		}
		delete(got, key)
	}
	for key, m := range got {
		if m.Gauge == nil {
			s.fail("%s would be exposed after a crash", key)
		}
	}
}

// isSame reports whether two snapshots are one.
func isSame(a, b []prometheus.Metric) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// nameOf names a series by its family and the values of its labels, without
// that of the project.
func (s *simulation) nameOf(desc *prometheus.Desc, m *dto.Metric) string {
	var labels []string
	for _, l := range m.GetLabel() {
		if l.GetName() != "project" {
			labels = append(labels, l.GetValue())
		}
	}
	family, ok := s.families[desc]
	if !ok {
		_, family, _ = strings.Cut(desc.String(), `fqName: "`)
		family, _, _ = strings.Cut(family, `"`)
		s.families[desc] = family
	}
	return family + "{" + strings.Join(labels, ",") + "}"
}

// fallen says what is lower in a counter or histogram than it was.
func fallen(was, is *dto.Metric) error {
	if is == nil {
		return errors.New("missing")
	}
	if was.Counter != nil {
		if is.GetCounter().GetValue() < was.GetCounter().GetValue() {
			return fmt.Errorf("fell from %v to %v", was.GetCounter().GetValue(), is.GetCounter().GetValue())
		}
		if a, b := was.GetCounter().GetCreatedTimestamp().AsTime(), is.GetCounter().GetCreatedTimestamp().AsTime(); !a.Equal(b) {
			return fmt.Errorf("created %v became %v", a, b)
		}
		return nil
	}
	a, b := was.GetHistogram(), is.GetHistogram()
	if b.GetSampleCount() < a.GetSampleCount() || b.GetSampleSum() < a.GetSampleSum() {
		return fmt.Errorf("count and sum fell from %v, %v to %v, %v", a.GetSampleCount(), a.GetSampleSum(), b.GetSampleCount(), b.GetSampleSum())
	}
	if x, y := a.GetCreatedTimestamp().AsTime(), b.GetCreatedTimestamp().AsTime(); !x.Equal(y) {
		return fmt.Errorf("created %v became %v", x, y)
	}
	for i, bucket := range a.GetBucket() {
		if i >= len(b.GetBucket()) || b.GetBucket()[i].GetUpperBound() != bucket.GetUpperBound() {
			if math.IsInf(bucket.GetUpperBound(), +1) {
				continue
			}
			return fmt.Errorf("bucket %v is missing", bucket.GetUpperBound())
		}
		if b.GetBucket()[i].GetCumulativeCount() < bucket.GetCumulativeCount() {
			return fmt.Errorf("bucket %v fell", bucket.GetUpperBound())
		}
	}
	var native, delta int64
	for _, d := range b.GetPositiveDelta() {
		delta += d
		native += delta
	}
	if uint64(native)+b.GetZeroCount() != b.GetSampleCount() {
		return fmt.Errorf("native buckets hold %d of %d", uint64(native)+b.GetZeroCount(), b.GetSampleCount())
	}
	return nil
}
