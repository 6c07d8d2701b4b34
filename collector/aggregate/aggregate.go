package aggregate

import (
	"time"
)

// Outcome is what became of a trace.
type Outcome int

// The outcomes partition the traces. Abandoned traces have no end, so no
// duration.
const (
	Success Outcome = iota
	Failure
	Unknown
	Abandoned
	outcomes
)

// Outcomes are all the outcomes, in the order in which they are exposed.
var Outcomes = [outcomes]Outcome{Success, Failure, Unknown, Abandoned}

// String returns the value of the label outcome.
func (o Outcome) String() string {
	return [outcomes]string{"success", "failure", "unknown", "abandoned"}[o]
}

// Aggregate holds the sums of one trace name.
type Aggregate struct {
	Label     string
	Created   time.Time // when the sums were 0
	LastEnd   time.Time // of a counted trace; zero if none
	ByOutcome [outcomes]Totals
	Tokens    Histogram // tokens of one trace, where known
	// Changes grows with each change of the sums, so that what was built from
	// them need not be built again.
	Changes uint64

	// Since when the histograms count, if that is later than Created: they
	// began again when their bounds were changed.
	DurationsCreated, TokensCreated time.Time

	zeroPending part   // what is shown at 0 until it is released
	seen        int    // traces seen by the baseline, for the ranking at its end
	saved       uint64 // Changes+1 when it was last stored
}

// part is a set of the series of a name.
type part uint8

const (
	counters part = 1 << iota
	durationHistograms
	tokenHistogram
	everything = counters | durationHistograms | tokenHistogram
)

// Totals holds the sums of one outcome.
type Totals struct {
	Traces    uint64
	Tokens    int64
	Durations Histogram // in microseconds; none of abandoned traces
}

// startBy makes sure that the sums were 0 when a trace started.
func (n *Aggregate) startBy(start time.Time) {
	if !start.IsZero() && (n.Created.IsZero() || start.Before(n.Created)) {
		n.Created = start
	}
}

func (n *Aggregate) merge(from *Aggregate) {
	n.Changes++
	if from.Created.Before(n.Created) {
		n.Created = from.Created
	}
	if from.LastEnd.After(n.LastEnd) {
		n.LastEnd = from.LastEnd
	}
	n.Tokens.merge(&from.Tokens)
	for o := range n.ByOutcome {
		t, add := &n.ByOutcome[o], &from.ByOutcome[o]
		t.Traces += add.Traces
		t.Tokens = addSaturating(t.Tokens, add.Tokens)
		t.Durations.merge(&add.Durations)
	}
}

// IsZeroPending reports whether some of the sums are to be shown at 0, whatever has been
// counted: a server takes the first value of a series that it sees for history,
// so that must be 0 where it is none.
func (n *Aggregate) IsZeroPending() bool { return n.zeroPending != 0 }

// EndZero ends that: the zeros have been read.
func (n *Aggregate) EndZero() {
	if n.IsZeroPending() {
		n.zeroPending = 0
		n.Changes++
	}
}

// Exposed returns the sums as they are to be shown.
func (n *Aggregate) Exposed() *Aggregate {
	if n.zeroPending&counters != 0 {
		return &Aggregate{Label: n.Label, Created: n.Created, DurationsCreated: n.DurationsCreated, TokensCreated: n.TokensCreated}
	}
	shown := *n
	if n.zeroPending&durationHistograms != 0 {
		for o := range shown.ByOutcome {
			shown.ByOutcome[o].Durations = Histogram{}
		}
	}
	if n.zeroPending&tokenHistogram != 0 {
		shown.Tokens = Histogram{}
	}
	return &shown
}
