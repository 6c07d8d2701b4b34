package collector

import (
	"maps"
	"time"

	"opper_exporter/collector/usage"
)

// rest lets all become quiet, and compares what is exposed with the truth.
func (s *usageSchedule) rest() {
	s.tell("rest")
	s.outage, s.ours, s.troubles.Errors = "", 0, 0
	s.at = s.at.Add(26 * time.Hour) // all has shown, and was corrected
	s.restart()
	calm := func() {
		s.at = s.at.Add(31 * time.Minute)
		s.sync()
		s.read(false)
		s.sync()
	}
	s.outages, s.steps, s.crash, s.unwritable, s.stale = false, false, 0, 0, 0
	couldReadAll := s.troubles.Unreadable == 0 // what is final by now may lack something
	s.troubles.Unreadable = 0
	s.identify()
	for range 4 {
		calm() // the zeros of what is new are read
	}
	s.calm = true
	for range 2 {
		calm()
	}
	for k, at := range s.project.usage.kinds {
		if at.err != nil && usageKind(k) != byTrace {
			s.fail("%v: %v", usageKind(k), at.err)
		}
	}
	if _, _, waiting := s.tracesShown.names(); waiting > 0 {
		s.fail("%d traces wait for their cost", waiting)
	}
	if want := s.opper.ReadBudget(); s.project.usage.budget.SpentCents != *want.SpentCents {
		s.fail("%d cents are spent, want %d", s.project.usage.budget.SpentCents, *want.SpentCents)
	}
	s.checkTruth(couldReadAll && !s.isTruncated)
}

// checkTruth compares what was counted, and is exposed, with what calls cost.
func (s *usageSchedule) checkTruth(couldReadAll bool) {
	m := s.usageShown
	if !m.countsNothing && couldReadAll {
		want, got := map[string]usage.Amounts{}, map[string]usage.Amounts{}
		for k, amounts := range s.usage.ByHour() {
			if k.Hour.Unix()/3600 >= m.first {
				want[modelLabels[k.Model]] = plus(want[modelLabels[k.Model]], amountsOf(amounts))
			}
		}
		for c, amounts := range m.total {
			got[c.model] = plus(got[c.model], amounts)
		}
		switch {
		case s.troubles.Corrections == 0 && !maps.Equal(got, want):
			s.fail("usage is counted as %v, and is %v", got, want)
		case s.troubles.Corrections == 0:
			s.happened["usage as the truth"]++
		}
		for label, amounts := range want {
			for i, n := range amounts {
				if got[label][i] < n {
					s.fail("usage of %s is counted as %v, and is %v", label, got[label], amounts)
				}
			}
		}
	}
	for i := range s.tracesShown.traces {
		t := &s.tracesShown.traces[i]
		switch t.state {
		case costUnknown:
			s.happened["cost unknown"]++
		case costFinal:
			s.happened["cost final"]++
			if s.troubles.Corrections > 0 || t.isPart || !t.completeAt.After(s.shown[t.id]) {
				continue
			}
			s.happened["cost complete"]++
			if t.amounts != s.spent[t.id] {
				s.fail("trace %s cost %v, and counts as %v", t.id, s.spent[t.id], t.amounts)
			}
		case costWaiting:
		}
	}
}
