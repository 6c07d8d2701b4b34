package collector

import (
	"opper_exporter/collector/usage"
)

// nameSpend is what is exposed of a trace name.
type nameSpend struct {
	traces map[string]int64 // by outcome, as the next
	cost   map[string]int64 // nanodollars
	count  int64            // of costs
	sum    int64            // of them
	tokens [2]int64         // input, output
}

func newNameSpend() *nameSpend {
	return &nameSpend{traces: map[string]int64{}, cost: map[string]int64{}}
}

func (n *nameSpend) equal(o *nameSpend) bool {
	return n.count == o.count && n.sum == o.sum && n.tokens == o.tokens && equalAmounts(n.traces, o.traces) && equalAmounts(n.cost, o.cost)
}

func (n *nameSpend) isZero() bool { return n.equal(newNameSpend()) }

func equalAmounts(a, b map[string]int64) bool {
	for _, outcome := range []string{"success", "failure", "unknown", "abandoned"} {
		if a[outcome] != b[outcome] {
			return false
		}
	}
	return true
}

// names returns what has been counted by label, how many costs are unknown, and how many
// traces wait.
func (m *spendModel) names() (names map[string]*nameSpend, unknown, waiting int64) {
	names = map[string]*nameSpend{}
	for i := range m.traces {
		t := &m.traces[i]
		switch t.state {
		case costUnknown:
			unknown++
		case costWaiting:
			waiting++
		case costFinal:
		}
		if t.expired || t.label == "" {
			continue
		}
		n := names[t.label]
		if n == nil {
			n = newNameSpend()
			names[t.label] = n
		}
		n.traces[t.outcome]++
		if t.state == costFinal {
			cost := max(t.amounts[usage.Cost], 0)
			n.cost[t.outcome] += cost
			n.count, n.sum = n.count+1, n.sum+cost
			n.tokens[0] += max(t.amounts[usage.InputTokens], 0)
			n.tokens[1] += max(t.amounts[usage.OutputTokens], 0)
		}
	}
	return names, unknown, waiting
}
