// Package history has the samples that the exporter's series would have had in the past:
// from what the exporter exposes now, and the traces that it has counted. It does no I/O.
package history

import (
	"time"

	dto "github.com/prometheus/client_model/go"
)

// Event is a counted trace. There may be millions.
type Event struct {
	End      int64  // milliseconds since the epoch, rounded up; of an abandoned trace, when it was abandoned
	Duration int64  // microseconds; negative if it is in no duration histogram
	Tokens   int64  // negative if they are unknown
	Name     uint32 // index in Project.Names
	Outcome  uint8  // an aggregate.Outcome

	missing family    // in which it is not counted
	bucket  [2]uint8 // its classic buckets
}

type family uint8

// Project is what is known of a project.
type Project struct {
	Name   string
	Now    []*dto.MetricFamily // what the exporter exposes
	Names  []string            // values of the label trace_name
	Events []Event             // of New from then on, which sorts them by name and end
}

// Options say which samples a History has.
type Options struct {
	Step   time.Duration     // at most this far apart
	Labels map[string]string // that each series has beside those of the exposition
}
