package collector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/usage"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// failingByTrace fails to read usage by trace.
type failingByTrace struct {
	usage.Source
	err   error
	reads *int
}

func (f failingByTrace) Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	if slices.Contains(q.GroupBy, opper.GroupTrace) {
		*f.reads++
		return opper.UsagePage{}, f.err
	}
	return f.Source.Usage(ctx, q)
}

// Traces don't wait without end for usage by trace that goes on failing, whatever the
// reason, and it is read less often.
func TestUsageByTraceThatGoesOnFailing(t *testing.T) {
	for _, status := range []int{401, 422, 500, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
			source, reads := u.project.usage.source, 0
			u.project.usage.source = func() usage.Source {
				return failingByTrace{source(), &opper.Error{Status: status}, &reads}
			}
			u.sync()
			const hours = 12
			for range hours {
				u.trace("agent", dollar)
				for range 6 {
					u.step(10 * time.Minute)
					u.sync()
					u.read()
				}
			}
			if waiting := u.project.aggregates.CostsWaiting(); waiting > 1 {
				t.Errorf("%d traces wait, expected those of the last hour", waiting)
			}
			// A refusal is read again without Opper's projects.
			if reads > 2*hours+7 {
				t.Errorf("%d requests in %d hours, expected at most two an hour after the first hour", reads, hours)
			}
			if n := strings.Count(u.log.String(), "usage refused"); n != 1 {
				t.Errorf("%d lines about it\n%s", n, u.log.String())
			}
		})
	}
}

// Usage that can't be joined is off until a trace is joined, although there are reads at
// which no trace is due.
func TestUnjoinableUsageIsLoggedOnce(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	for i := range 6 {
		u.opper.Add(oppertest.Trace{ID: fmt.Sprint("listed-", i), Name: new("agent"), Status: new("success"), Start: new(u.now()), End: new(u.now())})
		u.call("openai/gpt-4o", fmt.Sprint("other-", i), oppertest.Amounts{Cost: 5})
		for range 100 {
			u.step(time.Minute)
			u.sync()
			u.read()
		}
	}
	if n := strings.Count(u.log.String(), "usage refused"); n != 1 {
		t.Errorf("%d lines about it, expected 1\n%s", n, u.log.String())
	}
	u.expect(values{"opper_usage_up{trace}": 0})
	u.trace("agent", dollar)
	for range 80 {
		u.step(time.Minute)
		u.sync()
		u.read()
	}
	u.expect(values{"opper_usage_up{trace}": 1})
}

// Usage by trace in which no row says its trace is one that can't be joined.
func TestUsageByTraceOfNulls(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	run := func(minutes int) {
		for range minutes {
			u.step(time.Minute)
			u.sync()
			u.read()
		}
	}
	for i := range minUnjoined {
		u.expect(values{"opper_exporter_trace_costs_unknown_total{}": float64(i)})
		u.opper.Add(oppertest.Trace{ID: fmt.Sprint("listed-", i), Name: new("agent"), Status: new("success"), Start: new(u.now()), End: new(u.now())})
		u.call("openai/gpt-4o", "", oppertest.Amounts{Cost: 5})
		run(20)
		u.sync()
	}
	u.expect(values{"opper_usage_up{trace}": 0, "opper_usage_up{model}": 1, "opper_exporter_trace_costs_unknown_total{}": minUnjoined})
	if n := strings.Count(u.log.String(), errUnjoinable.Error()); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
	u.trace("agent", dollar)
	run(80)
	u.expect(values{"opper_usage_up{trace}": 1, "opper_trace_cost_usd_total{success,agent}": 1})
}

// Ids of usage are joined to those of the list, in whatever way a UUID is written there.
func TestSpellingsOfTraceIDs(t *testing.T) {
	const dashed, bare = "3c90c3cc-0d44-4b50-8888-8dd25736052a", "3c90c3cc0d444b5088888dd25736052a"
	all := []string{dashed, strings.ToUpper(dashed), bare, strings.ToUpper(bare)}
	for _, listed := range all {
		for _, used := range all {
			u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
			u.sync()
			u.opper.Add(oppertest.Trace{ID: listed, Name: new("agent"), Status: new("success"), Start: new(u.now()), End: new(u.now())})
			u.call("openai/gpt-4o", used, oppertest.Amounts{Cost: dollar})
			for range 5 {
				u.step(time.Minute)
				u.sync()
				u.read()
			}
			u.sync()
			if got := u.gather()["opper_trace_cost_usd_total{success,agent}"]; got != 1 {
				t.Errorf("listed as %s, in usage as %s: cost is %v", listed, used, got)
			}
		}
	}
}

