package collector

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/status"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// seriesKey is a family, and the values of its labels.
type seriesKey struct {
	desc   *prometheus.Desc
	labels [4]string
}

// checkAnswer holds what was read against what usage says, as of some time ago.
func (s *usageSchedule) checkAnswer(a *usageAnswer, age time.Duration) {
	s.past = age
	defer func() { s.past = 0 }()
	if a.asked[byModel] && a.errs[byModel] == nil {
		s.checkModels(a)
	}
	if !a.asked[byTrace] || a.errs[byTrace] != nil {
		return
	}
	costs, truth, incomplete := sumByTrace(a.traces), s.usage.ByTrace(), usage.Incomplete(a.traces)
	for i := range s.model.traces {
		t := &s.model.traces[i]
		if s.isCut(t, a.tracesSince) {
			t.isPart = true
			continue
		}
		if t.mayLack(incomplete) || slices.ContainsFunc(a.traces, func(u opper.Usage) bool { return u.IsUnreadable() && u.Trace == t.id }) {
			continue
		}
		want := amountsOf(truth[t.id])
		if want[usage.Calls] = 0; t.state == costWaiting && costs[t.id] != want {
			s.fail("trace %s costs %v, and what was read says %v", t.id, want, costs[t.id])
		}
	}
}

// isCut reports whether a trace had calls before the window that is read for it. That is
// only right if nothing says when it began.
func (s *usageSchedule) isCut(t *spentTrace, since time.Time) bool {
	began, ok := s.began[t.id]
	return ok && !t.hasStart && began.Before(since)
}

func (s *usageSchedule) checkModels(a *usageAnswer) {
	isGrouped := slices.ContainsFunc(a.models, func(u opper.Usage) bool { return u.Project != "" })
	want, got, unreadable := map[oppertest.HourKey]usage.Amounts{}, map[oppertest.HourKey]usage.Amounts{}, map[oppertest.HourKey]bool{}
	for k, amounts := range s.usage.ByHourBetween(a.from, a.to) {
		s.raise(k, amountsOf(amounts))
		if !isGrouped {
			k.Project = ""
		}
		want[k] = plus(want[k], amountsOf(amounts))
	}
	s.tell("usage from %v: %v", a.from, want)
	for _, r := range a.models {
		k := oppertest.HourKey{Hour: r.Bucket.Truncate(time.Hour), ModelKey: oppertest.ModelKey{Project: r.Project, Model: r.Model}}
		got[k] = plus(got[k], usage.Amounts{r.Cost, r.Calls, r.InputTokens, r.OutputTokens})
		unreadable[k] = unreadable[k] || r.IsUnreadable()
	}
	for k, amounts := range want {
		if unreadable[k] {
			amounts[usage.Cost] = got[k][usage.Cost]
			want[k] = amounts
		}
	}
	s.leaveOut(usage.Incomplete(a.models), got, want)
	if !maps.Equal(got, want) {
		s.fail("usage from %v to %v is %v, and what was read is %v", a.from, a.to, want, got)
	}
}

// leaveOut removes the hours of which rows are missing. There must be no more than there is.
func (s *usageSchedule) leaveOut(incomplete []time.Time, got, want map[oppertest.HourKey]usage.Amounts) {
	for k, amounts := range got {
		if !slices.ContainsFunc(incomplete, k.Hour.Equal) {
			continue
		}
		for i, n := range amounts {
			if n > want[k][i] && s.troubles.Corrections == 0 {
				s.fail("usage of %v is %v, and what was read is %v", k, want[k], amounts)
			}
		}
		delete(got, k)
	}
	for k := range want {
		if slices.ContainsFunc(incomplete, k.Hour.Equal) {
			delete(want, k)
			s.happened["truncated hour"]++
			s.isTruncated = true
		}
	}
}

// raise notes what a read could see.
func (s *usageSchedule) raise(k oppertest.HourKey, amounts usage.Amounts) {
	high, maximum, label := s.highest[k], s.maximum[modelLabels[k.Model]], modelLabels[k.Model]
	for i, n := range amounts {
		if n > high[i] {
			maximum[i] += n - high[i]
			high[i] = n
		}
	}
	s.highest[k], s.maximum[label] = high, maximum
}

