package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/status"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

// The metric families of usage by model. opper_project is empty for the usage of the
// project's own, and the UUID of another project of the organization.
var (
	usageCost = newDesc("opper_usage_cost_usd_total",
		"Cost of model calls in US dollars. From Opper's usage (cost by model), each hour at the highest value that it had.",
		"model", "opper_project")
	usageTokens = newDesc("opper_usage_tokens_total",
		"Tokens of model calls. From Opper's usage (prompt_tokens is input, completion_tokens is output), each hour at the highest value that it had.",
		"model", "opper_project", "token_type")
	usageCalls = newDesc("opper_usage_calls_total",
		"Model calls. From Opper's usage (count by model), each hour at the highest value that it had.",
		"model", "opper_project")
	usageCorrections = newDesc("opper_exporter_usage_corrections_total",
		"Hours of a model whose usage became smaller than it had been. Nothing is subtracted from the counters. From Opper's usage (cost by model).")
	usageIncomplete = newDesc("opper_exporter_usage_incomplete_total",
		"Hours of a model whose usage could not be read in full, as a row is unreadable or answers lack rows. From Opper's usage (cost by model).")
)

// publish exposes what is counted, since a time. It must be durable.
func (r *usageReader) publish(since time.Time) {
	expired := r.set.Expired()
	was := expired.Exposed()
	out, st := snapshot{}, status.Usage{Since: expired.Created, Expired: status.Model{Cost: was[usage.Cost], Calls: was[usage.Calls]}}
	for _, m := range r.set.Models() {
		v, created := m.Exposed(), timestamppb.New(m.Created)
		if st.Since.IsZero() || m.Created.Before(st.Since) {
			st.Since = m.Created
		}
		st.Models = append(st.Models, status.Model{Name: m.Label, OpperProject: m.OpperProject, Cost: v[usage.Cost], Calls: v[usage.Calls]})
		// Sorted by name.
		of := labels{newLabel("model", m.Label), newLabel("opper_project", m.OpperProject), r.project[0]}
		out = append(out,
			&counter{usageCost, of, float64(v[usage.Cost]) / status.Dollar, created},
			&counter{usageCalls, of, float64(v[usage.Calls]), created},
			&counter{usageTokens, append(of[:3:3], inputTokens), float64(v[usage.InputTokens]), created},
			&counter{usageTokens, append(of[:3:3], outputTokens), float64(v[usage.OutputTokens]), created})
	}
	out = append(out,
		&counter{usageCorrections, r.project, float64(r.set.Corrections), timestamppb.New(since)},
		&counter{usageIncomplete, r.project, float64(r.set.Incomplete), timestamppb.New(since)})
	r.published.Store(&out)
	r.models = st
}

// publishStatus does the same for the status, with how the last reads have ended.
func (r *usageReader) publishStatus(aggregates *aggregate.Set) {
	st := r.models
	st.CostsWaiting, st.CostsUnknown = aggregates.CostsWaiting(), aggregates.CostsUnknown
	st.IsUndecided = r.set.IsUndecided() && !r.kinds[byModel].lastSuccess.IsZero()
	for k, at := range r.kinds {
		read := status.UsageRead{Kind: usageKind(k).String(), Up: at.err == nil && !at.lastSuccess.IsZero(), Refused: at.refused, LastSuccess: at.lastSuccess}
		if at.err != nil {
			read.LastError = at.err.Error()
		}
		st.Reads = append(st.Reads, read)
	}
	if r.budget != (opper.Budget{}) {
		b := r.budget
		st.Budget = &status.Budget{
			SpentCents: b.SpentCents, LimitCents: b.LimitCents, HasSpent: b.HasSpent, HasLimit: b.HasLimit, Blocked: b.Blocked, HasBlocked: b.HasBlocked,
		}
	}
	r.publishedStatus.Store(&st)
}

// usageMetrics is the metrics about reads of usage, and what has no history: the budget.
// What has no value yet is absent.
type usageMetrics struct {
	up, lastSuccess       *prometheus.GaugeVec
	spend, limit, blocked *prometheus.GaugeVec
}

func newUsageMetrics(project string) *usageMetrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"project": project}}, labels)
	}
	return &usageMetrics{
		up: gauge("opper_usage_up",
			"1 if Opper answered the last request for usage by model, for usage by trace or for the budget, else 0.", "kind"),
		lastSuccess: gauge("opper_exporter_usage_last_success_timestamp_seconds",
			"When usage was last read successfully, in seconds since the epoch.", "kind"),
		spend: gauge("opper_project_spend_usd",
			"What the project has spent in this calendar month, in US dollars (project_spend.spent_cents of /v3/me)."),
		limit: gauge("opper_project_spend_limit_usd",
			"Monthly limit of the project in US dollars (project_spend.limit_cents of /v3/me). Absent if there is none."),
		blocked: gauge("opper_project_blocked",
			"1 if Opper blocks the calls of the project, else 0 (blocked of /v3/me)."),
	}
}

func (m *usageMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.up, m.lastSuccess, m.spend, m.limit, m.blocked}
}

// read takes in how a read has ended.
func (m *usageMetrics) read(k usageKind, at usageAttempts) {
	if at.err == nil {
		m.lastSuccess.WithLabelValues(k.String()).Set(float64(at.lastSuccess.UnixMilli()) / 1e3)
	}
	m.up.WithLabelValues(k.String()).Set(boolValue(at.err == nil))
}

// budget exposes a budget, and nothing in place of what is not known of it.
func (m *usageMetrics) budget(b opper.Budget) {
	set := func(g *prometheus.GaugeVec, value float64, known bool) {
		if known {
			g.WithLabelValues().Set(value)
		} else {
			g.Reset()
		}
	}
	set(m.spend, float64(b.SpentCents)/100, b.HasSpent)
	set(m.limit, float64(b.LimitCents)/100, b.HasLimit)
	set(m.blocked, boolValue(b.Blocked), b.HasBlocked)
}
