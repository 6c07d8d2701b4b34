package collector

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

func counterOf(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var w dto.Metric
	if err := m.Write(&w); err != nil {
		t.Fatal(err)
	}
	return w.GetCounter().GetValue()
}

func TestRequestsAreMeasured(t *testing.T) {
	r := newInstrumentation("p", true)
	r.stall = newStall(time.Now, 0, r.up)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.collectors()...)
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
	see(values{"opper_exporter_api_requests_total{200}": 0, "opper_exporter_api_requests_total{error}": 0, "opper_exporter_api_received_bytes_total{}": 0})
	r.observeRequest("200", 1500*time.Millisecond)
	r.observeRequest("429", time.Second)
	r.observeReceived(1000)
	r.observeReceived(24)
	see(values{
		"opper_exporter_api_requests_total{200}": 1, "opper_exporter_api_requests_total{429}": 1,
		"opper_exporter_api_request_duration_seconds_count{}": 2, "opper_exporter_api_request_duration_seconds_sum{}": 2.5,
		"opper_exporter_api_received_bytes_total{}": 1024,
	})
}

// Whatever can happen is at 0 before it happens.
func TestInstrumentationBeginsAtZero(t *testing.T) {
	h := newInstrumentation("p", true)
	h.synced(time.Second, false)
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
		"opper_exporter_initial_sync_progress_ratio{}": 0, "opper_exporter_sync_duration_seconds_sum{}": 1,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
}

// A sync that gets no answer for max(3 intervals, 1 minute) is trouble with
// Opper, although it has not failed yet.
func TestUpIsZeroWithoutProgress(t *testing.T) {
	for _, tc := range []struct{ interval, limit time.Duration }{
		{0, time.Minute}, {5 * time.Second, time.Minute}, {30 * time.Second, 90 * time.Second},
	} {
		now := epoch
		h := newInstrumentation("p", true)
		h.stall = newStall(func() time.Time { return now }, tc.interval, h.up)
		up := func() float64 {
			h.stall.update()
			var m dto.Metric
			if err := h.up.Write(&m); err != nil {
				t.Fatal(err)
			}
			return m.GetGauge().GetValue()
		}
		h.synced(time.Second, true)
		now = now.Add(time.Hour)
		if up() != 1 {
			t.Errorf("interval %s: opper_up is 0 between two syncs", tc.interval)
		}
		h.stall.begin()
		now = now.Add(tc.limit - time.Second)
		h.stall.answered()
		now = now.Add(tc.limit - time.Second)
		if up() != 1 {
			t.Errorf("interval %s: opper_up is 0 while Opper answers", tc.interval)
		}
		now = now.Add(time.Second)
		if up() != 0 {
			t.Errorf("interval %s: opper_up is 1 after %s without an answer", tc.interval, tc.limit)
		}
		h.stall.answered()
		if up() != 0 {
			t.Errorf("interval %s: opper_up is 1 before the sync succeeded", tc.interval)
		}
		h.synced(time.Second, true)
		h.stall.end()
		if up() != 1 {
			t.Errorf("interval %s: opper_up is 0 after a sync that succeeded", tc.interval)
		}
	}
}

// stuckSource never answers.
type stuckSource struct{ entered chan struct{} }

// List implements syncer.Source.
func (s stuckSource) List(ctx context.Context, _, _ int) (opper.Page, error) {
	s.entered <- struct{}{}
	<-ctx.Done()
	return opper.Page{}, ctx.Err()
}

// Get implements syncer.Source.
func (stuckSource) Get(ctx context.Context, _ string) (opper.Trace, error) {
	<-ctx.Done()
	return opper.Trace{}, ctx.Err()
}

// While a sync is still waiting for Opper, a scrape already shows opper_up 0.
func TestUpIsZeroWhileSyncHangs(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.sync()
	entered := make(chan struct{})
	b.project.source = func(opper.Priority, time.Time) syncer.Source { return stuckSource{entered} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		b.project.sync(ctx)
		close(ended)
	}()
	<-entered
	if got := b.gather()["opper_up{}"]; got != 1 {
		t.Errorf("opper_up is %v as the sync begins", got)
	}
	b.step(time.Minute)
	if got := b.gather()["opper_up{}"]; got != 0 {
		t.Errorf("opper_up is %v after a minute without an answer", got)
	}
	cancel()
	<-ended
}

// failingSource fails after a time, however little it is asked for.
type failingSource struct {
	b   *bench
	ups []float64 // as exposed when each request has failed
}

func (s *failingSource) fail() error {
	s.b.step(minStall / 2)
	s.ups = append(s.ups, s.b.gather()["opper_up{}"])
	return opper.ErrTooLarge
}

// List implements syncer.Source.
func (s *failingSource) List(context.Context, int, int) (opper.Page, error) {
	return opper.Page{}, s.fail()
}

// Get implements syncer.Source.
func (s *failingSource) Get(context.Context, string) (opper.Trace, error) {
	return opper.Trace{}, s.fail()
}

// A request that fails is no progress, as a sync may go on to make others.
func TestUpIsZeroWhileRequestsFail(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.sync()
	src := &failingSource{b: b}
	b.project.source = func(opper.Priority, time.Time) syncer.Source { return src }
	if b.project.sync(t.Context()) || len(src.ups) < 2 || src.ups[0] != 1 || slices.Contains(src.ups[1:], 1) {
		t.Errorf("opper_up as each request fails: %v", src.ups)
	}
}
