package grafana_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// A real server that scrapes a real exporter says what each model and each agent has
// cost, as far as increase can: it extrapolates to the borders of its range.
func TestServerKnowsWhatWasSpent(t *testing.T) {
	const project = "0b6f1c6e-0000-4000-8000-000000000001"
	usage := oppertest.NewUsage(oppertest.UsageConfig{})
	usage.SetBudget(project, oppertest.Budget{LimitCents: new(int64(100_000))})
	opper := oppertest.New(oppertest.Config{Usage: usage, Project: project})
	call := func(model, trace string, dollars float64) {
		usage.Add(oppertest.Call{Time: time.Now(), Model: &model, Project: project, Trace: trace, Amounts: oppertest.Amounts{Cost: int64(dollars * 1e9), InputTokens: 1000, OutputTokens: 100}})
	}
	begin := time.Now().Add(-time.Minute)
	trace := func(id, name, status string) {
		opper.Add(oppertest.Trace{ID: id, Name: &name, Status: &status, Start: &begin, End: new(time.Now()), Tokens: new(int64(1100))})
	}
	// History, which is no increase.
	call("openai/gpt-5", "", 40)
	trace("history", "triage", "success")

	_, address := startExporter(t, opper)
	server := promtest.Start(t, promtest.Config{YAML: fmt.Sprintf(`
global: {scrape_interval: %[1]v, scrape_timeout: %[1]v}
scrape_configs:
  - job_name: opper
    static_configs: [{targets: [%[2]q]}]
`, scrapeInterval, address)})
	// The server is the only scraper: another would have to read the zeros of new series, too.
	promtest.Eventually(t, func() error {
		vector, err := server.Query(t.Context(), `count_over_time(opper_usage_cost_usd_total[1m]) > 2 and on (project) opper_project_spend_usd`, time.Now())
		if err == nil && len(vector) == 0 {
			err = errors.New("no usage or no budget is scraped")
		}
		return err
	})

	call("openai/gpt-5", "one", 10)
	call("mistral/mistral-small", "one", 2)
	call("openai/gpt-5", "two", 20)
	call("openai/gpt-5", "", 5)
	trace("one", "triage", "success")
	trace("two", "triage", "failure")
	// The budget is read every five minutes.
	now := time.Now().UTC()
	rest := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).Sub(now).Hours() / 24
	for _, test := range []struct {
		title, ref string
		labels     string
		want       float64
	}{
		{"Spent this month", "A", `{}`, 40},
		{"Of the limit", "A", `{}`, 0.04},
		{"Models", "A", `{model="openai/gpt-5"}`, 35},
		{"Models", "A", `{model="mistral/mistral-small"}`, 2},
		{"Agents", "A", `{project="default", trace_name="triage"}`, 32},
		{"Agents", "F", `{project="default", trace_name="triage"}`, 20},
		{"Agents", "C", `{project="default", trace_name="triage"}`, 16},
		{"Spent today", "A", `{}`, 37},
		{"Forecast", "A", `{}`, 40 + 37*rest},
	} {
		promql := costExpression(t, test.title, test.ref, "3600s")
		promtest.Eventually(t, func() error {
			vector, err := server.Query(t.Context(), promql, time.Now())
			if err != nil {
				return err
			}
			for _, sample := range vector {
				if got := float64(sample.Value); sample.Metric.String() == test.labels && got > 0.99*test.want && got < 1.2*test.want {
					return nil
				}
			}
			return fmt.Errorf("%s, %s: %s is not %v in %v", test.title, test.ref, test.labels, test.want, vector)
		})
	}
}
