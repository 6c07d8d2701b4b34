// Package oracle knows the ground truth about the traces of an oppertest.Server:
// which of them an exporter must, may and must not have counted, and as what.
package oracle

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"opper_exporter/opper/oppertest"
)

// Sync is one read of the list by a running exporter that succeeded.
type Sync struct {
	Start, End time.Time
	Full       bool // a full scan, which also finds rows that were inserted behind the head
	// SureSince, if set, is when the exporter had last skipped rows: of those that
	// were listed by then, some may be missing.
	SureSince time.Time
}

// Rules say how the exporter under test was configured, and when it read the
// list. What happens at the instant in which a sync begins or ends is not taken
// to have been seen by it: step a fake clock between the two.
type Rules struct {
	Settle, Abandon  time.Duration
	Recheck          time.Duration // minimum time between two reads of an open trace
	Success, Failure []string      // lower-case; nil means success, ok, completed and error, failed, failure
	NoTokens         bool          // the exporter read v3

	// InitialSync is when the initial sync began, InitialSyncDone when it
	// ended; zero if there was none. For its traces their own times decide. A
	// server without a record counts as having served each trace for as long as
	// it was listed.
	InitialSync, InitialSyncDone time.Time
	Syncs                        []Sync // after the initial sync; leaving some out only demands less
	// Slack is how far the exporter's idea of when a row was read may be from
	// the server's: the longest sync, if it takes one time for all its rows.
	Slack time.Duration
	// Reread is how soon after a row can be read again (see Server.Heal) a sync
	// has to have read it, even if it was taken for unreadable.
	Reread time.Duration
}

// Version is what a trace may be counted as.
type Version struct {
	Name    string // "(unnamed)" if null or empty
	Outcome string // success, failure, unknown, abandoned
	Tokens  int64  // -1 if unknown
	// Micros is the duration in microseconds, 0 if it is unusable. Unusable
	// is "missing" or "negative". An abandoned trace has neither.
	Micros   int64
	Unusable string
}

// Verdict says whether a trace has to be counted by now, and as what.
type Verdict struct {
	Must     bool
	Versions []Version // any one of these, none twice; empty if it must not be counted yet
}

// Truth is the verdict on each trace that was ever listed, by id.
type Truth struct {
	Traces map[string]Verdict
}

// Counted is one trace as an exporter counted it.
type Counted struct {
	ID string
	Version
}

// NewTruth returns what must, may and must not have been counted by now.
//
// A trace must be counted if one sync could see its end, and another one that
// began a settle delay later could see it again; "could see" is: it stayed
// listed and unchanged throughout. The first of them must be Full if the
// trace took a place behind rows that had been served. It may be counted
// once it was served ended, and again a settle delay later; or was delisted
// after it was served ended. What it may be counted as is what was served
// from the settle delay on, until it had to be counted.
// If the server shuffles, or refuses deep offsets, a trace must be counted
// only if both syncs read it.
func NewTruth(s *oppertest.Server, r Rules) Truth {
	e := newEvaluator(s.Config(), r)
	t := Truth{Traces: map[string]Verdict{}}
	s.Lives(func(now int64, l oppertest.Life) {
		e.now = now
		t.Traces[l.ID] = e.verdict(l)
	})
	return t
}

const never = math.MinInt64

// Check compares what an exporter has counted so far: every trace at most
// once, all that must be and none that must not be there, each as a version
// that it may be counted as. The error tells the first ten offences.
func (t Truth) Check(counted []Counted) error {
	var wrong []error
	offend := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	seen := make(map[string]bool, len(counted))
	for _, c := range counted {
		v, listed := t.Traces[c.ID]
		if c.Name == "" {
			c.Name = "(unnamed)"
		}
		switch {
		case seen[c.ID]:
			offend("trace %s is counted twice", c.ID)
		case !listed:
			offend("trace %s is counted, but was never listed", c.ID)
		case v.Must && len(v.Versions) == 0:
			offend("trace %s is counted as %+v, but was not read again after it settled", c.ID, c.Version)
		case len(v.Versions) == 0:
			offend("trace %s is counted as %+v, but must not be yet", c.ID, c.Version)
		case !slices.Contains(v.Versions, c.Version):
			offend("trace %s is counted as %+v, but may only be one of %+v", c.ID, c.Version, v.Versions)
		}
		seen[c.ID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(t.Traces)) {
		if v := t.Traces[id]; v.Must && !seen[id] {
			offend("trace %s is not counted, but must be as one of %+v", id, v.Versions)
		}
	}
	if n := len(wrong); n > 10 {
		wrong = append(wrong[:10:10], fmt.Errorf("and %d more", n-10))
	}
	return errors.Join(wrong...)
}
