package collector

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// hangingUsage is a network in which usage is never answered.
type hangingUsage struct{ handlerTransport }

func (h hangingUsage) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/usage") {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return h.handlerTransport.RoundTrip(r)
}

// Usage that is never answered delays neither syncs nor the end.
func TestUsageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := oppertest.New(oppertest.Config{Key: apiKey})
		cfg := usageConfig().Project
		key, err := opper.FixedKey(apiKey)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Interval, cfg.MaxModels = 30*time.Second, 50
		cfg.Opper = opper.Options{URL: "https://opper.example", Key: key, Timeout: 30 * time.Second, RequestsPerSecond: 5, Transport: opper.Transport{
			Build: func(func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) {
				return hangingUsage{handlerTransport{list}}, nil
			},
		}}
		c, err := New([]config.Project{cfg}, Deps{Logger: log.NewNopLogger(), Clock: NewClock(), Limit: opper.NewSharedLimit(50)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		<-time.After(time.Hour)
		synctest.Wait()
		families, err := c.Gatherer("").Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := valuesOf(families)
		if n := got["opper_exporter_syncs_total{success}"]; n < 120 {
			t.Errorf("%v syncs in an hour, want one every 30 s", n)
		}
		if up, ok := got["opper_usage_up{model}"]; !ok || up != 0 {
			t.Errorf("opper_usage_up is %v (exposed: %v), want 0", up, ok)
		}
		cancel()
		cancelled := time.Now()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if waited := time.Since(cancelled); waited > 0 {
			t.Errorf("Run ended %v later", waited)
		}
	})
}

// A clock that was set wrong at the start is followed slowly, and no reason to think that
// traces began too long ago for their cost to be read.
func TestCostsAfterTheClockWasSet(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"ahead": 5 * day, "behind": -5 * day} {
		t.Run(name, func(t *testing.T) {
			cfg := usageConfig()
			var u *usageBench
			began := epoch
			cfg.Clock = newClock(func() (time.Time, time.Duration) {
				if u == nil || u.bench == nil {
					return epoch.Add(wrong), 0
				}
				return u.now(), u.now().Sub(began)
			}, func() (string, time.Duration) { return "", 0 })
			u = newUsageBench(t, cfg, oppertest.UsageTroubles{})
			u.step(time.Minute)
			u.sync()
			u.trace("agent", dollar)
			for range 30 {
				u.step(time.Minute)
				u.sync()
				u.read()
			}
			u.expect(values{"opper_trace_cost_usd_total{success,agent}": 1, "opper_exporter_trace_costs_unknown_total{}": 0})
		})
	}
}
