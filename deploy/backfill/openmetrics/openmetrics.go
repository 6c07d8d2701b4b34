// Package openmetrics writes samples as text.
package openmetrics

import (
	"io"
	"iter"

	"opper_exporter/deploy/backfill/history"
)

// Write writes the series in the OpenMetrics format, without native histograms, and returns how many samples.
func Write(w io.Writer, series iter.Seq[history.Series]) (samples uint64, err error) { return 0, nil }
