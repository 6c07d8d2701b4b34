package oppertest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// busy is what two hours of traffic leave behind.
func busy(t *testing.T, seed int64, steps int, withUsage bool) (*Server, *Usage) {
	t.Helper()
	c := newClock()
	cfg := Config{Now: c.now, Retention: time.Hour}
	u := NewUsage(UsageConfig{Now: c.now})
	if withUsage {
		cfg.Usage, cfg.Project = u, shop
	}
	s := New(cfg)
	traffic := NewTraffic(s, DefaultAgents(), seed)
	traffic.Backfill(sec(-3600), sec(0))
	for i := range steps {
		traffic.Step(c.set((i + 1) * 3600 / steps))
	}
	return s, u
}

// A trace costs what its tokens cost, whether it succeeds or fails; some calls have
// no trace.
func TestTrafficHasCalls(t *testing.T) {
	s, u := busy(t, 1, 3600, true)
	prices := map[string]Model{}
	for _, a := range DefaultAgents() {
		prices[a.Name] = a.Model
	}
	byTrace := u.ByTrace()
	seen, calls := map[string]int{}, map[int64]int{}
	for _, trace := range s.Snapshot() {
		if trace.End == nil || trace.Tokens == nil || trace.Status == nil || trace.Name == nil {
			continue
		}
		a := byTrace[trace.ID]
		price := prices[*trace.Name]
		if a.InputTokens+a.OutputTokens != *trace.Tokens || a.Cost != a.InputTokens*price.Input+a.OutputTokens*price.Output || a.InputTokens < a.OutputTokens {
			t.Fatalf("%s of %s with %d tokens used %+v at %+v", trace.ID, *trace.Name, *trace.Tokens, a, price)
		}
		seen[*trace.Status]++
		calls[a.Calls]++
	}
	if seen["success"] < 5000 || seen["error"] < 50 || len(calls) != 4 || calls[1] < 1000 || calls[4] < 1000 {
		t.Errorf("traces by status: %v, by calls: %v", seen, calls)
	}
	var all, traced Amounts
	models := map[string]bool{}
	for k, a := range u.ByModel() {
		if k.Project != shop {
			t.Errorf("usage of %+v", k)
		}
		models[k.Model] = true
		all.add(a, 1)
	}
	for _, a := range byTrace {
		traced.add(a, 1)
	}
	if ratio := 1 - float64(traced.Calls)/float64(all.Calls); ratio < 0.01 || ratio > 0.04 || len(models) != 5 {
		t.Errorf("%.3f of the calls have no trace; models: %v", ratio, models)
	}
	if traced.Calls < 2*int64(s.Len()) {
		t.Error("usage leaves with the traces")
	}
	// A trace may be used before it ends, but not after.
	for hour, a := range u.ByHour() {
		if hour.Hour.Before(sec(-3600)) || hour.Hour.After(sec(3600)) || a.Cost <= 0 {
			t.Errorf("%+v: %+v", hour, a)
		}
	}
}

func TestSameSeedSameUsage(t *testing.T) {
	list := func(s *Server) (all []string) {
		for offset := 0; offset < s.Len(); offset += 100 {
			all = append(all, get(t, s, fmt.Sprintf("/v2/traces?offset=%d", offset)).Body.String())
		}
		return all
	}
	s, u := busy(t, 1, 3600, true)
	again, other := busy(t, 1, 7, true)
	if !maps.Equal(u.ByHour(), other.ByHour()) || !maps.Equal(u.ByTrace(), other.ByTrace()) {
		t.Error("the size of the steps changed the usage")
	}
	for _, u := range []*Usage{u, other} {
		u.SetTroubles(UsageTroubles{Stale: 1, StaleBy: 100 * time.Second})
	}
	minutes := "/v2/analytics/usage?from_date=2026-01-01&granularity=minute"
	if get(t, s, minutes).Body.String() != get(t, again, minutes).Body.String() {
		t.Error("the size of the steps changed when calls showed")
	}
	without, _ := busy(t, 1, 3600, false)
	if want := list(s); !slices.Equal(list(again), want) || !slices.Equal(list(without), want) {
		t.Error("calls changed the traces")
	}
	if _, other := busy(t, 2, 7, true); maps.Equal(u.ByModel(), other.ByModel()) {
		t.Error("another seed made the same usage")
	}
	if rows := without.ReadUsage(sec(-7200), sec(7200)).Rows; rows != nil {
		t.Errorf("without usage: %v", rows)
	}
}
