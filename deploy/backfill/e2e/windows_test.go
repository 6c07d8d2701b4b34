package e2e_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
)

// step is between two samples of the history, and grid where they are.
const step = time.Minute

// window is a span of time, in milliseconds.
type window struct {
	from, to int64
	// isAligned is set if there is a sample at both of its ends: an increase over it
	// has nothing to extrapolate.
	isAligned bool
}

func (w window) String() string {
	return fmt.Sprintf("%v before %v", time.Duration(w.to-w.from)*time.Millisecond, time.UnixMilli(w.to).UTC())
}

// windows returns n windows: of 10 minutes, of most of the history, of any length, and across the
// end of the history, which end at now. The history is between begin and end. Lengths
// are of any order of magnitude: otherwise most were weeks, in which a sample too many
// is hard to see, and of which the server reads every sample.
func windows(n int, begin, end, now time.Time) (all []window) {
	between := func(from, to time.Time) int64 {
		return from.UnixMilli() + rand.Int64N(to.UnixMilli()-from.UnixMilli())
	}
	length := func(from, to time.Duration) time.Duration {
		return time.Duration(float64(from) * math.Pow(float64(to)/float64(from), rand.Float64()))
	}
	within := func(length time.Duration) window {
		from := between(begin, end.Add(-length-step))
		return window{from: from, to: from + length.Milliseconds()}
	}
	for i := range n {
		var w window
		switch i % 8 { // the first five are aligned
		case 0, 4:
			w = within(10 * step)
		case 1:
			w = within(end.Sub(begin) * 2 / 3)
		case 2, 5, 6:
			w = within(length(10*step, end.Sub(begin)-2*step))
		case 3, 7:
			// An increase over less than hours says more of the last scrape than of the history.
			w = window{from: end.Add(-length(2*time.Hour, end.Sub(begin))).UnixMilli(), to: now.UnixMilli()}
		}
		if w.isAligned = i%8 < 5; w.isAligned {
			w.from -= w.from % step.Milliseconds()
			if w.to < end.UnixMilli() {
				w.to -= w.to % step.Milliseconds()
			}
		}
		all = append(all, w)
	}
	return all
}

// check compares what the server says of some windows with the truth.
func (w *world) check(t *testing.T, all []window) error {
	t.Helper()
	var wrong []error
	for _, window := range all {
		for _, c := range counters {
			wrong = append(wrong, w.checkRaw(t, c, c.expr, window), w.checkIncrease(t, c, c.expr, window))
		}
		wrong = append(wrong, w.checkRaw(t, native, "histogram_count("+native.expr+"%s)", window))
		if window.isAligned {
			name := w.truth.names[rand.IntN(len(w.truth.names))]
			wrong = append(wrong, w.checkQuantiles(t, name, window))
		}
		if err := errors.Join(wrong...); err != nil {
			return fmt.Errorf("window of %v: %w", window, err)
		}
	}
	return nil
}

