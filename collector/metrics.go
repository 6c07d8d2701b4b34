package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
)

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
	unmappedTotal = newDesc("opper_exporter_unmapped_status_total",
		"Settled traces with a status that is neither in the success nor in the failure list. The first 10 such statuses have series of their own, others count as (other).",
		"status")
	traceNames = newDesc("opper_exporter_trace_names",
		"Distinct trace names seen (name), including those counted under the overflow name, but not those that have expired or were removed as excluded; an estimate from 10000 on, which includes them.")
	namesExpiredTotal = newDesc("opper_exporter_trace_names_expired_total",
		"Trace names whose series were removed because none of their traces was counted, open or settling for --collector.trace-name-expiry.")
	traceNamesLimit = newDesc("opper_exporter_trace_names_limit",
		"Maximum number of trace names with series of their own: --collector.max-trace-names.")
	namesZeroPending = newDesc("opper_exporter_trace_names_zero_pending",
		"Trace names whose series are exposed at 0 until every scraper has read the zeros, for 10 minutes at most; then the counts follow.")
	overflowTotal = newDesc("opper_exporter_overflow_traces_total",
		"Traces counted as (other), because --collector.max-trace-names was reached.")
)

var descs = []*prometheus.Desc{
	tracesTotal, traceDuration, traceTokens, tokensPerTrace, tracesOpen, traceLastEnd, tracesListed,
	gapsTotal, skippedTotal, unusableTotal, lateEndsTotal, unmappedTotal, traceNames, namesExpiredTotal, traceNamesLimit, namesZeroPending, overflowTotal,
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"project"}, labels...), nil)
}

func newGauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func newCounter(desc *prometheus.Desc, value float64, created time.Time, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, value, created, labels...)
}

// scale says which buckets of a histogram are exposed, and in which unit.
type scale struct {
	bounds          []float64
	perOne          float64 // units of the sum in one of the values that the buckets count
	classic, native bool
}

// renderedMetric is a metric that is encoded when its snapshot is built, so that a
// scrape only hands it out.
type renderedMetric struct {
	desc *prometheus.Desc
	dto  *dto.Metric
}

// Desc implements prometheus.Metric.
func (m *renderedMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *renderedMetric) Write(out *dto.Metric) error {
	out.Label, out.Histogram = m.dto.Label, m.dto.Histogram
	return nil
}

// newHistogram returns a histogram with classic and native buckets. There is no
// constructor for both in one, so the classic buckets of one are put into the
// other.
func newHistogram(desc *prometheus.Desc, h *aggregate.Histogram, sc *scale, created time.Time, labels ...string) prometheus.Metric {
	sum := float64(h.Sum) / sc.perOne
	var bounds map[float64]uint64
	var exemplars []prometheus.Exemplar
	if sc.classic {
		bounds = make(map[float64]uint64, len(sc.bounds))
		var count uint64
		for i, bound := range sc.bounds {
			if h.Count > 0 {
				count += h.Classic[i]
			}
			bounds[bound] = count
		}
		for _, e := range h.Exemplars {
			exemplars = addExemplar(exemplars, e)
		}
	}
	classic, err := encode(prometheus.MustNewConstHistogramWithCreatedTimestamp(desc, h.Count, sum, bounds, created, labels...), exemplars)
	if err != nil || !sc.native {
		return metricOr(desc, classic, err)
	}
	buckets := make(map[int]int64, len(h.Positive))
	for _, b := range h.Positive {
		buckets[int(b.Key)] = int64(b.Count)
	}
	n, err := prometheus.NewConstNativeHistogram(desc, h.Count, sum, buckets, nil, h.Zero, h.Schema(), aggregate.ZeroThreshold, created, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	// A server drops exemplars that are not newer than all that it has of a series.
	native, err := encode(n, addExemplar(nil, h.Latest()))
	if err == nil {
		native.Histogram.Bucket = classic.Histogram.Bucket
	}
	return metricOr(desc, native, err)
}

func metricOr(desc *prometheus.Desc, m *dto.Metric, err error) prometheus.Metric {
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return &renderedMetric{desc: desc, dto: m}
}

func encode(m prometheus.Metric, exemplars []prometheus.Exemplar) (*dto.Metric, error) {
	if len(exemplars) > 0 {
		var err error
		if m, err = prometheus.NewMetricWithExemplars(m, exemplars...); err != nil {
			return nil, err
		}
	}
	out := new(dto.Metric)
	return out, m.Write(out)
}

func addExemplar(to []prometheus.Exemplar, e aggregate.Exemplar) []prometheus.Exemplar {
	if e.TraceID == "" {
		return to
	}
	return append(to, prometheus.Exemplar{Value: e.Value, Labels: prometheus.Labels{"trace_id": e.TraceID}, Timestamp: e.Time})
}
