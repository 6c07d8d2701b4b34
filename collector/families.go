package collector

import "math"

var inf = math.Inf(1)

// The metrics of the traces. What they mean is part of the project's contract:
// dashboards and alerts are written against it.
var (
	tracesTotal = newFamily("opper_traces_total",
		"Settled traces, each counted once, by the outcome that their status maps to. From a background sync of Opper's trace list (id, name, status, end_time).",
		"trace_name", "outcome")
	traceDuration = newFamily("opper_trace_duration_seconds",
		"Durations of settled traces. From a background sync of Opper's trace list (duration_ms, or end_time - start_time).",
		"trace_name", "outcome")
	traceTokens = newFamily("opper_trace_tokens_total",
		"Tokens of settled traces. From a background sync of Opper's trace list (total_tokens).",
		"trace_name", "outcome")
	tokensPerTrace = newFamily("opper_tokens_per_trace",
		"Tokens of each settled trace whose tokens are known. From a background sync of Opper's trace list (total_tokens).",
		"trace_name")
	tracesOpen = newFamily("opper_traces_open",
		"Traces that are listed, have not ended and have not been given up, at the last sync of Opper's trace list (end_time is null).",
		"trace_name")
	traceLastEnd = newFamily("opper_trace_last_end_timestamp_seconds",
		"Latest end of a settled trace in seconds since the epoch. From a background sync of Opper's trace list (end_time).",
		"trace_name")
	tracesListed = newFamily("opper_traces_listed",
		"Traces that Opper listed at the last sync (meta.total_count). Goes down when traces expire.")
)

// The metrics about what could not be counted as it should be.
var (
	gapsTotal = newFamily("opper_exporter_gaps_total",
		"Times that traces may have been missed: rows or pages that Opper could not give, or a total_count that complete walks of the list do not explain.")
	skippedTotal = newFamily("opper_exporter_traces_skipped_total",
		"Traces that are never counted: no_id (the row has no id), vanished_open (gone from the list before end_time was set).",
		"reason")
	unusableTotal = newFamily("opper_exporter_durations_unusable_total",
		"Traces that are counted, but not in opper_trace_duration_seconds: missing (no duration_ms, and not both times), negative (end_time before start_time).",
		"reason")
	lateEndsTotal = newFamily("opper_exporter_late_ends_total",
		"Traces counted as abandoned for which an end_time was seen later.")
	unmappedTotal = newFamily("opper_exporter_unmapped_status_total",
		"Settled traces with a status that is neither in the success nor in the failure list.")
	traceNames = newFamily("opper_exporter_trace_names",
		"Different trace names met (name), also those counted under the overflow name; above 10000 an estimate.")
	namesHeld = newFamily("opper_exporter_trace_names_held",
		"Trace names whose series are shown at 0 until everybody who scrapes has read them so, for 10 minutes at most; then what has been counted follows.")
	overflowTotal = newFamily("opper_exporter_overflow_traces_total",
		"Traces counted under the overflow name, because there were too many names.")
)

var families = []*family{
	tracesTotal, traceDuration, traceTokens, tokensPerTrace, tracesOpen, traceLastEnd, tracesListed,
	gapsTotal, skippedTotal, unusableTotal, lateEndsTotal, unmappedTotal, traceNames, namesHeld, overflowTotal,
}
