package aggregate

import (
	"maps"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/ledger"
)

// Traces tells which traces keep their names.
type Traces interface {
	IsListed(id ledger.ID) bool
	Pending(f func(ledger.Row)) // calls f for each trace that is open or not settled
}

// idle takes in whether the latest trace of the name is listed at the end of a sync.
func (n *Aggregate) idle(now time.Time, isListed bool) {
	if isListed {
		now = time.Time{}
	}
	if n.idleSince.IsZero() != isListed {
		n.idleSince = now
		n.Changes++
	}
}

// expires reports whether the name has had no trace for so long. As long as it is
// exposed at 0, no scraper has read what was counted.
func (n *Aggregate) expires(after time.Duration, now time.Time) bool {
	return after > 0 && n.Label != Other && !n.IsZeroPending() && !n.idleSince.IsZero() && now.Sub(n.idleSince) >= after
}

// Expire removes the names without a trace for the time of the configuration, and
// returns their labels. It is called at the end of each sync.
func (s *Set) Expire(now time.Time, traces Traces) []string {
	due := map[string]*Aggregate{}
	for label, n := range s.names {
		if n.idle(now, traces.IsListed(n.latest)); n.expires(s.cfg.NameExpiry, now) {
			due[label] = n
		}
	}
	if len(due) == 0 {
		return nil
	}
	traces.Pending(func(r ledger.Row) {
		label := s.resolve(r.Name).label
		if n := due[label]; n != nil {
			n.idleSince = now
			n.Changes++
			delete(due, label)
		}
	})
	expired := slices.Sorted(maps.Keys(due))
	for _, label := range expired {
		s.Remove(label)
		s.dropped[label] = due[label]
		s.Expired++
		for o := range s.OfExpired {
			s.OfExpired[o] += due[label].ByOutcome[o].Traces
		}
	}
	return expired
}

// Remove removes a label and all that was counted under it. A later
// trace of such a name begins a new aggregate.
func (s *Set) Remove(label string) {
	n := s.names[label]
	if n == nil {
		return
	}
	s.forgetWaiting(func(_ *waitingBatch, t waitingTrace) bool { return t.name == n })
	delete(s.names, label)
	s.dropped[label] = nil
	s.distinct.remove(hashOf(label))
	clear(s.resolved)
}

// Published says that all is exposed as it is: a name that has expired starts from zero if it
// returns.
func (s *Set) Published() { clear(s.dropped) }

// revive cancels an expiry that is not published yet, as its series are still
// exposed. It returns nil if there is none.
func (s *Set) revive(label string) *Aggregate {
	n := s.dropped[label]
	if n == nil {
		return nil
	}
	delete(s.dropped, label)
	s.Expired--
	for o := range s.OfExpired {
		s.OfExpired[o] -= n.ByOutcome[o].Traces
	}
	n.saved = 0
	n.idleSince = time.Time{}
	return n
}

// RemoveExcluded removes the labels whose traces all had names that the configuration
// excludes, and returns them.
func (s *Set) RemoveExcluded() []string {
	if s.cfg.Include == nil && s.cfg.Exclude == nil {
		return nil
	}
	var excluded []string
	for label, n := range s.names {
		if len(n.raws) == 0 || len(n.raws) > maxRaws || slices.ContainsFunc(n.raws, s.IsIncluded) {
			continue
		}
		excluded = append(excluded, label)
	}
	for _, label := range excluded {
		s.Remove(label)
	}
	slices.Sort(excluded)
	return excluded
}

// maxRaws is how many names a label may have had to be removed when all are excluded:
// rewriting can make one label of any number of names.
const maxRaws = 16

// named notes that a trace of a name is counted under the label.
func (n *Aggregate) named(raw string) {
	if n.Label != Other && len(n.raws) <= maxRaws && !slices.Contains(n.raws, raw) {
		n.raws = append(n.raws, strings.Clone(raw)) // of a page that would stay with it
		n.Changes++
	}
}