// A row that can't be read stops nothing: it is logged once and counted as missing, and
// once it can be read it is counted.
func TestUnreadableUsage(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	u.call("a", "", oppertest.Amounts{Cost: dollar})
	u.read()
	u.usage.SetTroubles(oppertest.UsageTroubles{Unreadable: 1}) // but for the first row
	u.call("b", "", oppertest.Amounts{Cost: 2 * dollar})
	trace := u.trace("agent", 3*dollar)
	for range 20 {
		u.step(time.Minute)
		u.call("a", "", oppertest.Amounts{Cost: dollar})
		u.sync()
		u.read()
	}
	u.sync()
	u.expect(values{
		"opper_usage_up{model}": 1, "opper_usage_up{trace}": 1, "opper_exporter_usage_incomplete_total{}": 2, "opper_exporter_usage_corrections_total{}": 0,
		"opper_usage_cost_usd_total{a,}": 21, "opper_usage_cost_usd_total{b,}": 0, "opper_usage_calls_total{b,}": 0,
		"opper_trace_cost_usd_total{success,agent}": 0, "opper_exporter_trace_costs_unknown_total{}": 1,
	})
	if n := strings.Count(u.log.String(), "usage incomplete"); n != 1 {
		t.Errorf("%d lines about it, as trace %s began\n%s", n, trace, u.log.String())
	}
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	u.step(time.Hour)
	u.read()
	u.sync()
	u.expect(values{"opper_exporter_usage_incomplete_total{}": 2, "opper_usage_cost_usd_total{b,}": 2, "opper_usage_cost_usd_total{openai/gpt-4o,}": 3})
}

// A budget of another shape is exposed as far as it can be read, and logged once.
func TestBudgetOfAnotherShape(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	u.usage.SetTroubles(oppertest.UsageTroubles{Status: 403})
	u.opper.Fail(oppertest.Fault{
		Endpoint: oppertest.BudgetEndpoint, Times: -1,
		Answer: oppertest.Respond(200, "application/json", `{"spend":{"cents":1},"blocked":true}`),
	})
	for range 3 {
		u.read()
		u.step(budgetInterval)
	}
	u.expect(values{"opper_usage_up{budget}": 1, "opper_project_blocked{}": 1})
	if got := u.gather().of("opper_project_spend_usd", "opper_project_spend_limit_usd"); len(got) > 0 {
		t.Errorf("exposed: %v", got)
	}
	if n := strings.Count(u.log.String(), `msg="budget incomplete" missing=project_spend.spent_cents`); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
}

// Where a minute has more rows than an answer, what is there is counted, and log and
// metric say that something is missing. Nothing is doubled when the rest can be read.
func TestMinuteWithMoreUsageThanAnAnswer(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{MaxRows: 3})
	u.sync()
	u.trace("before", dollar)
	u.step(3 * time.Hour)
	before := len(u.gather().of("opper_usage_cost_usd_total"))
	for n := range 5 {
		u.call(fmt.Sprint("m", n), "", oppertest.Amounts{Cost: dollar})
	}
	u.trace("agent", dollar)
	cost := func() (sum float64) {
		for _, v := range u.gather().of("opper_usage_cost_usd_total") {
			sum += v
		}
		return sum
	}
	for range 20 {
		u.step(time.Minute)
		u.sync()
		u.read()
		u.sync()
	}
	if got := cost(); before != 0 || got != 4 { // an earlier hour, and three of six rows
		t.Errorf("costs are %v, want 4\n%s", got, u.log.String())
	}
	u.expect(values{"opper_usage_up{model}": 1, "opper_exporter_usage_incomplete_total{}": 3, "opper_exporter_usage_corrections_total{}": 0})
	if n := strings.Count(u.log.String(), `msg="usage incomplete" kind=model unreadable_rows=0 truncated_hours=1`); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	for range 3 { // the models that were missing begin at 0
		u.step(time.Minute)
		u.read()
		u.sync()
	}
	if got := cost(); got != 7 {
		t.Errorf("costs are %v, want 7", got)
	}
}

// A trace whose usage may be in such a minute has no cost rather than a part of it, and
// another one has its own.
func TestCostOfTraceInMinuteWithMoreUsageThanAnAnswer(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{MaxRows: 3})
	u.sync()
	for range 5 {
		u.trace("agent", dollar)
	}
	run := func(minutes int) {
		for range minutes {
			u.step(time.Minute)
			u.sync()
			u.read()
		}
		u.sync()
	}
	run(20)
	u.expect(values{"opper_usage_up{trace}": 1, "opper_exporter_trace_costs_unknown_total{}": 5, "opper_trace_cost_usd_total{success,agent}": 0})
	if n := strings.Count(u.log.String(), `msg="usage incomplete" kind=trace`); n != 1 {
		t.Errorf("%d lines about it\n%s", n, u.log.String())
	}
	u.step(2 * time.Hour)
	u.trace("agent", dollar)
	run(20)
	u.expect(values{"opper_exporter_trace_costs_unknown_total{}": 5, "opper_trace_cost_usd_total{success,agent}": 1})
}
