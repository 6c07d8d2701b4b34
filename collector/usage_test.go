package collector

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/storetest"
	"opper_exporter/collector/usage"
	"opper_exporter/opper/oppertest"
)

const (
	ownUUID   = "0b7c2d7e-3f35-4d0e-9d0c-0f4f3c6f7a11"
	otherUUID = "c4b0a5be-8c8e-4b43-9c0b-5c7d3f6a9e22"
)

// usageBench is a bench whose project reads usage.
type usageBench struct {
	*bench
	usage *oppertest.Usage
	calls int
}

func usageConfig() setup {
	cfg := testConfig()
	cfg.UsageInterval, cfg.Aggregate.Costs = time.Minute, true
	return cfg
}

func newUsageBench(t testing.TB, cfg setup, troubles oppertest.UsageTroubles) *usageBench {
	t.Helper()
	u := &usageBench{}
	u.usage = oppertest.NewUsage(oppertest.UsageConfig{Now: func() time.Time { return u.now() }})
	u.usage.SetTroubles(troubles)
	cfg.MaxModels = 50
	u.bench = newBench(t, oppertest.Config{Usage: u.usage, Project: ownUUID}, cfg)
	u.project.usage.source = func() usage.Source { return u.client.WithRetries(0) }
	return u
}

// read reads usage, and counts it.
func (u *usageBench) read() {
	request := u.project.usage.request(u.project.aggregates.WaitingSince())
	u.project.countUsage(request.read(u.t.Context(), u.project.usage.source()))
}

// call makes a call of a model, as part of a trace unless that is empty.
func (u *usageBench) call(model, trace string, amounts oppertest.Amounts) {
	u.calls++
	u.usage.Add(oppertest.Call{Time: u.now(), Model: &model, Project: ownUUID, Trace: trace, Amounts: amounts})
}

// trace lists a trace of an agent that has just ended, with one call.
func (u *usageBench) trace(name string, cost int64) string {
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", u.opper.Len())
	end := u.now()
	start := end.Add(-time.Second)
	u.opper.Add(oppertest.Trace{ID: id, Name: &name, Status: new("success"), Start: &start, End: &end})
	u.call("openai/gpt-4o", id, oppertest.Amounts{Cost: cost, InputTokens: 100, OutputTokens: 7})
	return id
}

func (u *usageBench) expect(want values) {
	u.t.Helper()
	got := u.gather()
	for key, value := range want {
		if v, ok := got[key]; !ok || v != value {
			u.t.Errorf("%s is %v (exposed: %v), want %v", key, v, ok, value)
		}
	}
}

// What usage says of the month is there with the first read, and each later call is
// counted once, also by a read that finds nothing new.
func TestUsageByModelIsCountedOnce(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.call("openai/gpt-4o", "", oppertest.Amounts{Cost: 74_816_500, InputTokens: 1000, OutputTokens: 50})
	u.sync()
	u.read()
	want := values{
		"opper_usage_cost_usd_total{openai/gpt-4o,}":                 0.0748165,
		"opper_usage_calls_total{openai/gpt-4o,}":                    1,
		"opper_usage_tokens_total{openai/gpt-4o,,input}":             1000,
		"opper_usage_tokens_total{openai/gpt-4o,,output}":            50,
		"opper_usage_up{model}":                                      1,
		"opper_exporter_usage_corrections_total{}":                   0,
		"opper_exporter_trace_costs_unknown_total{}":                 0,
		"opper_exporter_usage_last_success_timestamp_seconds{model}": float64(u.now().UnixMilli()) / 1e3,
	}
	u.expect(want)
	u.step(time.Minute)
	u.call("openai/gpt-4o", "", oppertest.Amounts{Cost: 500, InputTokens: 1, OutputTokens: 1})
	for range 3 {
		u.step(time.Minute)
		u.read()
	}
	u.expect(values{
		"opper_usage_cost_usd_total{openai/gpt-4o,}":      0.074817,
		"opper_usage_calls_total{openai/gpt-4o,}":         2,
		"opper_usage_tokens_total{openai/gpt-4o,,input}":  1001,
		"opper_usage_tokens_total{openai/gpt-4o,,output}": 51,
	})
}

