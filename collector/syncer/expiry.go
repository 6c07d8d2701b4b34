package syncer

import (
	"slices"
	"time"

	"opper_exporter/collector/ledger"
)

const (
	// minExpiries is how often rows must have been seen to expire, before the age
	// at which they did is taken for the retention.
	minExpiries = 3
	// unseenExpiry is by how much the newest known trace must be older than any
	// was seen listed, before an expiry that was never seen explains its absence.
	unseenExpiry = time.Hour
)

// mayHaveExpired reports whether all that was listed at the last successful sync can
// have expired before the start of the list was read. The time since then, which
// may be long if the process stood still, explains nothing.
func (e *evidence) mayHaveExpired() bool {
	s, now := e.syncer, e.runs[0].Read
	if s.unproven {
		return false
	}
	if now.Sub(s.known.LastSuccess) >= ledger.MaxAge {
		// In the first initial sync, there is no success yet to measure from.
		return !s.known.LastSuccess.IsZero() || !s.isOtherKey()
	}
	listed := s.known.and(s.reading)
	if listed.Newest.IsZero() || s.isOtherKey() {
		return false
	}
	youngest := now.Sub(listed.Newest)
	if s.known.Expiries >= minExpiries {
		// What was listed a moment ago has not expired, however old it was, but for the
		// last rows of a list that becomes empty.
		return youngest >= s.known.Retention && (e.rows == 0 || now.Sub(s.known.LastSuccess) >= s.known.Retention/4)
	}
	return youngest >= min(listed.OldestAge+unseenExpiry, ledger.MaxAge)
}

// noteExpiry takes in from a run that rows at the old end of the list have
// expired: those beside them are about as old.
func (s *Syncer) noteExpiry(run ledger.Run) {
	n := len(run.Rows)
	if n == 0 || s.ledger.IsInitialSync() {
		return
	}
	var beside []ledger.Row
	last := s.ledger.Index(run.Rows[n-1].ID)
	switch {
	case run.AtEnd && !s.known.NewestLast && last >= 0 && last < s.ledger.Listed()-1:
		beside = run.Rows[max(n-overlap, 0):]
	case run.AtStart && s.known.NewestLast && s.ledger.Index(run.Rows[0].ID) > 0:
		beside = run.Rows[:min(overlap, n)]
	}
	// Rows that are deleted or moved may stand beside younger ones.
	if age := medianAge(beside, run.Read); age > 0 && age >= medianAge(run.Rows, run.Read) && age >= s.known.OldestAge/8 {
		s.known.Retention = age
		s.known.Expiries++
	}
}

// medianAge returns how old rows were when they were read, 0 if none has a time.
func medianAge(rows []ledger.Row, read time.Time) time.Duration {
	var ages []time.Duration
	for _, row := range rows {
		if at := startOf(row); !at.IsZero() && at.Before(read) {
			ages = append(ages, read.Sub(at))
		}
	}
	if len(ages) == 0 {
		return 0
	}
	slices.Sort(ages)
	return ages[len(ages)/2]
}

// startOf returns when a trace started, or else ended; zero if it has no times.
func startOf(row ledger.Row) time.Time {
	if row.Start.IsZero() {
		return row.End
	}
	return row.Start
}
