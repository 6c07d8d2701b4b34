package simulation

import (
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// looked notes a sync that lasted, unless an answer in it was a lie.
func (s *simulation) looked(start time.Time, initialSync, swept bool) {
	gaps := s.totals["opper_exporter_gaps_total{}"]
	missed := gaps > s.gaps
	s.gaps = gaps
	if missed {
		s.blinded()
	}
	if initialSync || s.spoiled || s.untied {
		return
	}
	if start.Sub(s.goodAt) > s.list.Retention/8 {
		s.watching = start
	}
	s.sawExpiry = s.sawExpiry || start.Sub(s.watching) > 2*s.list.Retention
	before := s.goodAt
	s.goodAt = start
	s.seeing++
	from := start
	if swept {
		from = s.sweepBegan
	}
	if isFull := !s.scans().LastFullScan.Add(-s.ours).Before(start); isFull && from.After(s.lied) && (s.blind.IsZero() || from.After(s.blind)) {
		s.blind = time.Time{}
		s.looks = append(s.looks, oracle.Sync{Start: from, End: s.at, Full: true})
	}
	if s.sees(before) {
		s.looks = append(s.looks, oracle.Sync{Start: start, End: s.at})
	}
	if s.syncs%4 == 0 || len(s.looks) < 4 {
		s.check()
	}
}

// check compares what is durable with the truth.
func (s *simulation) check() {
	if s.lasted.IsZero() {
		return
	}
	rules := oracle.Rules{Settle: s.cfg.SettleDelay, Abandon: s.cfg.AbandonAfter, Recheck: s.cfg.Interval, InitialSync: s.initialSync, InitialSyncDone: s.lasted, Syncs: s.looks, Reread: rereadSoon}
	if s.stall > 0 {
		// Each page has a time of its own, which may be long before the sync ended.
		rules.Slack = s.longest
	}
	if s.partial {
		rules.InitialSync = time.Time{}
	}
	if s.unanswered || s.list.NoGet != 0 || s.list.MaxOffset != 0 {
		// One that can't be asked for is abandoned as last seen.
		rules.Slack = 9*time.Hour + s.longest
	}
	if s.ours != 0 || !s.clockSet.IsZero() {
		// Ages that began by one clock and end by another are off by what lies
		// between the two; what is late by that is not demanded.
		rules.Slack, rules.InitialSync = 9*time.Hour, time.Time{}
		since := s.clockSet
		if since.Before(s.lasted) {
			since = s.lasted
		}
		rules.Syncs = slices.DeleteFunc(slices.Clone(s.looks), func(k oracle.Sync) bool { return k.Start.Before(since.Add(5 * time.Hour)) })
	}
	truth, durable := oracle.NewTruth(s.opper, rules), s.durable
	if len(s.denied) > 0 {
		maps.DeleteFunc(truth.Traces, func(id string, _ oracle.Verdict) bool { return s.denied[id] })
		durable = slices.DeleteFunc(slices.Clone(durable), func(c oracle.Counted) bool { return s.denied[c.ID] })
	}
	if err := truth.Check(durable); err != nil {
		s.fail("%v", err)
	}
	if want, err := truth.Sums(); err == nil {
		if got := oracle.SumOf(durable); !maps.Equal(got.By, want.By) || !maps.Equal(got.Tokens, want.Tokens) {
			s.fail("the sums are %+v, want %+v", got, want)
		}
	}
}

// checkRefusal fails if syncs keep failing, though Opper answered all that they
// asked for, and the list is to be known as ours: a sync that failed demands
// nothing of what is counted, and what expires meanwhile is lost.
func (s *simulation) checkRefusal(start time.Time, succeeded, wasOurs bool) {
	switch {
	case succeeded:
		s.refusals = 0
	case s.disturbed:
		s.emptySince = time.Time{}
	case s.opper.Len() == 0 && (s.emptySince.IsZero() || start.Sub(s.emptySince) < longestDoubt):
	case wasOurs && s.isOurs() || s.hasTurnedOver(start):
		most := maxRefusals
		if s.poison > 0 {
			most = maxRefusalsByRow
		}
		if s.refusals++; s.refusals > most {
			s.fail("%d syncs in a row failed, though nothing was wrong with what they read: %v", s.refusals, s.trouble)
		}
	}
}

// leaveOutRefused leaves rows out of the truth that were not read by a sync and stand
// where Opper refuses to list. A page that reaches there may be read to see where others
// stand, and nothing tie it to them.
func (s *simulation) leaveOutRefused() {
	if s.list.MaxOffset == 0 {
		return
	}
	rows := s.opper.Snapshot()
	for _, tr := range rows[min(s.list.MaxOffset, len(rows)):] {
		if !s.project.Ledger().HasSeen(ledger.KeyOf(tr.ID)) {
			s.denied[tr.ID] = true
		}
	}
}

// isOurs reports whether something ties the list to what is known.
func (s *simulation) isOurs() bool {
	rows := s.opper.Snapshot()
	if deepest := min(s.list.MaxOffset, len(rows)); deepest > 0 {
		// What is listed beyond can only be asked for, by an id that is kept as it is.
		beyond := slices.DeleteFunc(rows[deepest:], func(tr oppertest.Trace) bool {
			return s.list.NoGet != 0 || !ledger.KeyOf(tr.ID).Spells(tr.ID)
		})
		rows = rows[:deepest+len(beyond)]
	}
	known := s.project.Ledger().HasSeen
	if s.relist > 0 {
		// A row that was deleted and comes back may stand where only a full scan
		// meets it, and nothing else may be left of what was listed: that is like
		// another project's list.
		known = func(id ledger.ID) bool { return s.project.Ledger().Index(id) >= 0 }
	}
	return len(rows) == 0 || s.project.Ledger().IsInitialSync() || slices.ContainsFunc(rows, func(tr oppertest.Trace) bool {
		return tr.ID != "" && s.isReadable(tr.ID) && known(ledger.KeyOf(tr.ID))
	})
}

func (s *simulation) isReadable(id string) bool {
	_, dim := s.dims[id]
	return !dim && !s.poisoned[id]
}

// hasTurnedOver reports whether the exporter must see that all that it knew has
// expired: for long enough it has seen how long traces stay, where nothing
// misleads it about that.
func (s *simulation) hasTurnedOver(start time.Time) bool {
	stay := s.list.Retention
	byAge := s.list.SortBy == oppertest.ByArrival || s.list.SortBy == oppertest.ByStart
	if stay == 0 || s.every == 0 || !byAge || s.remove+s.backdate+s.clock > 0 || s.clients != 0 || s.ours != 0 || s.ended.IsZero() {
		return false
	}
	return s.sawExpiry && start.Sub(s.savedAt) >= stay+stay/2+turnoverMargin
}

// isKeyKnown reports whether the exporter knows which key leads to our list.
func (s *simulation) isKeyKnown() bool { return s.project.Ledger().Listed() > 0 }

// isCertain reports whether another list must be told from ours.
func (s *simulation) isCertain() bool { return s.recognizable() || s.away > 0 && s.isKeyKnown() }

// recognizable reports whether another list that our key leads to can be distinguished
// from ours for certain: the last good sync is so close that no known row has left since,
// of those that arrived last.
func (s *simulation) recognizable() bool {
	if s.project.Ledger().IsInitialSync() || s.mayMislead() {
		return false
	}
	stay := s.list.Retention
	if stay > 0 && s.clients != 0 {
		return false
	}
	return slices.ContainsFunc(s.opper.Snapshot(), func(tr oppertest.Trace) bool {
		young := stay == 0 || s.at.Sub(s.arrived[tr.ID]) < stay/2
		return tr.ID != "" && young && s.isReadable(tr.ID) && s.project.Ledger().Index(ledger.KeyOf(tr.ID)) >= 0
	})
}

// mayMislead reports whether an exporter may think that what it knew has expired
// since the last good sync, as long as another upstream answers.
func (s *simulation) mayMislead() bool {
	most := longestMoved
	if stay := s.list.Retention; stay > 0 {
		most = min(most, stay/4)
	}
	if s.remove > 0 {
		// What is deleted by hand at the end looks like what has expired.
		most = time.Minute
	}
	return s.at.Sub(s.goodAt) > most || s.clockSet.After(s.goodAt)
}

// blinded notes that rows may have been taken for unreadable.
func (s *simulation) blinded() {
	if s.blind.IsZero() {
		s.blindSince = s.at
	}
	s.blind, s.seeing = s.at, 0
}

// sees reports whether a sync has read all rows, as far as they could be, given when
// the good one before it began: rows are read again between the two.
func (s *simulation) sees(before time.Time) bool {
	if s.list.SortBy == oppertest.ByUpdate && (s.wasUnsorted || s.project.Syncer().IsUnsorted()) {
		return false // its rows do not show where new ones are: only sweeps find them
	}
	if s.poison > 0 {
		return s.blind.IsZero() && s.project.Ledger().NextUnreadable(0, s.project.Ledger().Listed()) < 0
	}
	if s.blind.IsZero() {
		return true
	}
	again := s.blind.Add(max(rereadSoon, 2*s.blind.Sub(s.blindSince)))
	if before.Before(again) || s.seeing < rereadSyncs {
		return false
	}
	s.blind = time.Time{}
	return true
}

// checkLateEnds looks for abandoned traces whose end a full scan read since
// some time, and that were not noted as ended after all.
func (s *simulation) checkLateEnds(since time.Time) {
	if !slices.ContainsFunc(s.looks, func(k oracle.Sync) bool { return k.Full && k.Start.After(since) }) {
		return
	}
	for _, c := range s.durable {
		if tr, listed := s.opper.Get(c.ID); listed && tr.End != nil && c.Outcome == "abandoned" && !s.lateEnds[c.ID] && !s.poisoned[c.ID] {
			s.fail("the late end of trace %s was not noted", c.ID)
		}
	}
}
