package exportertest

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Costs exposes the families of cost of some projects in place of an exporter that
// has none. Its counters grow with each scrape.
type Costs struct {
	registry *prometheus.Registry
	projects []string
	exemplar prometheus.Labels

	usageCost, usageTokens, usageCalls, traceCost, traceTokens, unknown, corrections *prometheus.CounterVec
	spend, limit, blocked, up, lastSuccess                                           *prometheus.GaugeVec
	perTrace                                                                         *prometheus.HistogramVec
}

// NewCosts returns the costs of some projects. The exemplars have the id of a trace.
func NewCosts(traceID string, projects ...string) *Costs {
	c := &Costs{registry: prometheus.NewRegistry(), projects: projects, exemplar: prometheus.Labels{"trace_id": traceID}}
	counter := func(name string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "Of tests."}, append([]string{"project"}, labels...))
		c.registry.MustRegister(v)
		return v
	}
	gauge := func(name string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "Of tests."}, append([]string{"project"}, labels...))
		c.registry.MustRegister(v)
		return v
	}
	c.usageCost = counter("opper_usage_cost_usd_total", "opper_project", "model")
	c.usageTokens = counter("opper_usage_tokens_total", "opper_project", "model", "token_type")
	c.usageCalls = counter("opper_usage_calls_total", "opper_project", "model")
	c.traceCost = counter("opper_trace_cost_usd_total", "trace_name", "outcome")
	c.traceTokens = counter("opper_trace_model_tokens_total", "trace_name", "token_type")
	c.unknown = counter("opper_exporter_trace_costs_unknown_total")
	c.corrections = counter("opper_exporter_usage_corrections_total")
	c.spend, c.limit, c.blocked = gauge("opper_project_spend_usd"), gauge("opper_project_spend_limit_usd"), gauge("opper_project_blocked")
	c.up, c.lastSuccess = gauge("opper_usage_up", "kind"), gauge("opper_exporter_usage_last_success_timestamp_seconds", "kind")
	c.perTrace = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "opper_cost_usd_per_trace", Help: "Of tests.", Buckets: []float64{0.001, 0.01, 0.1}, NativeHistogramBucketFactor: 1.1,
	}, []string{"project", "trace_name"})
	c.registry.MustRegister(c.perTrace)
	c.grow()
	return c
}

func (c *Costs) grow() {
	for _, project := range c.projects {
		for _, model := range []string{"openai/gpt-5", "(other)"} {
			for _, own := range []string{"", "0192f3a4"} {
				c.usageCost.WithLabelValues(project, own, model).Add(0.02)
				c.usageCalls.WithLabelValues(project, own, model).Inc()
				for _, kind := range []string{"input", "output"} {
					c.usageTokens.WithLabelValues(project, own, model, kind).Add(1000)
				}
			}
		}
		for _, name := range []string{"support-triage", "invoice-extraction"} {
			for _, outcome := range []string{"success", "failure", "unknown", "abandoned"} {
				c.traceCost.WithLabelValues(project, name, outcome).Add(0.005)
			}
			for _, kind := range []string{"input", "output"} {
				c.traceTokens.WithLabelValues(project, name, kind).Add(500)
			}
			if o, ok := c.perTrace.WithLabelValues(project, name).(prometheus.ExemplarObserver); ok {
				o.ObserveWithExemplar(0.02, c.exemplar)
			}
		}
		c.unknown.WithLabelValues(project).Inc()
		c.corrections.WithLabelValues(project).Inc()
		c.spend.WithLabelValues(project).Set(12)
		c.limit.WithLabelValues(project).Set(100)
		c.blocked.WithLabelValues(project).Set(0)
		for _, kind := range []string{"model", "trace", "budget"} {
			c.up.WithLabelValues(project, kind).Set(1)
			c.lastSuccess.WithLabelValues(project, kind).SetToCurrentTime()
		}
	}
}

func (c *Costs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.grow()
	promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
}
