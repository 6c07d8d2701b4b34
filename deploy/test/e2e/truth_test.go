package e2e_test

import (
	"time"

	"opper_exporter/opper/oppertest/oracle"
)

// syncs makes, from the ends of syncs that were published, spans of time in each
// of which at least two whole syncs ran.
func syncs(ends []time.Time) []oracle.Sync {
	var out []oracle.Sync
	for i := 3; i < len(ends); i += 3 {
		// What is published is cut to the millisecond.
		out = append(out, oracle.Sync{Start: ends[i-3], End: ends[i].Add(time.Millisecond)})
	}
	return out
}
