package collector

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func counterOf(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var w dto.Metric
	if err := m.Write(&w); err != nil {
		t.Fatal(err)
	}
	return w.GetCounter().GetValue()
}

func TestRequests(t *testing.T) {
	r := NewRequests("p", true)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r)
	see := func(want values) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := valuesOf(families)
		for key, n := range want {
			if value, ok := got[key]; !ok || value != n {
				t.Errorf("%s is %v, want %v", key, value, n)
			}
		}
	}
	see(values{"opper_exporter_api_requests_total{200}": 0, "opper_exporter_api_requests_total{error}": 0})
	r.Observe("200", 1500*time.Millisecond)
	r.Observe("429", time.Second)
	see(values{
		"opper_exporter_api_requests_total{200}": 1, "opper_exporter_api_requests_total{429}": 1,
		"opper_exporter_api_request_duration_seconds_count{}": 2, "opper_exporter_api_request_duration_seconds_sum{}": 2.5,
	})
}

// Whatever can happen is at 0 before it happens.
func TestHealthBeginsAtZero(t *testing.T) {
	h := newHealth("p", true)
	h.failed(time.Second)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(h.collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := valuesOf(families)
	for key, want := range map[string]float64{
		"opper_up{}": 0, "opper_exporter_syncs_total{error}": 1, "opper_exporter_syncs_total{success}": 0,
		"opper_exporter_state_commits_total{success}": 0, "opper_exporter_state_commits_total{error}": 0,
		"opper_exporter_baseline_progress_ratio{}": 0, "opper_exporter_sync_duration_seconds_sum{}": 1,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
}