// query asks the server at a time, in milliseconds.
func (w *world) query(t *testing.T, promql string, at int64) model.Vector {
	t.Helper()
	v, err := w.Query(t.Context(), promql, time.UnixMilli(at))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// checkRaw compares the last sample of a window with the one at or before its start.
func (w *world) checkRaw(t *testing.T, c counter, expr string, window window) error {
	t.Helper()
	// A query over the range would read all that is between the two.
	found := map[key]float64{}
	for _, sample := range w.query(t, withJob(expr), window.to) {
		found[keyOf(sample.Metric)] = float64(sample.Value)
	}
	for _, sample := range w.query(t, withJob(expr), window.from) {
		k := keyOf(sample.Metric)
		if _, ok := found[k]; !ok {
			return fmt.Errorf("%v has no sample at its end", sample.Metric)
		}
		found[k] -= float64(sample.Value)
	}
	return w.compare(c, found, window, func(k key) (lower, upper float64) {
		v := c.sum(w.truth.between(k, window.from, window.to))
		return v, v
	})
}

// checkIncrease allows what extrapolation may add, and no more.
func (w *world) checkIncrease(t *testing.T, c counter, expr string, window window) error {
	t.Helper()
	query := window
	if window.isAligned {
		query.from-- // a range leaves out its start
	}
	width := float64(query.to - query.from)
	found := map[key]float64{}
	for _, sample := range w.query(t, fmt.Sprintf("increase(%s[%.0fms])", withJob(expr), width), query.to) {
		found[keyOf(sample.Metric)] = float64(sample.Value)
	}
	return w.compare(c, found, window, func(k key) (lower, upper float64) {
		whole := c.sum(w.truth.between(k, window.from, window.to))
		if window.isAligned {
			// The last live sample is a little before the end.
			return whole * (1 - 1e-9), whole * (1 + 1e-3)
		}
		edge := step.Milliseconds()
		// A name that begins in the window has its samples in the rest of it.
		rest := float64(window.to - max(window.from, w.truth.first(k.name)-2*edge) - 2*edge)
		lower = c.sum(w.truth.between(k, window.from+edge, window.to-edge))
		if rest <= 0 {
			return lower, math.Inf(1)
		}
		return lower * (1 - 1e-9), whole * (1 + 2*float64(edge)/rest + 1e-3)
	})
}

// compare wants every series of every name that has begun.
func (w *world) compare(c counter, found map[key]float64, window window, bounds func(key) (lower, upper float64)) error {
	for _, name := range w.truth.names {
		if w.truth.first(name) >= window.to-step.Milliseconds() {
			continue // it may have one sample or none
		}
		for _, outcome := range outcomes {
			if !c.has(outcome) {
				continue
			}
			k := key{name, outcome}
			got, ok := found[k]
			if lower, upper := bounds(k); !ok || !(lower <= got && got <= upper) {
				return fmt.Errorf("%s of %v is %v (%v), want %v to %v", c.expr, k, got, ok, lower, upper)
			}
		}
	}
	return nil
}

// checkQuantiles wants the quantiles of each kind of histogram in the bucket in which
// the true ones are.
func (w *world) checkQuantiles(t *testing.T, name string, window window) error {
	t.Helper()
	durations := w.truth.durations(name, window.from, window.to)
	if len(durations) == 0 {
		return nil
	}
	increase := func(metric string) string {
		return fmt.Sprintf("increase(%s{job=\"opper\",trace_name=%q}[%dms])", metric, name, window.to-window.from+1)
	}
	summed := fmt.Sprintf("sum(%s)", increase(native.expr))
	v := w.query(t, summed, window.to)
	if len(v) != 1 || v[0].Histogram == nil {
		return fmt.Errorf("%s is %v, want a histogram", summed, v)
	}
	for _, q := range []float64{0.5, 0.95} {
		// Where the rank is a whole number it is on the border of two durations.
		rank := q * float64(len(durations))
		lowest := durations[max(0, int(math.Ceil(rank-1e-6))-1)]
		highest := durations[min(len(durations), int(math.Floor(rank+1e-6))+1)-1]
		for kind, within := range map[string]struct {
			expr   string
			bounds func(lowest, highest float64) (lower, upper float64)
		}{
			"classic": {fmt.Sprintf("sum by (le) (%s)", increase(native.expr+"_bucket")), classicBounds},
			"native": {summed, func(lowest, highest float64) (lower, upper float64) {
				return nativeBounds(v[0].Histogram, lowest, highest)
			}},
		} {
			lower, upper := within.bounds(lowest, highest)
			got := w.query(t, fmt.Sprintf("histogram_quantile(%v, %s)", q, within.expr), window.to)
			if len(got) != 1 || !(lower <= float64(got[0].Value) && float64(got[0].Value) <= upper) {
				return fmt.Errorf("%s p%v of %s is %v, want %v to %v: of %d durations it is %v to %v", kind, 100*q, name, got, lower, upper, len(durations), lowest, highest)
			}
		}
	}
	return nil
}

// classicBounds returns those of the buckets that two durations are in.
func classicBounds(lowest, highest float64) (lower, upper float64) {
	bucket := func(v float64) (lower, upper float64) {
		for _, upper = range exportertest.DurationBuckets {
			if v <= upper {
				return lower, upper
			}
			lower = upper
		}
		return lower, upper // a quantile is never above the last bound
	}
	lower, _ = bucket(lowest)
	_, upper = bucket(highest)
	return lower, upper
}

func nativeBounds(h *model.SampleHistogram, lowest, highest float64) (lower, upper float64) {
	lower, upper = math.Inf(1), math.Inf(-1)
	for _, b := range h.Buckets {
		for _, d := range []float64{lowest, highest} {
			if float64(b.Lower) <= d && d <= float64(b.Upper) {
				lower, upper = min(lower, float64(b.Lower)), max(upper, float64(b.Upper))
			}
		}
	}
	return lower, upper
}

// Series that a server has of histograms in either form, and of all others.
var (
	nativeSeries  = []string{"opper_trace_duration_seconds", "opper_tokens_per_trace"}
	classicSeries = []string{
		"opper_traces_total", "opper_trace_tokens_total",
		"opper_trace_duration_seconds_count", "opper_trace_duration_seconds_sum", "opper_trace_duration_seconds_bucket",
		"opper_tokens_per_trace_count", "opper_tokens_per_trace_sum", "opper_tokens_per_trace_bucket",
		"opper_trace_last_end_timestamp_seconds",
	}
)

// checkResets wants none, in any of the series.
func (w *world) checkResets(t *testing.T) error {
	t.Helper()
	return w.checkResetsOf(t, "opper", slices.Concat(nativeSeries, classicSeries))
}

func (w *world) checkResetsOf(t *testing.T, job string, series []string) error {
	t.Helper()
	for _, name := range series {
		v, err := w.Query(t.Context(), fmt.Sprintf("sum(resets(%s{job=%q}[32d]))", name, job), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(v) != 1 || v[0].Value != 0 {
			return fmt.Errorf("%s of job %s has %v resets, want 0", name, job, v)
		}
	}
	return nil
}

// withJob selects the series of the exporter.
func withJob(expr string) string {
	const labels = `{job="opper"}`
	if strings.Contains(expr, "%s") {
		return fmt.Sprintf(expr, labels)
	}
	return expr + labels
}

func keyOf(m model.Metric) key {
	return key{name: string(m["trace_name"]), outcome: string(m["outcome"])}
}