// What a trace cost is counted under the name under which it was counted, when two reads
// agree on it, and shown by the next sync.
func TestCostIsCountedByTraceName(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.trace("before", 5)
	u.step(time.Minute)
	u.sync()
	u.read()
	for range 3 {
		u.trace("agent", 2_000_000)
	}
	u.opper.Add(oppertest.Trace{ID: "no-calls", Name: new("agent"), Status: new("error"), Start: new(u.now()), End: new(u.now())})
	u.step(time.Minute)
	u.sync()
	u.step(time.Minute)
	u.sync() // the traces have settled
	key := "opper_trace_cost_usd_total{success,agent}"
	u.expect(values{"opper_traces_total{success,agent}": 3, key: 0})
	u.read()
	u.sync()
	u.expect(values{key: 0, "opper_cost_usd_per_trace_count{agent}": 0})
	u.step(time.Minute)
	u.read()
	u.expect(values{key: 0}) // not before a sync
	u.sync()
	u.expect(values{
		key: 0.006, "opper_cost_usd_per_trace_count{agent}": 3, "opper_cost_usd_per_trace_sum{agent}": 0.006,
		"opper_trace_model_tokens_total{input,agent}": 300, "opper_trace_model_tokens_total{output,agent}": 21,
		"opper_trace_cost_usd_total{failure,agent}": 0, "opper_exporter_trace_costs_unknown_total{}": 1, "opper_usage_up{trace}": 1,
	})
	u.step(15 * time.Minute)
	u.read()
	u.sync()
	u.expect(values{key: 0.006, "opper_exporter_trace_costs_unknown_total{}": 2})
}

// What Opper refuses is 0 and logged once, and the rest goes on.
func TestRefusedUsageIsAskedForHourly(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{Status: http.StatusForbidden})
	u.usage.SetBudget(ownUUID, oppertest.Budget{LimitCents: new(int64(1000))})
	u.sync()
	for range 59 {
		u.read()
		u.step(time.Minute)
	}
	// By model and by trace.
	if usage, budgets := u.opper.RequestCount(oppertest.UsageEndpoint), u.opper.RequestCount(oppertest.BudgetEndpoint); usage != 2 || budgets != 12 {
		t.Errorf("%d requests of usage and %d of the budget within an hour", usage, budgets)
	}
	u.expect(values{"opper_usage_up{model}": 0, "opper_usage_up{budget}": 1, "opper_project_spend_limit_usd{}": 10})
	if n := strings.Count(u.log.String(), `kind=model msg="usage refused"`); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	u.step(time.Hour)
	u.read()
	u.expect(values{"opper_usage_up{model}": 1})
}

// Usage by trace that is refused, or that can't be joined, leaves costs unknown, and the
// rest goes on.
func TestUsageByTraceIsOffWhereItCannotBeJoined(t *testing.T) {
	for name, troubles := range map[string]oppertest.UsageTroubles{
		"refused":  {RefuseGroups: []string{"trace_uuid"}},
		"no group": {NoGroups: []string{"trace_uuid"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUsageBench(t, usageConfig(), troubles)
			u.sync()
			u.trace("agent", 2_000_000)
			for range 80 { // it is refused again after an hour
				u.step(time.Minute)
				u.sync()
				u.read()
			}
			u.sync()
			u.expect(values{
				"opper_usage_up{trace}": 0, "opper_usage_up{model}": 1, "opper_usage_cost_usd_total{openai/gpt-4o,}": 0.002,
				"opper_traces_total{success,agent}": 1, "opper_trace_cost_usd_total{success,agent}": 0, "opper_exporter_trace_costs_unknown_total{}": 1,
			})
			if n := strings.Count(u.log.String(), "usage refused"); n != 1 {
				t.Errorf("%d lines about it\n%s", n, u.log.String())
			}
		})
	}
	t.Run("other ids", func(t *testing.T) {
		u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
		u.sync()
		u.opper.Add(oppertest.Trace{ID: "listed", Name: new("agent"), Status: new("success"), Start: new(u.now()), End: new(u.now())})
		u.call("openai/gpt-4o", "never-listed", oppertest.Amounts{Cost: 5})
		for range 20 {
			u.step(time.Minute)
			u.sync()
			u.read()
		}
		u.sync()
		u.expect(values{"opper_usage_up{trace}": 0, "opper_usage_up{model}": 1, "opper_exporter_trace_costs_unknown_total{}": 1})
		if !strings.Contains(u.log.String(), errUnjoinable.Error()) {
			t.Errorf("nothing is said about it\n%s", u.log.String())
		}
	})
}

