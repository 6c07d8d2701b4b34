package statuspage

import (
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/status"
)

// The most expensive models have rows of their own, and the rows add up.
func TestModelsByCost(t *testing.T) {
	p := healthy()
	c := newCost(p.Usage)
	var names []string
	sum := c.Rest
	for _, m := range c.Top {
		names = append(names, m.Name)
		add(&sum, m)
	}
	if got, want := strings.Join(names, " "), "anthropic/claude-sonnet-4.5 openai/gpt-5 gcp/gemini-2.5-flash openai/gpt-5-mini groq/llama-3.3-70b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if sum != c.Total || c.More != 2 || c.Total.Calls != 372_638 {
		t.Errorf("%+v and %d more: %+v", c.Top, c.More, c.Total)
	}
	if p.Usage.Models[0].Name != "openai/gpt-5-mini" {
		t.Error("the models of the collector were sorted")
	}
}

// What was counted of models that have expired is part of the total.
func TestExpiredModels(t *testing.T) {
	p := healthy()
	before := newCost(p.Usage).Total
	p.Usage.Expired = status.Model{Calls: 12_345, Cost: 2 * status.Dollar}
	if total := newCost(p.Usage).Total; total.Calls != before.Calls+12_345 || total.Cost != before.Cost+2*status.Dollar {
		t.Errorf("the total is %+v, was %+v", total, before)
	}
	p.Usage.Models = nil
	if text := rendered(t, testConfig(), p); !strings.Contains(text, `Expired</th><td>12,345</td><td>$2.00<`) || strings.Contains(text, "No usage has been counted") {
		t.Error("expired models are not shown")
	}
}

func TestBudgets(t *testing.T) {
	for name, c := range map[string]struct {
		budget         status.Budget
		want, unwanted string
		notice         bool
	}{
		"far":       {status.Budget{SpentCents: 799, LimitCents: 1000, HasSpent: true, HasLimit: true}, "$7.99 spent, 79 % of $10.00", "Blocked", false},
		"near":      {status.Budget{SpentCents: 800, LimitCents: 1000, HasSpent: true, HasLimit: true}, "$8.00 spent, 80 % of $10.00", "Blocked", true},
		"limit 0":   {status.Budget{SpentCents: 1, HasSpent: true, HasLimit: true}, "$0.01 spent, – of $0.00", "Blocked", true},
		"no limit":  {status.Budget{SpentCents: 1 << 40, HasSpent: true}, "$10,995,116,277.76 spent, no limit", "Blocked", false},
		"blocked":   {status.Budget{Blocked: true, HasBlocked: true}, "yes: Opper refuses calls of this project", "spent", true},
		"unblocked": {status.Budget{HasBlocked: true}, `Blocked</th><td>no<`, "spent", false},
	} {
		p := noTraces()
		p.Usage.Budget = &c.budget
		text := rendered(t, testConfig(), p)
		if !strings.Contains(text, c.want) || strings.Contains(text, c.unwanted) || strings.Contains(text, `class="notice"`) != c.notice {
			t.Errorf("%s: no %q, or %q, or a notice that is not %t", name, c.want, c.unwanted, c.notice)
		}
	}
}

func TestUsageThatIsNotThere(t *testing.T) {
	off, fresh, listed, undecided := noTraces(), noTraces(), noTraces(), noTraces()
	off.Usage = nil
	fresh.Usage = &status.Usage{Reads: []status.UsageRead{{Kind: "model"}}, Since: time.Time{}}
	listed.Published.Listed = 1
	undecided.Usage = &status.Usage{Reads: []status.UsageRead{{Kind: "model", Up: true}}, IsUndecided: true}
	for name, c := range map[string]struct {
		project              status.Project
		cost, first, noTrace bool
	}{
		"off": {off, false, false, false}, "not read yet": {fresh, true, true, false}, "no traces": {noTraces(), true, false, true}, "an open trace": {listed, true, false, false},
		"undecided": {undecided, true, false, false},
	} {
		text := rendered(t, testConfig(), c.project)
		if strings.Contains(text, "<h3>Cost</h3>") != c.cost || strings.Contains(text, "No usage has been counted yet") != c.first || strings.Contains(text, "No traces listed, only usage") != c.noTrace {
			t.Errorf("%s: want %+v", name, c)
		}
	}
}
