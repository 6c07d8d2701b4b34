package e2e_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// border is where the history of a server that began to scrape now has to end.
func border(now time.Time) time.Time {
	return now.Add(-3 * time.Hour).Truncate(2 * time.Hour)
}

// liveSamples returns all that the server has scraped for some time, by series and time.
func (w *world) liveSamples(t *testing.T, window time.Duration) map[string]model.Matrix {
	t.Helper()
	samples := map[string]model.Matrix{}
	for _, selector := range []string{`{job="other"}`, `{job="opper",__name__!~"opper_trace_duration.*|opper_tokens_per_trace.*"}`} {
		m, err := w.Samples(t.Context(), selector, window)
		if err != nil {
			t.Fatal(err)
		}
		samples[selector] = m
	}
	return samples
}

// lost returns an error if a sample of before is not in after.
func lost(before, after map[string]model.Matrix) error {
	type sample struct {
		series string
		at     model.Time
		value  model.SampleValue
	}
	has := map[sample]bool{}
	each := func(all map[string]model.Matrix, do func(sample)) {
		for _, m := range all {
			for _, series := range m {
				for _, v := range series.Values {
					do(sample{series.Metric.String(), v.Timestamp, v.Value})
				}
			}
		}
	}
	each(after, func(s sample) { has[s] = true })
	total, missing := 0, 0
	var first sample
	each(before, func(s sample) {
		total++
		if !has[s] {
			missing++
			first = s
		}
	})
	switch {
	case total == 0:
		return errors.New("there were no live samples")
	case missing > 0:
		return fmt.Errorf("%d of %d live samples are missing, such as %v", missing, total, first)
	}
	return nil
}
