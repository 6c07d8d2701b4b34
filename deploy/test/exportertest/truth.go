package exportertest

import (
	"fmt"
	"iter"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper/oppertest/oracle"
)

// The default buckets.
var (
	DurationBuckets = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	TokenBuckets    = []float64{16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}
)

// Rounding is what sums of seconds may be off by, relatively: they are floats.
const Rounding = 1e-9

// Bounds returns the minimum and the maximum of each series of the traces. They
// are the same where a trace may have been counted as one thing only.
func Bounds(truth oracle.Truth) (lower, upper Series) {
	lower, upper = Series{}, Series{}
	keys := keysOf{}
	for _, verdict := range truth.Traces {
		if len(verdict.Versions) == 1 { // most of them: the maps would take most of the time
			for key, add := range keys.increments(verdict.Versions[0]) {
				if verdict.Must {
					lower[key] += add
				}
				upper[key] += add
			}
			continue
		}
		low, high, in := Series{}, Series{}, map[string]int{}
		for _, v := range verdict.Versions {
			for key, add := range keys.increments(v) {
				if in[key]++; in[key] == 1 {
					low[key] = add
				}
				low[key], high[key] = min(low[key], add), max(high[key], add)
			}
		}
		for key, n := range in {
			if verdict.Must && n == len(verdict.Versions) {
				lower[key] += low[key]
			}
			upper[key] += high[key]
		}
	}
	return lower, upper
}

// keysOf holds the keys of the series by name and outcome, as it takes long to
// write them.
type keysOf map[[2]string]*traceKeys

type traceKeys struct {
	traces, tokens             string
	durations, tokensHistogram histogramKeys
}

type histogramKeys struct {
	count, sum string
	bounds     []float64
	buckets    []string
}

func newHistogramKeys(metric, labels string, bounds []float64) histogramKeys {
	h := histogramKeys{count: metric + "_count{" + labels + "}", sum: metric + "_sum{" + labels + "}", bounds: bounds}
	for _, b := range bounds {
		h.buckets = append(h.buckets, fmt.Sprintf(`%s_bucket{%s,le="%v"}`, metric, labels, b))
	}
	return h
}

// add yields what a value adds to a histogram.
func (h *histogramKeys) add(value float64, yield func(string, float64) bool) bool {
	if !yield(h.count, 1) || !yield(h.sum, value) {
		return false
	}
	for i, b := range h.bounds {
		if value <= b && !yield(h.buckets[i], 1) {
			return false
		}
	}
	return true
}

func (k keysOf) of(name, outcome string) *traceKeys {
	id := [2]string{name, outcome}
	if k[id] == nil {
		label := name
		if name != aggregate.Unnamed { // there is no real name like it
			label = aggregate.Label(name)
		}
		both := fmt.Sprintf(`outcome=%q,project="default",trace_name=%q`, outcome, label)
		k[id] = &traceKeys{
			traces: "opper_traces_total{" + both + "}", tokens: "opper_trace_tokens_total{" + both + "}",
			durations:       newHistogramKeys("opper_trace_duration_seconds", both, DurationBuckets),
			tokensHistogram: newHistogramKeys("opper_tokens_per_trace", fmt.Sprintf(`project="default",trace_name=%q`, label), TokenBuckets),
		}
	}
	return k[id]
}

// increments yields what one trace adds to the series.
func (k keysOf) increments(v oracle.Version) iter.Seq2[string, float64] {
	keys := k.of(v.Name, v.Outcome)
	return func(yield func(string, float64) bool) {
		if !yield(keys.traces, 1) {
			return
		}
		if v.Tokens >= 0 && (!yield(keys.tokens, float64(v.Tokens)) || !keys.tokensHistogram.add(float64(v.Tokens), yield)) {
			return
		}
		if v.Unusable == "" && v.Outcome != "abandoned" {
			keys.durations.add(float64(v.Micros)/1e6, yield)
		}
	}
}
