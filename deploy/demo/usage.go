package main

import (
	"time"

	"opper_exporter/opper/oppertest"
)

// opperProject is the uuid of the demo's project.
const opperProject = "de300000-0000-4000-8000-000000000000"

// newUsage makes the usage of the demo, which is as late as Opper's. Calls are told
// apart by trace for longer than an exporter waits for the cost of a trace.
func newUsage(seed int64) *oppertest.Usage {
	usage := oppertest.NewUsage(oppertest.UsageConfig{Seed: seed, Keep: 3 * time.Hour})
	usage.SetProjectName(opperProject, "demo")
	usage.SetTroubles(oppertest.UsageTroubles{RollUp: 10 * time.Second, RollUpSpread: 20 * time.Second})
	return usage
}

// setBudget sets a limit of which the history is 40 %, in whole dollars.
func setBudget(usage *oppertest.Usage) {
	const perDollar = 1_000_000_000
	var nanos int64
	for _, a := range usage.ByModel() {
		nanos += a.Cost
	}
	usage.SetBudget(opperProject, oppertest.Budget{LimitCents: new(100 * (nanos*5/2/perDollar + 1))})
}