// watch looks at what is exposed.
func (s *usageSchedule) watch() {
	models := s.exposedModels(*s.project.usage.published.Load())
	s.compareModels(models)
	s.compareNames(*s.project.snapshots.published.Load())
}

// rise notes the value of a counter, which may not fall, and reports whether it has risen.
func (s *usageSchedule) rise(key seriesKey, value float64) bool {
	before := s.exposed[key]
	if value < before {
		s.fail("%v %v fell from %v to %v", key.desc, key.labels, before, value)
	}
	s.exposed[key] = value
	return value > before
}

func nanodollars(usd float64) int64 { return int64(math.Round(usd * status.Dollar)) }

func seriesOf(m *counter) seriesKey {
	key := seriesKey{desc: m.desc}
	for i, l := range m.labels {
		key.labels[i] = l.GetValue()
	}
	return key
}

// exposedModels returns what is exposed of usage by model, all that was exposed before.
func (s *usageSchedule) exposedModels(shot snapshot) map[spendCell]usage.Amounts {
	present, models := map[seriesKey]bool{}, map[spendCell]usage.Amounts{}
	for _, each := range shot {
		m := each.(*counter)
		key := seriesOf(m)
		present[key] = true
		if s.rise(key, m.value) && m.desc == usageCorrections {
			s.happened["correction"]++
		}
		c := spendCell{0, key.labels[1], key.labels[0]}
		amounts := models[c]
		switch {
		case m.desc == usageCorrections || m.desc == usageIncomplete:
			n := s.usageShown.corrections
			if m.desc == usageIncomplete {
				n = s.usageShown.incomplete
			}
			if int64(m.value) != n {
				s.fail("%v is %v, want %d", m.desc, m.value, n)
			}
			continue
		case m.desc == usageCost:
			amounts[usage.Cost] = nanodollars(m.value)
		case m.desc == usageCalls:
			amounts[usage.Calls] = int64(m.value)
		case key.labels[3] == "input":
			amounts[usage.InputTokens] = int64(m.value)
		default:
			amounts[usage.OutputTokens] = int64(m.value)
		}
		models[c] = amounts
	}
	for key := range s.exposed {
		if (key.desc == usageCost || key.desc == usageCalls || key.desc == usageTokens || key.desc == usageCorrections || key.desc == usageIncomplete) && !present[key] {
			if _, isCounted := s.usageShown.counted[spendCell{0, key.labels[1], key.labels[0]}]; isCounted || key.desc == usageCorrections || key.desc == usageIncomplete {
				s.fail("%v %v has vanished", key.desc, key.labels)
			}
			delete(s.exposed, key)
		}
	}
	return models
}

// compareModels holds that against what was read. What is new may be at 0, but not when
// all is quiet.
func (s *usageSchedule) compareModels(got map[spendCell]usage.Amounts) {
	want, sums, labels := s.usageShown.counted, map[string]usage.Amounts{}, map[string]bool{}
	for c := range got {
		labels[c.model] = true
	}
	for c, amounts := range got {
		if amounts != want[c] && (s.calm || amounts != usage.Amounts{}) {
			s.fail("usage of %v is exposed as %v, and was read as %v", c, amounts, want[c])
		}
		sums[c.model] = plus(sums[c.model], amounts)
	}
	for c, amounts := range want {
		if _, ok := got[c]; !ok {
			s.fail("usage of %v was read as %v, and is not exposed", c, amounts)
		}
	}
	for label, maximum := range s.maximum {
		if s.isTruncated && s.troubles.Corrections > 0 {
			break // what is missing may be less than nothing
		}
		for i, n := range sums[label] {
			if n > maximum[i] {
				s.fail("usage of %s is exposed as %v, and was never more than %v: %v", label, sums[label], maximum, got)
			}
		}
	}
	if labels[aggregate.Other] {
		s.happened["model overflow"]++
		delete(labels, aggregate.Other)
	}
	if len(labels) > s.maxModels {
		s.fail("%d models are exposed", len(labels))
	}
}

