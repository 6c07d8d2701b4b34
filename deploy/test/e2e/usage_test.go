package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// readOften is as often as usage may be read.
const readOften = "--collector.usage-interval=10s"

// nanos is how many of the units of money are a US dollar.
const nanos = 1e9

// account is the usage of an Opper organization, all of it in the month in which the test
// began: what is older is counted by no first read.
type account struct {
	*oppertest.Usage
	month time.Time
}

func newAccount(troubles oppertest.UsageTroubles) *account {
	now := time.Now().UTC()
	a := &account{oppertest.NewUsage(oppertest.UsageConfig{Seed: 1}), time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)}
	a.SetTroubles(troubles)
	return a
}

func uuidOf(project string) string { return "uuid-of-" + project }

// list returns the list of a project of the account.
func (a *account) list(project string) *oppertest.Server {
	return oppertest.New(oppertest.Config{Key: keyOf(project), Usage: a.Usage, Project: uuidOf(project)})
}

// call adds a call. Its tokens are made from its cost. One of some time ago shows at once.
func (a *account) call(project, model, trace string, cost int64, ago time.Duration) {
	c := oppertest.Call{
		Time: time.Now().Add(-ago), Model: &model, Project: uuidOf(project), Trace: trace,
		Amounts: oppertest.Amounts{Cost: cost, InputTokens: cost % 9973, OutputTokens: cost % 997},
	}
	if ago > 0 {
		c.Shown = time.Now()
	}
	if c.Time.Before(a.month) {
		c.Time = a.month
	}
	a.Add(c)
}

// traces lists traces that have just ended, each with a call.
func (a *account) traces(s *oppertest.Server, n int, name, status, model string) {
	for i, tr := range many(n, name, status, time.Now()) {
		s.Add(tr)
		a.call(strings.TrimPrefix(s.Config().Project, uuidOf("")), model, tr.ID, int64(1_234_567+1_000_003*i), 0)
	}
}

// series returns the series of all usage that shows now. Whose says what the labels
// project and opper_project are for an Opper project; an empty project is not counted.
func (a *account) series(whose func(uuid string) (project, opperProject string)) exportertest.Series {
	sums := map[[3]string]oppertest.Amounts{}
	for key, amounts := range a.ByModel() {
		project, opperProject := whose(key.Project)
		name := key.Model
		if name == "" {
			name = "(none)"
		}
		sum := sums[[3]string{name, opperProject, project}]
		sum.Cost, sum.Calls = sum.Cost+amounts.Cost, sum.Calls+amounts.Calls
		sum.InputTokens, sum.OutputTokens = sum.InputTokens+amounts.InputTokens, sum.OutputTokens+amounts.OutputTokens
		sums[[3]string{name, opperProject, project}] = sum
	}
	all := exportertest.Series{}
	for key, sum := range sums {
		if key[2] == "" {
			continue
		}
		labels := fmt.Sprintf("model=%q,opper_project=%q,project=%q", aggregate.Label(key[0]), key[1], key[2])
		if key[0] == "(none)" {
			labels = fmt.Sprintf("model=%q,opper_project=%q,project=%q", key[0], key[1], key[2])
		}
		all["opper_usage_cost_usd_total{"+labels+"}"] = float64(sum.Cost) / nanos
		all["opper_usage_calls_total{"+labels+"}"] = float64(sum.Calls)
		all["opper_usage_tokens_total{"+labels+`,token_type="input"}`] = float64(sum.InputTokens)
		all["opper_usage_tokens_total{"+labels+`,token_type="output"}`] = float64(sum.OutputTokens)
	}
	return all
}

// ownOnly is for keys that see their own project.
func ownOnly(project string) func(string) (string, string) {
	return func(string) (string, string) { return project, "" }
}

// usageOf returns the series of usage by model of a scrape.
func usageOf(r *exportertest.Reading) exportertest.Series {
	all := maps.Clone(r.Lasting)
	maps.DeleteFunc(all, func(key string, _ float64) bool { return !strings.HasPrefix(key, "opper_usage_") })
	return all
}

