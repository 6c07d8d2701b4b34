package simulation

import (
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
)

// traceCost is what each trace costs.
var traceCost = aggregate.TraceCost{Cost: 1000, InputTokens: 30, OutputTokens: 4}

// What is published of costs, of all names.
const (
	costsFinal   = "costs: final"
	costsUnknown = "costs: unknown"
	costsDollars = "costs: nanodollars by outcome"
	costsSum     = "costs: nanodollars by trace"
	costsTokens  = "costs: tokens"
)

// readCosts reads what the traces cost whose count is durable, in two of three steps.
func (s *simulation) readCosts() {
	if s.syncs%3 == 0 && !s.calm {
		return
	}
	costs := map[ledger.ID]aggregate.TraceCost{}
	for _, v := range s.durable {
		costs[ledger.KeyOf(v.ID)] = traceCost
	}
	s.tell("costs of %d traces are read", len(costs))
	s.project.ApplyCosts(costs)
}

func addCosts(got map[string]uint64, family string, m *dto.Metric) {
	switch h := m.GetHistogram(); family {
	case "opper_trace_cost_usd_total":
		got[costsDollars] += uint64(math.Round(1e9 * m.GetCounter().GetValue()))
	case "opper_trace_model_tokens_total":
		got[costsTokens] += uint64(m.GetCounter().GetValue())
	case "opper_cost_usd_per_trace":
		got[costsFinal] += h.GetSampleCount()
		got[costsSum] += uint64(math.Round(1e9 * h.GetSampleSum()))
	default:
		got[costsUnknown] += uint64(m.GetCounter().GetValue())
	}
}

// checkCosts fails unless each counted trace has its cost counted once at most, and at the
// end of a schedule is in the histogram, unknown or waiting. It takes the costs out of what is shown.
func (s *simulation) checkCosts(got map[string]uint64) {
	final, unknown := got[costsFinal], got[costsUnknown]
	each := uint64(traceCost.Cost)
	if got[costsDollars] != each*final || got[costsSum] != each*final || got[costsTokens] != uint64(traceCost.InputTokens+traceCost.OutputTokens)*final {
		s.fail("%d traces have final costs of %d and %d nanodollars, and %d tokens", final, got[costsDollars], got[costsSum], got[costsTokens])
	}
	for _, key := range []string{costsFinal, costsUnknown, costsDollars, costsSum, costsTokens} {
		delete(got, key)
	}
	if len(s.zero) > 0 && !s.strict {
		return // counts are not shown
	}
	traces := uint64(0)
	for key, n := range got {
		if strings.HasPrefix(key, "opper_traces_total{") {
			traces += n
		}
	}
	waiting := uint64(s.project.CostsWaiting())
	if final+unknown > traces || s.strict && final+unknown+waiting != traces {
		s.fail("%d traces are counted, %d have final costs, those of %d are unknown, and %d wait", traces, final, unknown, waiting)
	}
}
