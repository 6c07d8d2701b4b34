package aggregate

import (
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/ledger"
)

// maxFailures is how many traces of those that failed or were abandoned are known.
const maxFailures = 20

// Failed is a trace that failed or was abandoned, counted by this process.
type Failed struct {
	Label       string // also where the trace is counted under Other
	TraceID     string // empty if it cannot be shown
	Outcome     Outcome
	Time        time.Time // its end, or the start of one without; zero if unknown
	Duration    time.Duration
	HasDuration bool
	Tokens      int64
	HasTokens   bool
}

// failures are the last ones, the latest first. They are not stored.
type failures []Failed

// Failures returns the last traces that failed or were abandoned, the latest first.
func (s *Set) Failures() []Failed { return slices.Clone(s.failures) }

// offer takes in a trace, if it is one of the last. A list may be read in either
// order, so their own times decide.
func (f *failures) offer(label string, outcome Outcome, c *ledger.Counted) {
	at := c.End
	if at.IsZero() {
		at = c.Start
	}
	if len(*f) == maxFailures {
		if !at.After((*f)[maxFailures-1].Time) {
			return
		}
		*f = (*f)[:maxFailures-1]
	}
	i := len(*f)
	for i > 0 && at.After((*f)[i-1].Time) {
		i--
	}
	// The texts may be parts of a page.
	*f = slices.Insert(*f, i, Failed{
		Label: strings.Clone(label), TraceID: strings.Clone(traceID(c)), Outcome: outcome, Time: at,
		Duration: c.Duration, HasDuration: c.HasDuration && c.Duration >= 0, Tokens: c.Row.Tokens, HasTokens: c.HasTokens,
	})
}
