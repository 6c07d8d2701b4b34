package collector

import (
	"maps"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// readCosts takes in one read of what traces cost.
func (b *bench) readCosts(costs map[int]aggregate.TraceCost) {
	read := map[ledger.ID]aggregate.TraceCost{}
	for id, cost := range costs {
		read[ledger.KeyOf(b.trace(id, "").ID)] = cost
	}
	b.project.aggregates.ApplyCosts(read, b.now())
}

// applyCosts makes costs final, and the next sync publish them.
func (b *bench) applyCosts(costs map[int]aggregate.TraceCost) {
	b.t.Helper()
	b.readCosts(costs)
	b.readCosts(costs)
	b.sync()
}

var costFamilies = []string{
	"opper_trace_cost_usd_total", "opper_cost_usd_per_trace_count", "opper_cost_usd_per_trace_sum",
	"opper_trace_model_tokens_total", "opper_exporter_trace_costs_unknown_total",
}

// costValues are those of one name, all of whose traces had the outcome success.
func costValues(cost float64, traces, input, output, unknown float64) values {
	return values{
		"opper_trace_cost_usd_total{success,a}": cost, "opper_trace_cost_usd_total{failure,a}": 0,
		"opper_trace_cost_usd_total{unknown,a}": 0, "opper_trace_cost_usd_total{abandoned,a}": 0,
		"opper_cost_usd_per_trace_sum{a}": cost, "opper_cost_usd_per_trace_count{a}": traces,
		"opper_trace_model_tokens_total{input,a}": input, "opper_trace_model_tokens_total{output,a}": output,
		"opper_exporter_trace_costs_unknown_total{}": unknown,
	}
}

// Costs that are switched on begin at 0, with created timestamps of that time, and wait for
// scrapers. Those that are switched off are not exposed; they go on when they are on again.
func TestCostsAreSwitched(t *testing.T) {
	read := true
	cfg := testConfig()
	cfg.Store = new(storetest.Memory)
	cfg.AllRead = func(string, time.Time) bool { return read }
	b := newBench(t, oppertest.Config{}, cfg)
	see := func(what string, want values) {
		t.Helper()
		if err := b.gather().of(costFamilies...).differs(want); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	count := func(id int) {
		t.Helper()
		b.opper.Add(b.trace(id, "a"))
		b.sync()
		b.step(settle)
		b.sync()
	}
	cost := map[int]aggregate.TraceCost{2: {Cost: 1_500_000_000, InputTokens: 7, OutputTokens: 8}, 3: {Cost: 1_000_000_000, InputTokens: 1}}
	b.opper.Add(b.trace(1, "a"))
	b.step(time.Hour)
	b.sync()
	see("off", values{})

	b.step(time.Minute)
	on := b.now()
	cfg.Aggregate.Costs, read = true, false
	b.restarted(cfg)
	see("on", costValues(0, 0, 0, 0, 1))
	count(2)
	b.applyCosts(cost)
	see("on, zeros not read", costValues(0, 0, 0, 0, 1))
	if n := b.gather()["opper_traces_total{success,a}"]; n != 2 {
		t.Errorf("%v traces are exposed, want 2", n)
	}
	for _, f := range b.families() {
		if f.GetName() == "opper_cost_usd_per_trace" && !f.GetMetric()[0].GetHistogram().GetCreatedTimestamp().AsTime().Equal(on) {
			t.Errorf("created at %v, want %v", f.GetMetric()[0].GetHistogram().GetCreatedTimestamp().AsTime(), on)
		}
	}
	read = true
	b.sync()
	see("on, zeros read", costValues(1.5, 1, 7, 8, 1))

	cfg.Aggregate.Costs = false
	b.restarted(cfg)
	b.sync()
	see("off again", values{})
	cfg.Aggregate.Costs, read = true, false
	b.restarted(cfg)
	see("on again", costValues(1.5, 1, 7, 8, 1))
	count(3)
	b.applyCosts(cost)
	see("continued", costValues(2.5, 2, 8, 8, 1))
}

// What a crash takes back of the costs was not exposed, and is counted once.
func TestCostsSurviveACrash(t *testing.T) {
	cfg := testConfig()
	stored := new(storetest.Memory)
	cfg.Store, cfg.Aggregate.Costs = stored, true
	b := newBench(t, oppertest.Config{}, cfg)
	b.sync()
	for id := range 3 {
		b.opper.Add(b.trace(id+1, "a"))
		b.sync()
		b.step(settle)
		b.sync()
	}
	crash := func() {
		cfg.Store = &storetest.Memory{Entries: maps.Clone(stored.Entries)}
		stored = cfg.Store.(*storetest.Memory)
		b.restarted(cfg)
	}
	see := func(what string, want values) {
		t.Helper()
		if err := b.gather().of(costFamilies...).differs(want); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	cost := map[int]aggregate.TraceCost{1: {Cost: 1e9}, 2: {Cost: 2e9, OutputTokens: 4}}
	b.readCosts(cost)
	b.readCosts(cost)
	see("not published", costValues(0, 0, 0, 0, 0))
	crash()
	see("crashed before the commit", costValues(0, 0, 0, 0, 0))
	b.readCosts(cost)
	see("one read after the crash", costValues(0, 0, 0, 0, 0))
	b.applyCosts(cost)
	see("committed", costValues(3, 2, 0, 4, 0))
	crash()
	b.applyCosts(cost)
	see("crashed after the commit", costValues(3, 2, 0, 4, 0))
	b.step(15 * time.Minute)
	b.applyCosts(cost)
	see("the last one is unknown", costValues(3, 2, 0, 4, 1))
	for key := range stored.Entries {
		if strings.HasPrefix(key, partAggregates+"waiting/") {
			t.Errorf("%s is left, and no trace waits", key)
		}
	}
}
