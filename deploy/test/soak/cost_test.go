package main

import (
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

func TestWrongCostsAreFound(t *testing.T) {
	const cost, calls, none = `opper_usage_cost_usd_total{model="m",opper_project="",project="default"}`,
		`opper_usage_calls_total{model="m",opper_project="",project="default"}`, `opper_usage_calls_total{model="(none)",opper_project="(none)",project="default"}`
	for name, c := range map[string]struct {
		change func(series)
		want   string
	}{
		"right":             {func(series) {}, ""},
		"at the highest":    {func(s series) { s[cost] = 5 }, ""},
		"too much":          {func(s series) { s[cost] = 5.000001 }, "too much: opper_usage_cost_usd_total of m"},
		"a call too many":   {func(s series) { s[calls] = 3 }, "too much: opper_usage_calls_total of m"},
		"too little":        {func(s series) { s[cost] = 3.999999 }, "too little: opper_usage_cost_usd_total of m"},
		"no model, missing": {func(s series) { delete(s, none) }, "too little: opper_usage_calls_total of (none)"},
		"a trace too many":  {func(s series) { s[`opper_cost_usd_per_trace_count{project="default",trace_name="a"}`] = 61 }, "too much: costs of traces"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTestWatcher(t, 60)
			v.world.usage = oppertest.NewUsage(oppertest.UsageConfig{})
			v.world.opper = oppertest.New(oppertest.Config{Usage: v.world.usage, Project: project})
			call := oppertest.Call{Time: time.Now(), Model: new("m"), Project: project, Amounts: oppertest.Amounts{Cost: 5e9}}
			v.world.usage.Add(call, oppertest.Call{Time: time.Now(), Project: project, Amounts: oppertest.Amounts{Cost: 1e9}})
			hour := time.Now().Truncate(time.Hour)
			v.world.opper.ReadUsage(hour, hour.Add(2*time.Hour), "model", "project.uuid")
			call.Adjustment, call.Cost = true, -1e9
			v.world.usage.Add(call)
			s := v.last.Lasting
			s[cost], s[calls], s[none] = 4, 1, 1
			s[strings.Replace(none, "calls", "cost_usd", 1)] = 1
			c.change(s)
			v.reported["final"] = true
			v.checkCosts(v.last, true)
			if got := strings.Join(v.promises.list(), "\n"); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
