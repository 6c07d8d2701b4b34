package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

// project is the Opper project of the list.
const project = "6f9f1a52-0000-4000-8000-000000000001"

// shortestUsage is the shortest interval that is accepted.
const shortestUsage = 10 * time.Second

// correctWithin is short, so that hours which are not read often any more are final.
const correctWithin = 10 * time.Minute

// usageTroubles are what is always wrong with usage.
func (s *settings) usageTroubles() oppertest.UsageTroubles {
	return oppertest.UsageTroubles{
		RollUp: s.scaled(30 * time.Second), RollUpSpread: s.scaled(30 * time.Second), Corrections: 0.2, CorrectWithin: s.scaled(correctWithin), Nulls: 0.03,
		Duplicates: 0.2, Shuffle: true, Shapes: true, UnknownFields: true, Errors: 0.1, BudgetGaps: 0.1,
	}
}

// spoilUsage makes answers of usage fail, late or stale.
func (c *conductor) spoilUsage(ctx context.Context, rng *rand.Rand, most time.Duration) {
	t := c.usageTroubles()
	what := pick(rng, []string{"errors", "slow", "stale"})
	switch what {
	case "errors":
		t.Errors = 1
	case "slow":
		t.Latency = c.scaled(10 * time.Second)
	default:
		t.Stale, t.StaleBy = 0.5, c.scaled(5*time.Minute)
	}
	defer c.begin("usage: "+what, harmless)()
	c.world.usage.SetTroubles(t)
	defer c.world.usage.SetTroubles(c.usageTroubles())
	sleep(ctx, min(c.between(rng, 30*time.Second, 5*time.Minute), most))
}

// refuseUsage takes the right to usage and budget from the key for a while. The exporter
// asks again only an hour later, or when whoever gave the right back starts it again.
func (c *conductor) refuseUsage(ctx context.Context, rng *rand.Rand, most time.Duration) {
	t := c.usageTroubles()
	t.Status, t.BudgetStatus = http.StatusForbidden, http.StatusForbidden
	done := c.begin("usage: refused", harmless)
	c.world.usage.SetTroubles(t)
	sleep(ctx, min(max(c.between(rng, time.Minute, 3*time.Minute), 2*shortestUsage), most))
	c.world.usage.SetTroubles(c.usageTroubles())
	done()
	c.terminate(ctx, rng, most)
}

// isCost reports whether a series is held against usage, not against the list.
func isCost(key string) bool {
	for _, prefix := range []string{"opper_usage_", "opper_cost_", "opper_trace_cost_", "opper_trace_model_"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// costs are amounts by metric and the label of the model.
type costs map[[2]string]float64

// costsOf sums up usage by model. Half of it may be without an Opper project.
func costsOf(usage map[oppertest.ModelKey]oppertest.Amounts) costs {
	sums := map[string]oppertest.Amounts{}
	for key, a := range usage {
		label := key.Model
		if label == "" {
			label = "(none)"
		}
		sum := sums[label]
		sum.Cost, sum.Calls = sum.Cost+a.Cost, sum.Calls+a.Calls
		sum.InputTokens, sum.OutputTokens = sum.InputTokens+a.InputTokens, sum.OutputTokens+a.OutputTokens
		sums[label] = sum
	}
	all := costs{}
	for label, sum := range sums {
		all[[2]string{"opper_usage_cost_usd_total", label}] = float64(sum.Cost) / 1e9
		all[[2]string{"opper_usage_calls_total", label}] = float64(sum.Calls)
		all[[2]string{"opper_usage_tokens_total", label}] = float64(sum.InputTokens + sum.OutputTokens)
	}
	return all
}

// shown returns the same of what is exposed.
func shown(r *reading, of costs) costs {
	all := costs{}
	for key := range of {
		all[key] = r.Lasting.Total(key[0], fmt.Sprintf("model=%q,", key[1]))
	}
	return all
}

// total returns the cost of all models.
func (c costs) total() (sum float64) {
	for key, v := range c {
		if key[0] == "opper_usage_cost_usd_total" {
			sum += v
		}
	}
	return sum
}

// present returns the usage that shows now, of the months that the exporter counts.
func (v *watcher) present() costs {
	begun := v.begun.UTC()
	month := time.Date(begun.Year(), begun.Month(), 1, 0, 0, 0, 0, time.UTC)
	sums := map[oppertest.ModelKey]oppertest.Amounts{}
	for key, a := range v.world.usage.ByHour() {
		if key.Hour.Before(month) {
			continue
		}
		sum := sums[key.ModelKey]
		sum.Cost, sum.Calls = sum.Cost+a.Cost, sum.Calls+a.Calls
		sum.InputTokens, sum.OutputTokens = sum.InputTokens+a.InputTokens, sum.OutputTokens+a.OutputTokens
		sums[key.ModelKey] = sum
	}
	return costsOf(sums)
}

// checkCosts holds usage against what Opper has served at its highest, and in the end
// against what it shows at present. It reports whether something is missing; once nothing
// was, nothing that changes later is. The caller holds the lock.
func (v *watcher) checkCosts(last *reading, final bool) (missing bool) {
	if v.world.usage == nil {
		return false
	}
	// What a correction takes away for a while comes back: asked before what was served.
	least, most := v.present(), costsOf(v.world.opper.HighestUsage())
	const rounding = exportertest.Rounding
	for key, is := range shown(last, most) {
		if high := most[key]; is > high+high*rounding+rounding {
			v.tell("too much", key[0]+" of "+key[1], "%v, and may be at most %v", is, high)
		}
	}
	v.leastCost, v.mostCost = least.total(), most.total()
	if counted, known := last.Lasting.Total("opper_traces_total", ""),
		last.Lasting.Total("opper_cost_usd_per_trace_count", "")+last.Lasting.Project("opper_exporter_trace_costs_unknown_total"); known > counted {
		v.tell("too much", "costs of traces", "%v are known or unknown, of %v traces", known, counted)
	}
	if !final || v.costsComplete {
		return false
	}
	is := shown(last, least)
	for key, low := range least {
		if is[key] < low-low*rounding-rounding {
			missing = true
			if v.reported["final"] {
				v.tell("too little", key[0]+" of "+key[1], "%v, and must be at least %v", is[key], low)
			}
		}
	}
	v.costsComplete = !missing
	return missing
}
