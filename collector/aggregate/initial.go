package aggregate

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
)

// EndInitialSync gives the places to the names with most traces, ties by label,
// and merges the others into the overflow. From now on places go by arrival.
func (s *Set) EndInitialSync(now time.Time) {
	if !s.initialSync {
		return
	}
	s.initialSync = false
	defer s.createCosts(now, 0) // no cost is history
	late := s.deferred
	for label := range late.leaders.seen {
		r := late.ranks[hashOf(label)]
		s.names[label] = &Aggregate{Label: label, Created: r.created(), seen: int(r.seen)}
	}
	ranked := slices.SortedFunc(maps.Values(s.names), func(a, b *Aggregate) int {
		return cmp.Or(cmp.Compare(b.seen, a.seen), cmp.Compare(a.Label, b.Label))
	})
	for _, n := range ranked {
		n.Created = s.initialCreated(n.Created, now)
		n.zeroPending = 0 // the initial sync appears at once
		n.Changes++
	}
	if len(ranked) <= s.cfg.MaxNames {
		return
	}
	clear(s.resolved)
	for _, n := range ranked[s.cfg.MaxNames:] {
		delete(s.names, n.Label)
		s.dropped[n.Label] = nil
		for _, t := range n.ByOutcome {
			s.Overflow += t.Traces
		}
	}
	other := &Aggregate{Label: Other, Created: now}
	s.names[Other] = other
	for _, n := range ranked[s.cfg.MaxNames:] {
		other.merge(n)
	}
	s.countDeferred(other, now)
}

// countDeferred counts the deferred traces under the names that have a place, and
// the rest as overflow.
func (s *Set) countDeferred(other *Aggregate, now time.Time) {
	byHash := map[uint64]*Aggregate{}
	for label, n := range s.names {
		byHash[hashOf(label)] = n
	}
	for hash, r := range s.deferred.ranks {
		if byHash[hash] == nil {
			other.startBy(s.initialCreated(r.created(), now))
		}
	}
	_ = s.deferred.each(func(hash uint64, outcome Outcome, c *ledger.Counted) { // all of it has been read when it was restored
		s.add(cmp.Or(byHash[hash], other), outcome, c)
	})
	s.deferred.clear()
}

// initialCreated returns when an aggregate was 0 of which born is the start of
// the oldest trace, zero if that is unknown.
func (s *Set) initialCreated(born, now time.Time) time.Time {
	// Without a start, a trace is old. A later time would make a server that
	// reads created timestamps take history for an increase.
	if oldest := now.Add(-ledger.MaxAge); born.Before(oldest) && (!s.cfg.Partial || !born.IsZero()) {
		born = oldest
	}
	if born.IsZero() || born.After(now) {
		born = now
	}
	if s.Renewed && born.Before(s.Since) {
		born = s.Since
	}
	return born
}
