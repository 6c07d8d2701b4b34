package aggregate

import (
	"time"

	"opper_exporter/collector/ledger"
)

// Outcome is the value of the label outcome.
type Outcome int

// The outcomes partition the traces.
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

// Aggregate holds the counters and histograms of one trace name.
type Aggregate struct {
	Label     string
	Created   time.Time // when all was 0
	LastEnd   time.Time // of a counted trace; zero if none
	ByOutcome [outcomes]Totals
	Tokens    Histogram // tokens of one trace, where known
	// Of the traces whose cost is final.
	InputTokens, OutputTokens int64
	Costs                     Histogram // in nanodollars
	// Changes grows with each change, so that what was built from the aggregate
	// is built again only then.
	Changes uint64

	// Since when the histograms count, if that is later than Created: other
	// buckets restart them.
	DurationsCreated, TokensCreated time.Time
	// Since when costs are counted; zero if they never were.
	CostsCreated time.Time

	// When the sync ended that last saw a trace of the name that was counted, listed, open
	// or not settled; zero during that sync, and as long as the latest trace is listed.
	idleSince time.Time
	latest    ledger.ID // the trace that ended last, which Opper lists longest
	latestAt  time.Time // when that was
	raws      []string  // the names that the label has had; of more than maxRaws, the first

	zeroPending part   // what is exposed at 0
	seen        int    // traces that the initial sync saw, for the ranking at its end
	saved       uint64 // Changes+1 when it was last stored
}

// part is a set of the series of a name.
type part uint8

const (
	counters part = 1 << iota
	durationHistograms
	tokenHistogram
	costSeries
	everything = counters | durationHistograms | tokenHistogram | costSeries
)

// Totals holds what is counted of one outcome.
type Totals struct {
	Traces    uint64
	Tokens    int64
	Durations Histogram // in microseconds; none of abandoned traces
	Cost      int64     // nanodollars, of the traces whose cost is final
}

// startBy makes Created no later than the start of a trace.
func (n *Aggregate) startBy(start time.Time) {
	if !start.IsZero() && (n.Created.IsZero() || start.Before(n.Created)) {
		n.Created = start
	}
}

// list notes that a trace of the name is listed.
func (n *Aggregate) list(r *ledger.Row) {
	at := r.End
	if at.IsZero() {
		at = r.Start
	}
	if n.Label != Other && !at.Before(n.latestAt) {
		n.latest, n.latestAt = r.ID, at
		n.Changes++
	}
}

// merge adds what the initial sync has counted, which is without costs.
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
		t.Tokens = AddSaturating(t.Tokens, add.Tokens)
		t.Durations.merge(&add.Durations)
	}
}

// ZeroPending is a set of series that are exposed at 0, whatever has been counted:
// Prometheus does not count the first value of a series as an increase, so a new one has
// to begin at 0. EndZero is called when every scraper has read the zeros.
type ZeroPending interface{ EndZero() }

// ZeroPending returns what is exposed at 0.
func (s *Set) ZeroPending() []ZeroPending {
	var out []ZeroPending
	for _, n := range s.names {
		if n.IsZeroPending() {
			out = append(out, n)
		}
	}
	for _, u := range s.unmapped {
		if u.zeroPending {
			out = append(out, u)
		}
	}
	return out
}

// IsZeroPending reports whether some of its series are exposed at 0.
func (n *Aggregate) IsZeroPending() bool { return n.zeroPending != 0 }

// EndZero implements ZeroPending.
func (n *Aggregate) EndZero() {
	if n.IsZeroPending() {
		n.zeroPending = 0
		n.idleSince = time.Time{} // the counts are to be read, too
		n.Changes++
	}
}

// Exposed returns the aggregate with zeros where they are pending.
func (n *Aggregate) Exposed() *Aggregate {
	if n.zeroPending&counters != 0 {
		return &Aggregate{
			Label: n.Label, Created: n.Created,
			DurationsCreated: n.DurationsCreated, TokensCreated: n.TokensCreated, CostsCreated: n.CostsCreated,
		}
	}
	exposed := *n
	if n.zeroPending&durationHistograms != 0 {
		for o := range exposed.ByOutcome {
			exposed.ByOutcome[o].Durations = Histogram{}
		}
	}
	if n.zeroPending&tokenHistogram != 0 {
		exposed.Tokens = Histogram{}
	}
	if n.zeroPending&costSeries != 0 {
		exposed.InputTokens, exposed.OutputTokens, exposed.Costs = 0, 0, Histogram{}
		for o := range exposed.ByOutcome {
			exposed.ByOutcome[o].Cost = 0
		}
	}
	return &exposed
}