// compareNames holds what is exposed of traces against what was counted.
func (s *usageSchedule) compareNames(shot snapshot) {
	if len(shot) == 0 {
		return
	}
	got := map[string]*nameSpend{}
	name := func(label string) *nameSpend {
		if got[label] == nil {
			got[label] = newNameSpend()
		}
		return got[label]
	}
	want, unknown, waiting := s.tracesShown.names()
	for _, each := range shot {
		switch m := each.(type) {
		case *counter:
			key := seriesOf(m)
			switch m.desc {
			case tracesTotal:
				name(key.labels[2]).traces[key.labels[0]] = int64(m.value)
			case traceCost:
				name(key.labels[2]).cost[key.labels[0]] = nanodollars(m.value)
			case traceModelTokens:
				i := slices.Index([]string{"input", "output"}, key.labels[1])
				name(key.labels[2]).tokens[i] = int64(m.value)
			case costsUnknownTotal:
				if int64(m.value) != unknown {
					s.fail("%v costs are exposed as unknown, want %d", m.value, unknown)
				}
			default:
				continue
			}
			s.rise(key, m.value)
		case *histogram:
			if m.desc == costPerTrace {
				n := name(m.labels[1].GetValue())
				n.count, n.sum = int64(m.count), nanodollars(m.sum)
			}
		}
	}
	for label, n := range got {
		w := want[label]
		if w == nil {
			w = newNameSpend()
		}
		if !n.equal(w) && (s.calm || !n.isZero()) {
			s.fail("traces of %q are exposed as %+v, and were counted as %+v", label, *n, *w)
		}
		delete(want, label)
	}
	if len(want) > 0 {
		s.fail("traces of %v are counted, and not exposed", slices.Collect(maps.Keys(want)))
	}
	for key := range s.exposed {
		if key.desc != tracesTotal && key.desc != traceCost && key.desc != traceModelTokens || got[key.labels[2]] != nil {
			continue
		}
		delete(s.exposed, key)
		s.happened["name expired"]++
	}
	if got[aggregate.Other] != nil {
		s.happened["trace name overflow"]++
	}
	if s.calm {
		s.checkSum(got, unknown, waiting)
	}
}

// checkSum checks that each trace has a cost, or is unknown or waiting. Of names that have
// expired, only the unknown ones are exposed.
func (s *usageSchedule) checkSum(got map[string]*nameSpend, unknown, waiting int64) {
	var traces, known int64
	for _, n := range got {
		known += n.count
		for _, count := range n.traces {
			traces += count
		}
	}
	for i := range s.tracesShown.traces {
		if t := &s.tracesShown.traces[i]; t.expired && t.state == costUnknown {
			traces++
		}
	}
	if traces != known+unknown+waiting {
		s.fail("%d traces are counted, but %d costs, %d unknown, and %d wait", traces, known, unknown, waiting)
	}
}

func plus(a, b usage.Amounts) usage.Amounts {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

// sumByTrace adds up rows, without their calls, of the traces of which all can be read.
func sumByTrace(rows []opper.Usage) map[string]usage.Amounts {
	sums := map[string]usage.Amounts{}
	defer func() {
		for _, r := range rows {
			if r.IsUnreadable() {
				delete(sums, r.Trace)
			}
		}
	}()
	for i := range rows {
		if r := &rows[i]; r.Trace != "" {
			sums[r.Trace] = plus(sums[r.Trace], usage.Amounts{usage.Cost: r.Cost, usage.InputTokens: r.InputTokens, usage.OutputTokens: r.OutputTokens})
		}
	}
	return sums
}

// amountsOf returns those that the fake has. Traces have no calls.
func amountsOf(a oppertest.Amounts) usage.Amounts {
	return usage.Amounts{a.Cost, a.Calls, a.InputTokens, a.OutputTokens}
}
