package exportertest

import (
	"context"
	"errors"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/opper/oppertest"
)

// NewOpper returns an Opper whose project has usage and a limit, so that an exporter
// has all families.
func NewOpper() *oppertest.Server {
	const project = "0b6f1c6e-0000-4000-8000-000000000001"
	usage := oppertest.NewUsage(oppertest.UsageConfig{})
	usage.Add(oppertest.Call{
		Time: time.Now(), Model: new("openai/gpt-5"), Project: project,
		Amounts: oppertest.Amounts{Cost: 1_000_000, InputTokens: 100, OutputTokens: 10},
	})
	usage.SetBudget(project, oppertest.Budget{LimitCents: new(int64(100))})
	return oppertest.New(oppertest.Config{Usage: usage, Project: project})
}

// FamiliesWithUsage returns what the process exposes as soon as it has read usage and
// budget, which it does beside the traces.
func (p *Process) FamiliesWithUsage(ctx context.Context, address string) (families map[string]*dto.MetricFamily, err error) {
	err = p.Await(ctx, func() error {
		var err error
		if families, err = Families(ctx, address); err == nil && (families["opper_project_spend_usd"] == nil || families["opper_usage_cost_usd_total"] == nil) {
			err = errors.New("no usage or no budget is exposed")
		}
		return err
	})
	return families, err
}
