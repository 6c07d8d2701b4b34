// Package opper reads the trace list of Opper (https://opper.ai) over HTTP. It
// knows nothing of Prometheus.
package opper

import "time"

// Trace is one row of the trace list, v2 or v3. Only the id is certain to be
// there. The bodies of a trace (input and output) are customers' private
// content: they are skipped while decoding, and no type here can hold them.
type Trace struct {
	ID        string        // as Opper writes it, usually a UUID; empty if the row has none
	Name      string        // empty if null or absent
	Status    string        // a free string
	HasStatus bool          // false if the status is null or absent
	Start     time.Time     // UTC, set by the client; zero if null, absent or unreadable
	End       time.Time     // UTC, set by the client; zero while the trace runs
	Duration  time.Duration // from duration_ms, or else End - Start; may be negative
	// HasDuration is false if there is neither a duration nor both times, or
	// if the duration does not fit into a time.Duration.
	HasDuration bool
	Tokens      int64
	HasTokens   bool // false if null, absent or not a number from 0 to 2^53
}

// Page is one answer to a listing.
type Page struct {
	Traces []Trace // in the order of the list
	Total  int     // meta.total_count; -1 if it is missing
}

// PageSize is the maximum number of rows of one page.
const PageSize = 100