// eventually waits until a condition on what a process exposes is true, and returns that
// scrape. Usage may have to be read a few times until then.
func eventually(t *testing.T, p *exportertest.Process, condition func(*exportertest.Reading) error) *exportertest.Reading {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	address, err := p.Listening(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var r *exportertest.Reading
	if err := p.Await(ctx, func() error {
		var err error
		if r, err = exportertest.Scrape(ctx, address); err != nil {
			return err
		}
		if err = condition(r); errors.Is(err, errTooMuch) {
			t.Fatal(err)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

// errTooMuch is what no waiting mends.
var errTooMuch = errors.New("more is counted than there is")

// counts is a condition that usage by model is what it should be, to the last digit.
func (a *account) counts(whose func(uuid string) (project, opperProject string)) func(*exportertest.Reading) error {
	return func(r *exportertest.Reading) error {
		got, want := usageOf(r), a.series(whose) // asked after the scrape, as usage grows
		for key, value := range got {
			if value > want[key] {
				return fmt.Errorf("%w: %s is %v, want %v", errTooMuch, key, value, want[key])
			}
		}
		return differ(got, want)
	}
}

// byAgent returns the cost of the traces of each name and outcome in a list, in 10⁻⁹
// dollars, and how many they are.
func (a *account) byAgent(s *oppertest.Server) (costs, traces map[[2]string]int64) {
	costs, traces = map[[2]string]int64{}, map[[2]string]int64{}
	byTrace := a.ByTrace()
	for _, tr := range s.Snapshot() {
		if cost, ok := byTrace[tr.ID]; ok {
			key := [2]string{*tr.Name, map[string]string{"success": "success", "error": "failure"}[*tr.Status]}
			costs[key] += cost.Cost
			traces[key]++
		}
	}
	return costs, traces
}

// countsAgents is a condition that the cost by name and outcome is that of the traces in
// a list, to the last digit.
func (a *account) countsAgents(s *oppertest.Server) func(*exportertest.Reading) error {
	return func(r *exportertest.Reading) error {
		costs, _ := a.byAgent(s)
		var all []error
		for key, cost := range costs {
			series := fmt.Sprintf("opper_trace_cost_usd_total{outcome=%q,project=\"default\",trace_name=%q}", key[1], key[0])
			if got, want := r.Lasting[series], float64(cost)/nanos; got != want {
				all = append(all, fmt.Errorf("%s is %v, want %v", series, got, want))
			}
		}
		return errors.Join(all...)
	}
}

// documented returns the query below a comment in the documentation of cost.
func documented(t *testing.T, comment string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "cost.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n# "+comment)
	_, rest, isLine := strings.Cut(rest, "\n")
	query, _, isEnded := strings.Cut(strings.ReplaceAll(rest, "\n```", "\n\n"), "\n\n")
	if !found || !isLine || !isEnded {
		t.Fatalf("no query %q in cost.md", comment)
	}
	return query
}

// A Prometheus server computes cost per day, by model and by agent, and the forecast, with
// the documented queries and with the rules, and what it has stored is the truth.
func TestPrometheusComputesCost(t *testing.T) {
	t.Parallel()
	const limit = 5000_00
	a := newAccount(oppertest.UsageTroubles{RollUp: time.Second, Duplicates: 0.3, Shuffle: true, Shapes: true, UnknownFields: true})
	s := a.list("shop")
	a.SetBudget(uuidOf("shop"), oppertest.Budget{LimitCents: new(int64(limit))})
	for i, name := range []string{"openai/gpt-5", "mistral/large", "gcp/gemini"} {
		for hour := range 40 {
			a.call("shop", name, "", int64(700_000_001*(i+1)), time.Duration(hour)*time.Hour)
		}
	}
	s.Add(many(5, "old", "success", time.Now().Add(-3*time.Hour))...)
	url, address, stored := opper(t, s), exportertest.FreeAddress(t), "--storage.path="+t.TempDir()
	run := func() *exportertest.Process {
		cmd := at(address, command(t, url, stored, fast, noSettle, readOften))
		cmd.Env = append(cmd.Env, "OPPER_API_KEY="+keyOf("shop"))
		return exportertest.MustStart(t, cmd)
	}
	p := run()
	eventually(t, p, a.counts(ownOnly("default")))
	before := a.ByModel()
	rules, files := acceleratedRules(t)
	server := promtest.Start(t, promtest.Config{
		YAML: fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: %s
scrape_configs: [{job_name: opper, static_configs: [{targets: [%q]}]}]
`, files, address),
		RuleFiles: rules,
	})
	server.WaitScrapes(t, "opper", 3)

	a.traces(s, 30, "old", "success", "openai/gpt-5")
	a.traces(s, 10, "old", "error", "mistral/large")
	a.traces(s, 20, "new", "success", "mistral/large")
	a.call("shop", "gcp/gemini", "", 3_000_000_007, 0)
	a.call("shop", "gcp/gemini", "", 7, 2*time.Minute)
	eventually(t, p, func(r *exportertest.Reading) error {
		return errors.Join(a.counts(ownOnly("default"))(r), a.countsAgents(s)(r))
	})
	server.WaitScrapes(t, "opper", 2)
	// The budget is read when it starts.
	p.Stop(t)
	p = run()
	var spent int64
	for _, amounts := range a.ByModel() {
		spent += amounts.Cost
	}
	spend := float64(spent/10_000_000) / 100
	eventually(t, p, func(r *exportertest.Reading) error {
		want := map[string]float64{"opper_project_spend_usd": spend, "opper_project_spend_limit_usd": limit / 100, "opper_project_blocked": 0}
		got := map[string]float64{}
		for name := range want {
			got[name] = r.Rest.Project(name)
		}
		return errors.Join(differ(got, want), a.counts(ownOnly("default"))(r), a.countsAgents(s)(r))
	})
	server.WaitScrapes(t, "opper", 2)

	// What has been stored is exact and never falls.
	costs, traces := a.byAgent(s)
	stream := raw(t, server)
	for key, want := range a.series(ownOnly("default")) {
		ends(t, stream, key, want)
	}
	for key, cost := range costs {
		ends(t, stream, fmt.Sprintf("opper_trace_cost_usd_total{outcome=%q,project=\"default\",trace_name=%q}", key[1], key[0]), float64(cost)/nanos)
	}
	ends(t, stream, `opper_cost_usd_per_trace_count{project="default",trace_name="old"}`, float64(traces[[2]string{"old", "success"}]+traces[[2]string{"old", "failure"}]))
	ends(t, stream, `opper_exporter_trace_costs_unknown_total{project="default"}`, 5)

	// What is computed is that, but for what increase() extrapolates.
	byModel, byAgent, failures, day := map[string]float64{}, map[string]float64{}, map[string]float64{}, 0.0
	for key, amounts := range a.ByModel() {
		cost := float64(amounts.Cost-before[key].Cost) / nanos
		byModel[key.Model] += cost
		day += cost
	}
	for key, cost := range costs {
		byAgent[key[0]] += float64(cost) / nanos
		failures[key[0]] += 0
		if key[1] == "failure" {
			failures[key[0]] += float64(cost) / nanos
		}
	}
	fewest := math.MaxInt
	for key, samples := range stream {
		if strings.HasPrefix(key, "opper_usage_cost_usd_total{") || strings.HasPrefix(key, "opper_trace_cost_usd_total{") {
			fewest = min(fewest, len(samples))
		}
	}
	c := computed{t, server, 2.2 / float64(fewest-1)}
	c.is(documented(t, "Cost of the last 24 hours"), "project", map[string]float64{"default": day})
	c.is(`project:opper_usage_cost_usd:increase1d`, "project", map[string]float64{"default": day})
	c.is(`project:opper_usage_own_cost_usd:increase1d`, "project", map[string]float64{"default": day})
	c.is(documented(t, "By model"), "model", byModel)
	c.is(`project_model:opper_usage_cost_usd:increase1d`, "model", byModel)
	c.is(documented(t, "By agent"), "trace_name", byAgent)
	c.is(`project_trace_name:opper_trace_cost_usd:increase1d`, "trace_name", byAgent)
	c.is(documented(t, "Cost of failures"), "trace_name", failures)
	c.is(documented(t, "Share of the monthly limit"), "project", map[string]float64{"default": spend / (limit / 100)})
	c.forecast(spend, day)
	p.Stop(t)
}

// raw returns the samples that a server has stored, by series as in the exposition.
func raw(t *testing.T, server *promtest.Server) map[string][]model.SamplePair {
	t.Helper()
	m, err := server.Samples(t.Context(), `{job="opper",__name__=~"opper_(usage|trace|cost|exporter_usage|exporter_trace).*"}`, window)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]model.SamplePair{}
	for _, stream := range m {
		name := string(stream.Metric[model.MetricNameLabel])
		for _, label := range []model.LabelName{model.MetricNameLabel, model.JobLabel, model.InstanceLabel} {
			delete(stream.Metric, label)
		}
		var labels []string
		for label, value := range stream.Metric {
			labels = append(labels, fmt.Sprintf("%s=%q", label, string(value)))
		}
		slices.Sort(labels)
		all[name+"{"+strings.Join(labels, ",")+"}"] = stream.Values
	}
	return all
}

// ends fails the test if the samples of a series ever fall, or do not end at a value.
func ends(t *testing.T, all map[string][]model.SamplePair, key string, want float64) {
	t.Helper()
	samples := all[strings.Replace(key, `opper_project="",`, "", 1)] // an empty label is none
	if len(samples) == 0 {
		t.Errorf("no samples of %s", key)
		return
	}
	for i, s := range samples[1:] {
		if s.Value < samples[i].Value {
			t.Errorf("%s falls from %v to %v", key, samples[i], s)
		}
	}
	if got := float64(samples[len(samples)-1].Value); got != want {
		t.Errorf("%s ends at %v, want %v", key, got, want)
	}
}
