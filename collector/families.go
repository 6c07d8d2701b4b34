package collector

import "github.com/prometheus/client_golang/prometheus"

// The metric families of the traces. Dashboards and alerts are written against
// them, so names and labels are part of the project's contract.
var (
	tracesTotal = newDesc("opper_traces_total",
		"Settled traces, each counted once, by the outcome that their status maps to. From a background sync of Opper's trace list (id, name, status, end_time).",
		"trace_name", "outcome")
	traceDuration = newDesc("opper_trace_duration_seconds",
		"Durations of settled traces. From a background sync of Opper's trace list (duration_ms, or end_time - start_time).",
		"trace_name", "outcome")
	traceTokens = newDesc("opper_trace_tokens_total",
		"Tokens of settled traces. From a background sync of Opper's trace list (total_tokens).",
		"trace_name", "outcome")
	tokensPerTrace = newDesc("opper_tokens_per_trace",
		"Tokens of each settled trace whose tokens are known. From a background sync of Opper's trace list (total_tokens).",
		"trace_name")
	traceCost = newDesc("opper_trace_cost_usd_total",
		"Cost of settled traces in US dollars, once it is final. From Opper's usage (cost, grouped by trace_uuid) and Opper's trace list (id, name, status).",
		"trace_name", "outcome")
	costPerTrace = newDesc("opper_cost_usd_per_trace",
		"Cost of each settled trace in US dollars, once it is final. From Opper's usage (cost, grouped by trace_uuid) and Opper's trace list (id, name).",
		"trace_name")
	traceModelTokens = newDesc("opper_trace_model_tokens_total",
		"Input and output tokens of settled traces whose cost is final. From Opper's usage (prompt_tokens, completion_tokens, grouped by trace_uuid) and Opper's trace list (id, name).",
		"trace_name", "token_type")
	tracesOpen = newDesc("opper_traces_open",
		"Listed traces that have neither ended nor been abandoned, at the last sync of Opper's trace list (end_time is null).",
		"trace_name")
	traceLastEnd = newDesc("opper_trace_last_end_timestamp_seconds",
		"Latest end of a settled trace in seconds since the epoch. From a background sync of Opper's trace list (end_time).",
		"trace_name")
	tracesListed = newDesc("opper_traces_listed",
		"Traces that Opper listed at the last sync (meta.total_count). Goes down when traces expire.")
)

// The metric families about traces that could not be counted as they should be.
var (
	gapsTotal = newDesc("opper_exporter_gaps_total",
		"Number of times traces may have been missed: rows or pages that Opper could not return, or a total_count that full scans of the list do not explain.")
	skippedTotal = newDesc("opper_exporter_traces_skipped_total",
		"Traces that are never counted: no_id (the row has no id), vanished_open (delisted before end_time was set).",
		"reason")
	unusableTotal = newDesc("opper_exporter_durations_unusable_total",
		"Traces that are counted, but not in opper_trace_duration_seconds: missing (no duration_ms, and not both times), negative (end_time before start_time).",
		"reason")
	lateEndsTotal = newDesc("opper_exporter_late_ends_total",
		"Traces counted as abandoned for which an end_time was seen later.")
	costsUnknownTotal = newDesc("opper_exporter_trace_costs_unknown_total",
		"Traces that are counted, but not in opper_cost_usd_per_trace: the initial sync counted them, or no final cost arrived within 15 minutes (usage grouped by trace_uuid).")
	unmappedTotal = newDesc("opper_exporter_unmapped_status_total",
		"Settled traces with a status that is neither in the success nor in the failure list. The first 10 such statuses have series of their own, others count as (other).",
		"status")
	traceNames = newDesc("opper_exporter_trace_names",
		"Distinct trace names seen (name), including those counted under the overflow name, but not those that have expired or were removed as excluded; an estimate from 10000 on, which includes them.")
	namesExpiredTotal = newDesc("opper_exporter_trace_names_expired_total",
		"Trace names whose series were removed because none of their traces was counted, listed or open for --collector.trace-name-expiry.")
	traceNamesLimit = newDesc("opper_exporter_trace_names_limit",
		"Maximum number of trace names with series of their own: --collector.max-trace-names.")
	namesZeroPending = newDesc("opper_exporter_trace_names_zero_pending",
		"Trace names whose series are exposed at 0 until every scraper has read the zeros, for 10 minutes at most; then the counts follow.")
	overflowTotal = newDesc("opper_exporter_overflow_traces_total",
		"Traces counted as (other), because --collector.max-trace-names was reached.")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"project"}, labels...), nil)
}
