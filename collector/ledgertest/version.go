// Package ledgertest says what a ledger counts in the words of the ground truth.
package ledgertest

import (
	"strings"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest/oracle"
)

// Version returns what an exporter with the default statuses makes of a counted
// trace.
func Version(c ledger.Counted) oracle.Counted {
	v := oracle.Counted{ID: c.Ref}
	if v.ID == "" {
		v.ID = c.ID.String()
	}
	v.Name, v.Tokens, v.Outcome = c.Name, -1, "unknown"
	if v.Name == "" {
		v.Name = "(unnamed)"
	}
	if c.HasTokens {
		v.Tokens = c.Tokens
	}
	if c.Abandoned {
		v.Outcome = "abandoned"
		return v
	}
	switch strings.ToLower(c.Status) {
	case "success", "ok", "completed":
		v.Outcome = "success"
	case "error", "failed", "failure":
		v.Outcome = "failure"
	}
	switch {
	case !c.HasDuration:
		v.Unusable = "missing"
	case c.Duration < 0:
		v.Unusable = "negative"
	default:
		v.Micros = c.Duration.Microseconds()
	}
	return v
}
