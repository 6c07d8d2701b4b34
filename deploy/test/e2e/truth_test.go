package e2e_test

import (
	"fmt"
	"time"

	"opper_exporter/deploy/test/exportertest"
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

// bounds returns between which values the series of the traces must be. They are
// the same where a trace may have been counted as one thing only.
func bounds(truth oracle.Truth) (least, most exportertest.Series) {
	least, most = exportertest.Series{}, exportertest.Series{}
	for _, verdict := range truth.Traces {
		low, high, in := exportertest.Series{}, exportertest.Series{}, map[string]int{}
		for _, v := range verdict.Versions {
			for key, add := range worth(v) {
				if in[key]++; in[key] == 1 {
					low[key] = add
				}
				low[key], high[key] = min(low[key], add), max(high[key], add)
			}
		}
		for key, n := range in {
			if verdict.Must && n == len(verdict.Versions) {
				least[key] += low[key]
			}
			most[key] += high[key]
		}
	}
	return least, most
}

// worth returns what one trace adds to the series.
func worth(v oracle.Version) exportertest.Series {
	add := exportertest.Series{}
	outcome := fmt.Sprintf(`outcome=%q,project="default",trace_name=%q`, v.Outcome, v.Name)
	histogram := func(metric, labels string, value float64, bounds []float64) {
		add[metric+"_count{"+labels+"}"], add[metric+"_sum{"+labels+"}"] = 1, value
		for _, b := range bounds {
			if value <= b {
				add[fmt.Sprintf(`%s_bucket{%s,le="%v"}`, metric, labels, b)] = 1
			}
		}
	}
	add["opper_traces_total{"+outcome+"}"] = 1
	if v.Tokens >= 0 {
		add["opper_trace_tokens_total{"+outcome+"}"] = float64(v.Tokens)
		histogram("opper_tokens_per_trace", fmt.Sprintf(`project="default",trace_name=%q`, v.Name), float64(v.Tokens), tokenBounds)
	}
	if v.Unusable == "" && v.Outcome != "abandoned" {
		histogram("opper_trace_duration_seconds", outcome, float64(v.Micros)/1e6, durationBounds)
	}
	return add
}
