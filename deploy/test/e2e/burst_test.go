package e2e_test

import (
	"testing"

	"opper_exporter/opper/oppertest"
)

// A young project that gets far more traces than it had while the exporter is
// off loses none of them, whatever total_count says.
func TestBurstWhileOffIsCounted(t *testing.T) {
	for name, total := range map[string]func(int) *int{
		"right": nil, "missing": func(int) *int { return nil }, "capped": func(n int) *int { return new(min(n, 50)) },
	} {
		t.Run("total_count "+name, func(t *testing.T) {
			t.Parallel()
			s := oppertest.New(oppertest.Config{TotalCount: total})
			s.Add(ended("first"))
			url, stored := opper(t, s), "--storage.path="+t.TempDir()
			before := start(t, url, stored, fast, noSettle)
			until(t, before.AwaitReady(t), "opper_traces_total", `trace_name="first"`, 1)
			before.Stop(t)

			const burst = 10_000
			for range burst {
				s.Add(ended("burst"))
			}
			after := start(t, url, stored, fast, noSettle)
			r := until(t, after.AwaitReady(t), "opper_traces_total", `trace_name="burst"`, burst)
			if n := r.Lasting.Total("opper_traces_total", ""); n != burst+1 {
				t.Errorf("%v traces are counted, want %d", n, burst+1)
			}
			if n := r.Rest.Total("opper_exporter_syncs_total", `result="error"`); n != 0 {
				t.Errorf("%v syncs failed", n)
			}
			after.Stop(t)
		})
	}
}