// A budget that can't be read once stays, and is absent when that goes on, as are parts
// that Opper does not say.
func TestBudgetThatIsNotKnownIsAbsent(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.usage.SetBudget(ownUUID, oppertest.Budget{LimitCents: new(int64(1234)), Blocked: true})
	u.sync()
	u.read()
	known := values{"opper_project_spend_usd{}": 0, "opper_project_spend_limit_usd{}": 12.34, "opper_project_blocked{}": 1}
	u.expect(known)
	u.usage.SetTroubles(oppertest.UsageTroubles{Errors: 1})
	u.step(budgetInterval)
	u.read()
	u.expect(known)
	u.step(time.Minute)
	u.read()
	if got := u.gather().of("opper_project_spend_usd", "opper_project_spend_limit_usd", "opper_project_blocked"); len(got) > 0 {
		t.Errorf("exposed: %v", got)
	}
	u.expect(values{"opper_usage_up{budget}": 0})
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	u.usage.SetBudget(ownUUID, oppertest.Budget{})
	u.step(time.Minute)
	u.read()
	u.expect(values{"opper_usage_up{budget}": 1, "opper_project_blocked{}": 0})
	if strings.Contains(u.log.String(), "budget incomplete") {
		t.Errorf("no limit is said to be missing\n%s", u.log.String())
	}
	if got := u.gather().of("opper_project_spend_limit_usd"); len(got) > 0 {
		t.Errorf("no limit is exposed as %v", got)
	}
	if strings.Contains(u.log.String(), oppertest.Secret) {
		t.Error("the log has private content")
	}
}

// A model that is new since the first read is exposed at 0 until that has been read.
func TestNewModelIsZeroFirst(t *testing.T) {
	cfg := usageConfig()
	read := false
	cfg.AllRead = func(string, time.Time) bool { return read }
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.call("first", "", oppertest.Amounts{Cost: 1_000_000_000})
	u.sync()
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{first,}": 1})
	u.step(time.Minute)
	u.call("second", "", oppertest.Amounts{Cost: 2_000_000_000})
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{second,}": 0})
	u.step(time.Minute)
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{second,}": 0})
	read = true
	u.sync()
	u.expect(values{"opper_usage_cost_usd_total{second,}": 2})
}

// An account that stores no traces shows its usage, and the log says why there is no trace.
func TestUsageWithoutTraces(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.call("openai/gpt-4o", "not-stored", oppertest.Amounts{Cost: 1_000_000_000})
	u.sync()
	for range 3 {
		u.read()
		u.step(time.Minute)
	}
	u.expect(values{"opper_usage_cost_usd_total{openai/gpt-4o,}": 1, "opper_up{}": 1, "opper_traces_listed{}": 0})
	if n := strings.Count(u.log.String(), "usage without listed traces"); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
}

// What was exposed of usage is exposed after a restart, also if the list has never been
// read to its end.
func TestUsageStaysBeforeTheInitialSync(t *testing.T) {
	cfg := usageConfig()
	cfg.MaxModels, cfg.Store = 50, new(storetest.Memory)
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.opper.Fail(oppertest.Fault{Answer: oppertest.Respond(http.StatusForbidden, "text/plain", ""), Times: -1})
	u.call("openai/gpt-4o", "", oppertest.Amounts{Cost: 1_000_000_000})
	if u.project.sync(t.Context()) {
		t.Fatal("the list was read")
	}
	u.read()
	want := values{"opper_usage_cost_usd_total{openai/gpt-4o,}": 1}
	u.expect(want)
	source := u.project.usage.source
	u.restarted(cfg)
	u.project.usage.source = source
	u.expect(want)
	if got := u.gather().of("opper_traces_total"); len(got) > 0 {
		t.Errorf("exposed before the initial sync: %v", got)
	}
}

// A name whose expiry was committed by a read of usage, and not published by a sync, does
// not begin anew, as its series have never ended.
func TestExpiryThatIsNotPublishedIsTakenBack(t *testing.T) {
	cfg := usageConfig()
	disk := new(fullStore)
	cfg.Store, cfg.Aggregate.NameExpiry = disk, time.Hour
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	count := func() {
		u.trace("agent", 5)
		u.step(time.Minute)
		u.sync()
		u.step(time.Minute)
		u.sync()
	}
	u.sync()
	count()
	u.sync()
	u.expect(values{"opper_traces_total{success,agent}": 1})
	u.step(2 * time.Hour)
	disk.isFull = true
	u.sync()
	disk.isFull = false
	u.read()
	u.expect(values{"opper_traces_total{success,agent}": 1})
	count()
	u.expect(values{"opper_traces_total{success,agent}": 2, "opper_exporter_trace_names_expired_total{}": 0})
}

// Nothing is asked for and nothing is shown where usage is switched off.
func TestUsageThatIsOff(t *testing.T) {
	u := newUsageBench(t, testConfig(), oppertest.UsageTroubles{})
	u.start()
	u.awaitSyncs(1)
	<-u.project.snapshots.ready
	for key := range u.gather() {
		if strings.Contains(key, "usage") || strings.Contains(key, "cost") || strings.Contains(key, "spend") || strings.Contains(key, "blocked") {
			t.Errorf("%s is exposed", key)
		}
	}
	if n := u.opper.RequestCount(oppertest.UsageEndpoint, oppertest.BudgetEndpoint); n != 0 {
		t.Errorf("%d requests", n)
	}
}
