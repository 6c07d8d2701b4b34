package e2e_test

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
)

// addPastOfRules gives recording rules their past, as the documentation says: those that
// read other rules find them in the second run.
func (w *world) addPastOfRules(t *testing.T, end time.Time) {
	t.Helper()
	root, err := promtest.ProjectDir()
	if err != nil {
		t.Fatal(err)
	}
	end = end.Truncate(2 * time.Hour)
	for range 2 {
		out := t.TempDir()
		if printed, err := promtest.Promtool(t, nil, "tsdb", "create-blocks-from", "rules", "--url="+w.URL(), "--eval-interval=4m",
			fmt.Sprintf("--start=%d", end.Add(-6*time.Hour).Unix()), fmt.Sprintf("--end=%d", end.Unix()), "--output-dir="+out,
			filepath.Join(root, "deploy/prometheus/opper_rules.yml")); err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		w.moveIn(t, out)
	}
	const rule, expr = `project_trace_name:opper_traces:increase1h`, `sum by (project, trace_name) (increase(opper_traces_total[1h]))`
	for _, ago := range []time.Duration{time.Hour, 5 * time.Hour} {
		recorded, err := w.Query(t.Context(), rule, end.Add(-ago))
		if err != nil {
			t.Fatal(err)
		}
		// When it was evaluated: each group has a moment of its own in its interval.
		moments, err := w.Query(t.Context(), "timestamp("+rule+")", end.Add(-ago))
		if err != nil {
			t.Fatal(err)
		}
		if len(recorded) == 0 || len(recorded) != len(moments) {
			t.Fatalf("%s has %v at %v", rule, recorded, moments)
		}
		want, err := w.Query(t.Context(), expr, time.UnixMilli(int64(math.Round(float64(moments[0].Value)*1e3))))
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, sample := range want {
			values[string(sample.Metric["trace_name"])] = float64(sample.Value)
		}
		for _, sample := range recorded {
			v, ok := values[string(sample.Metric["trace_name"])]
			if !ok || math.Abs(v-float64(sample.Value)) > 1e-9*v || len(recorded) != len(want) {
				t.Errorf("%s is %v, want %v of %v", rule, sample, v, want)
			}
		}
	}
}
