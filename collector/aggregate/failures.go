package aggregate

import (
	"slices"
	"strings"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
)

// maxFailures is how many traces of those that failed or were abandoned are known.
const maxFailures = 20

// failures are the last traces that failed or were abandoned, the latest first. They
// are not stored.
type failures []status.Failure

// Failures returns the last traces that failed or were abandoned and that this process
// has counted, the latest first.
func (s *Set) Failures() []status.Failure { return slices.Clone(s.failures) }

// offer takes in a trace, if it is one of the last. A list may be read in either
// order, so their own times decide. The label is that of the name, also where the trace
// is counted under Other.
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
	*f = slices.Insert(*f, i, status.Failure{
		Name: strings.Clone(label), ID: strings.Clone(traceID(c)), Outcome: outcome.String(), Time: at,
		Duration: c.Duration, HasDuration: c.HasDuration && c.Duration >= 0, Tokens: c.Row.Tokens, HasTokens: c.HasTokens,
	})
}
