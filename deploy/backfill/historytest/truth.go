package historytest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"opper_exporter/collector/aggregate"
)

// Truth is what is to be true of one series.
type Truth struct {
	labels labels.Labels
	name   string
	traces []*Trace // of its name
	first  int64
	schema int32
}

// Truth returns what is to be true of a series, nil if there is to be none.
func (w *World) Truth(l labels.Labels) *Truth {
	tr := &Truth{labels: l, name: l.Get("__name__"), first: math.MaxInt64}
	for i := range w.Traces {
		if t := &w.Traces[i]; t.Project == l.Get("project") && aggregate.Label(t.Name) == l.Get("trace_name") {
			tr.traces = append(tr.traces, t)
			if t.Listed {
				tr.first = min(tr.first, t.EndMilli())
			}
		}
	}
	if tr.first == math.MaxInt64 {
		return nil
	}
	for _, f := range w.families(l.Get("project")) {
		for _, m := range f.Metric {
			same := f.GetName() == tr.name
			for _, p := range m.GetLabel() {
				same = same && l.Get(p.GetName()) == p.GetValue()
			}
			if same {
				tr.schema = m.GetHistogram().GetSchema()
			}
		}
	}
	return tr
}

// Times returns when the series is to have samples in [mint, maxt), with steps in
// milliseconds.
func (tr *Truth) Times(mint, maxt, step int64) []int64 {
	times := map[int64]bool{}
	note := func(t int64) {
		if t >= mint && t < maxt {
			times[t] = true
		}
	}
	note(tr.first - step)
	for t := mint; t < maxt; t++ {
		if t%step == 0 {
			if t >= tr.first-step {
				times[t] = true
			}
			t += step - 1
		}
	}
	for _, t := range tr.traces {
		if t.Listed {
			note(t.EndMilli())
		}
	}
	sorted := slices.Sorted(maps.Keys(times))
	if tr.name == "opper_trace_last_end_timestamp_seconds" {
		sorted = slices.DeleteFunc(sorted, func(t int64) bool { return tr.lastEnd(t) == 0 })
	}
	return sorted
}

// counted yields the traces that are counted at a time.
func (tr *Truth) counted(at int64) func(yield func(*Trace) bool) {
	outcome := tr.labels.Get("outcome")
	return func(yield func(*Trace) bool) {
		for _, t := range tr.traces {
			if (!t.Listed || t.EndMilli() <= at) && (outcome == "" || t.Outcome.String() == outcome) && !yield(t) {
				return
			}
		}
	}
}

// lastEnd is 0 before the first listed trace.
func (tr *Truth) lastEnd(at int64) float64 {
	last, now := int64(0), time.Time{}
	for _, t := range tr.traces {
		if t.Outcome == aggregate.Abandoned {
			continue
		}
		if t.Listed && t.EndMilli() <= at {
			last = max(last, t.EndMilli())
		}
		if t.End.After(now) {
			now = t.End
		}
	}
	return min(float64(last)/1e3, float64(now.UnixMicro())/1e6)
}

// Float is the value at a time.
func (tr *Truth) Float(at int64) float64 {
	count, sum := 0, int64(0)
	le, err := strconv.ParseFloat(tr.labels.Get("le"), 64)
	if err != nil {
		le = math.NaN()
	}
	switch tr.name {
	case "opper_trace_last_end_timestamp_seconds":
		return tr.lastEnd(at)
	case "opper_traces_total":
		for range tr.counted(at) {
			count++
		}
		return float64(count)
	}
	duration := strings.HasPrefix(tr.name, "opper_trace_duration_seconds")
	for t := range tr.counted(at) {
		amount, ok := t.amount(duration)
		if !ok {
			continue
		}
		sum += amount
		if value := tr.value(amount); !(value > le) {
			count++
		}
	}
	switch {
	case strings.HasSuffix(tr.name, "_bucket"), strings.HasSuffix(tr.name, "_count"):
		return float64(count)
	case duration:
		return float64(sum) / 1e6
	}
	return float64(sum)
}

func (tr *Truth) value(amount int64) float64 {
	if strings.HasPrefix(tr.name, "opper_trace_duration_seconds") {
		return float64(amount) / 1e6
	}
	return float64(amount)
}

func (t *Trace) amount(duration bool) (amount int64, ok bool) {
	if duration {
		return t.Duration.Microseconds(), t.HasDuration && t.Duration >= 0 && t.Outcome != aggregate.Abandoned
	}
	return t.Tokens, t.HasTokens
}

// Histogram returns an error unless that is the histogram at a time.
func (tr *Truth) Histogram(at int64, h *histogram.Histogram) error {
	if h.Schema != tr.schema || h.ZeroThreshold != aggregate.ZeroThreshold {
		return fmt.Errorf("schema %d and zero threshold %v, want %d and %v", h.Schema, h.ZeroThreshold, tr.schema, aggregate.ZeroThreshold)
	}
	want, got := map[int32]uint64{}, map[int32]uint64{}
	var sum int64
	var count, zero uint64
	duration := strings.HasPrefix(tr.name, "opper_trace_duration_seconds")
	for t := range tr.counted(at) {
		amount, ok := t.amount(duration)
		if !ok {
			continue
		}
		count++
		sum += amount
		if amount == 0 {
			zero++
			continue
		}
		// Only powers of two are on bounds of buckets, and their logarithms are exact.
		want[int32(math.Ceil(math.Log2(tr.value(amount))*math.Exp2(float64(tr.schema))))]++
	}
	for it := h.PositiveBucketIterator(); it.Next(); {
		if b := it.At(); b.Count > 0 {
			got[b.Index] = b.Count
		}
	}
	exposed := float64(sum)
	if duration {
		exposed /= 1e6
	}
	if h.Count != count || h.ZeroCount != zero || h.Sum != exposed || !maps.Equal(got, want) {
		return fmt.Errorf("count %d, zero %d, sum %v, buckets %v, want %d, %d, %v, %v", h.Count, h.ZeroCount, h.Sum, got, count, zero, exposed, want)
	}
	return h.Validate()
}
