package simulation

import (
	"maps"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/ledger"
)

const (
	// expirySlack is how long a name may be at 0 before it counts as idle, and more.
	expirySlack = 15 * time.Minute

	overflowed = "(other)"
	expiredKey = "opper_exporter_trace_names_expired_total{}"
)

// traceNameOf returns the label trace_name of a series, empty if it has none.
func traceNameOf(key string) string {
	family, labels, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{")
	if family == "opper_traces_open" || family == "opper_trace_last_end_timestamp_seconds" {
		return labels
	}
	_, name, _ := strings.Cut(groupOf(key), " of ")
	return name
}

// use notes that traces are counted, or delisted while they were open: the name of
// each was in use then, if the next commit is durable. As long as a trace is listed, so
// is the name that it had when it was first seen, or counted.
func (s *simulation) use(ev ledger.Events) {
	for _, r := range ev.FirstSeen {
		s.hasName(r)
	}
	for _, c := range ev.Counted {
		s.hasName(c.Row)
		s.recent[versionOf(c).Name] = s.at
	}
	for _, r := range ev.Vanished {
		s.recent[versionOf(ledger.Counted{Row: r}).Name] = s.at
	}
}

func (s *simulation) hasName(r ledger.Row) {
	name := versionOf(ledger.Counted{Row: r}).Name
	if s.named[name] == nil {
		s.named[name] = map[ledger.ID]bool{}
	}
	s.named[name][r.ID] = true
}

// listedOf returns how many of the traces that have had a name are listed.
func (s *simulation) listedOf(name string) (n int) {
	for id := range s.named[name] {
		if s.project.Ledger().IsListed(id) {
			n++
		}
	}
	return n
}

// leave takes in that series are not exposed any more. A name may expire, with all
// its series at once: what they were at the end stays part of the totals.
func (s *simulation) leave(present map[string]bool) {
	there, expired := map[string]string{}, map[string]bool{}
	for key := range present {
		there[traceNameOf(key)] = key
	}
	for key, m := range s.shown {
		if present[key] {
			continue
		}
		name := traceNameOf(key)
		if s.expiry == 0 || name == "" || name == overflowed {
			s.fail("%s has vanished", key)
		}
		if other, ok := there[name]; ok {
			s.fail("%s has vanished, and %s has not", key, other)
		}
		s.addShown(s.past, key, m)
		delete(s.shown, key)
		delete(s.zero, groupOf(key))
		expired[name] = true
	}
	for name := range expired {
		s.tell("%s has expired", name)
		s.checkExpiry(name)
		s.expired[name] = s.durableFrom
		s.totals[expiredKey]++
	}
}

// checkExpiry fails unless a name may have expired.
func (s *simulation) checkExpiry(name string) {
	if s.names < 10 && s.unwritable > 0 {
		return // before its expiry was durable, another one may have taken the place
	}
	if idle := s.at.Sub(s.used[name]); idle < s.expiry && s.clockSet.IsZero() {
		s.fail("%s has expired, %v after it was used", name, idle)
	}
	// Of traces that are deleted by hand, the latest may be the first to leave. Those that
	// could not be read may have been read before the expiry was durable.
	isReread := s.unwritable > 0 && s.dim > 0
	if n := s.listedOf(name); n > 0 && !isReread && (s.quiet || n == len(s.named[name])) {
		s.fail("%s has expired, but %d of %d traces are listed", name, n, len(s.named[name]))
	}
	s.project.Ledger().Pending(func(r ledger.Row) {
		if versionOf(ledger.Counted{Row: r}).Name == name {
			s.fail("%s has expired, but trace %s is pending", name, versionOf(ledger.Counted{Row: r}).ID)
		}
	})
}

// returns checks a series of a name that has expired before.
func (s *simulation) returns(key string) {
	since, before := s.expired[traceNameOf(key)]
	if !before || !s.clockSet.IsZero() {
		return
	}
	created := s.shown[key].GetCounter().GetCreatedTimestamp()
	if created == nil {
		created = s.shown[key].GetHistogram().GetCreatedTimestamp()
	}
	if at := created.AsTime(); at.Before(since) {
		s.fail("%s was created at %v, before its name expired at %v", key, at, since)
	}
}

// checkExpired fails if a name is exposed that must have expired, at the end, since
// when syncs and commits succeed.
func (s *simulation) checkExpired() {
	if s.expiry == 0 || !s.clockSet.IsZero() {
		return
	}
	pending := map[string]bool{overflowed: true}
	s.project.Ledger().Pending(func(r ledger.Row) { pending[versionOf(ledger.Counted{Row: r}).Name] = true })
	for key := range s.shown {
		name := traceNameOf(key)
		used := slices.MaxFunc([]time.Time{s.used[name], s.wasListed[name], s.goodSince}, time.Time.Compare)
		if idle := s.at.Sub(used); name != "" && !pending[name] && idle > s.expiry+s.cfg.AbandonAfter+expirySlack {
			s.fail("%s is exposed %v after it was used", key, idle)
		}
	}
}

// usesLast notes that all uses so far are durable.
func (s *simulation) usesLast() {
	maps.Copy(s.used, s.recent)
	clear(s.recent)
	for name := range s.named { // a start may commit before there is a project
		if s.project != nil && s.listedOf(name) > 0 {
			s.wasListed[name] = s.at
		}
	}
	s.durableFrom = s.syncBegan
}
