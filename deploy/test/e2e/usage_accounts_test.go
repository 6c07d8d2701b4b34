package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// run starts an exporter against the list of a project of an account.
func (a *account) run(t *testing.T, s *oppertest.Server, flags ...string) *exportertest.Process {
	t.Helper()
	cmd := command(t, opper(t, s), append([]string{"--storage.path=" + t.TempDir(), fast, noSettle}, flags...)...)
	cmd.Env = append(cmd.Env, "OPPER_API_KEY="+s.Config().Key)
	return exportertest.MustStart(t, cmd)
}

// once fails the test unless exactly one line of the log holds all texts.
func once(t *testing.T, p *exportertest.Process, texts ...string) {
	t.Helper()
	if n := len(p.Log.Lines(texts...)); n != 1 {
		t.Errorf("%d lines with %q in the log", n, texts)
	}
}

// An account that stores no traces has its usage, and the log and the status page say why
// there are no traces.
func TestAccountWithoutTraces(t *testing.T) {
	t.Parallel()
	a := newAccount(oppertest.UsageTroubles{})
	s := a.list("shop")
	for i := range 20 {
		a.call("shop", fmt.Sprint("model-", i%3), fmt.Sprint("not-stored-", i), int64(1_111_111_111*(i+1)), time.Duration(i)*time.Hour)
	}
	p := a.run(t, s, readOften)
	eventually(t, p, a.counts(ownOnly("default")))
	a.call("shop", "model-1", "not-stored", 987_654_321, 0)
	r := eventually(t, p, a.counts(ownOnly("default")))
	want := map[string]float64{"opper_up": 1, "opper_traces_listed": 0, `opper_usage_up{kind="model"}`: 1, `opper_usage_up{kind="budget"}`: 1, "opper_exporter_gaps_total": 0}
	got := map[string]float64{
		"opper_up": r.Rest.Project("opper_up"), "opper_traces_listed": r.Rest.Project("opper_traces_listed"), "opper_exporter_gaps_total": r.Lasting.Project("opper_exporter_gaps_total"),
		`opper_usage_up{kind="model"}`: r.Rest.Total("opper_usage_up", `kind="model"`), `opper_usage_up{kind="budget"}`: r.Rest.Total("opper_usage_up", `kind="budget"`),
	}
	if err := differ(got, want); err != nil {
		t.Error(err)
	}
	once(t, p, "level=info", `msg="usage without listed traces"`)
	if lines := append(p.Log.Lines("level=warn"), p.Log.Lines("level=error")...); len(lines) > 0 {
		t.Errorf("it complains: %q", lines)
	}
	if page := body(t, p, "/"); !strings.Contains(page, "No traces listed, only usage") || !strings.Contains(page, "retention rule") {
		t.Errorf("the status page gives no hint:\n%s", page)
	}
	p.Stop(t)
}

// body returns a page of an exporter.
func body(t *testing.T, p *exportertest.Process, path string) string {
	t.Helper()
	conn := exportertest.Dial(t, p.AwaitListening(t), "GET "+path+" HTTP/1.0\r\n\r\n")
	page, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// graceful are the times of grace of alerts.
var graceful = regexp.MustCompile(`(?m)^( *for: ).*$`)

// An account whose key may not read usage has its traces, and an alert says that cost is
// missing. Opper is not asked again and again.
func TestAccountWithoutUsage(t *testing.T) {
	t.Parallel()
	// The budget fails for some other reason, and shows how often it is read.
	a := newAccount(oppertest.UsageTroubles{Status: http.StatusForbidden, BudgetStatus: http.StatusInternalServerError})
	s := a.list("shop")
	a.traces(s, 30, "agent", "success", "openai/gpt-5")
	p := a.run(t, s, readOften)
	rules, files := acceleratedRules(t)
	// All alerts are quick here, and nothing is said of when.
	rules["opper_alerts.yml"] = graceful.ReplaceAllString(rules["opper_alerts.yml"], "${1}2s")
	server := promtest.Start(t, promtest.Config{
		YAML: fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: %s
scrape_configs: [{job_name: opper, static_configs: [{targets: [%q]}]}]
`, files, p.AwaitListening(t)),
		RuleFiles: rules,
	})
	eventually(t, p, func(r *exportertest.Reading) error {
		if up, ok := r.Rest[`opper_usage_up{kind="model",project="default"}`]; !ok || up != 0 {
			return fmt.Errorf("opper_usage_up is %v (there: %v), want 0", up, ok)
		}
		return nil
	})
	a.traces(s, 10, "agent", "error", "openai/gpt-5")
	p.AwaitLog(t, "kind=budget", `msg="usage read failed"`)
	// With the budget, usage would be read again.
	first := s.RequestCount(oppertest.BudgetEndpoint)
	promtest.Eventually(t, func() error {
		if n := s.RequestCount(oppertest.BudgetEndpoint); n <= first {
			return fmt.Errorf("%d requests of the budget", n)
		}
		return nil
	})
	r := eventually(t, p, func(r *exportertest.Reading) error {
		if n := r.Lasting.Total("opper_traces_total", ""); n != 40 {
			return fmt.Errorf("%v traces are counted", n)
		}
		return nil
	})
	if up, failures := r.Rest.Project("opper_up"), r.Lasting.Total("opper_traces_total", `outcome="failure"`); up != 1 || failures != 10 {
		t.Errorf("opper_up is %v, and %v traces have failed", up, failures)
	}
	if n := r.Lasting.Total("opper_usage_cost_usd_total", "") + r.Lasting.Total("opper_usage_calls_total", ""); n != 0 {
		t.Errorf("usage of %v", n)
	}
	once(t, p, "level=warn", "kind=model", `msg="usage refused"`, "403")
	requests := map[string]int{}
	for _, req := range s.Requests(oppertest.UsageEndpoint) {
		requests[strings.Join(req.Usage.GroupBy, ",")]++
	}
	if requests["model,project.uuid"] != 1 || requests["trace_uuid,project.uuid"] > 1 {
		t.Errorf("requests of usage: %v", requests)
	}
	fires := func(name, kind string) (int, error) {
		v, err := server.Query(t.Context(), fmt.Sprintf(`last_over_time(ALERTS{alertname=%q,kind=~%q,alertstate="firing"}[5m])`, name, kind), time.Now())
		return len(v), err
	}
	promtest.Eventually(t, func() error {
		n, err := fires("OpperUsageUnavailable", "model")
		if err == nil && n != 1 {
			err = fmt.Errorf("%d alerts", n)
		}
		return err
	})
	for _, other := range []string{"OpperUsageFailing", "OpperSyncFailing", "OpperTraceCostsUnknown"} {
		if n, err := fires(other, ".*"); err != nil || n > 0 {
			t.Errorf("%d alerts %s, %v", n, other, err)
		}
	}
	p.Stop(t)
}

// A key that alone sees the whole organization counts all of it, by Opper project; that
// of its own traces is its own.
func TestOrganizationWideKey(t *testing.T) {
	t.Parallel()
	a := newAccount(oppertest.UsageTroubles{OrganizationWide: true, Duplicates: 0.3, Shuffle: true})
	s := a.list("shop")
	a.traces(s, 5, "agent", "success", "openai/gpt-5")
	add := func(ago time.Duration) {
		for i, project := range []string{"shop", "desk", "lab"} {
			a.call(project, "openai/gpt-5", "", int64(1_000_000_007*(i+1)), ago)
			a.call(project, "mistral/large", "elsewhere", int64(2_000_000_011*(i+1)), ago)
		}
		a.call("desk", "", "", 5, ago)
	}
	add(30 * time.Hour)
	add(time.Minute)
	whose := func(uuid string) (project, opperProject string) {
		if uuid == uuidOf("shop") {
			return "default", ""
		}
		return "default", uuid
	}
	p := a.run(t, s, readOften)
	eventually(t, p, a.counts(whose))
	add(0)
	a.call("new", "openai/gpt-5", "", 3, 0) // a project that comes later
	r := eventually(t, p, a.counts(whose))
	if total, own := r.Lasting.Total("opper_usage_calls_total", ""), r.Lasting.Total("opper_usage_calls_total", `opper_project=""`); total != 5+3*7+1 || own != 5+3*2 {
		t.Errorf("%v calls, %v of its own", total, own)
	}
	p.Stop(t)
}

// Switched off, nothing of usage or the budget is asked for, and none of their metrics is
// there.
func TestUsageIsOff(t *testing.T) {
	t.Parallel()
	a := newAccount(oppertest.UsageTroubles{})
	s := a.list("shop")
	a.SetBudget(uuidOf("shop"), oppertest.Budget{LimitCents: new(int64(100))})
	a.traces(s, 5, "agent", "success", "openai/gpt-5")
	p := a.run(t, s, "--collector.usage-interval=0s")
	p.AwaitReady(t)
	a.traces(s, 5, "later", "error", "openai/gpt-5")
	eventually(t, p, func(r *exportertest.Reading) error {
		if n := r.Lasting.Total("opper_traces_total", ""); n != 10 {
			return fmt.Errorf("%v traces are counted", n)
		}
		return nil
	})
	families, err := exportertest.Families(t.Context(), p.AwaitListening(t))
	if err != nil {
		t.Fatal(err)
	}
	for name := range families {
		if strings.Contains(name, "usage") || strings.Contains(name, "cost") || strings.Contains(name, "opper_project_") || strings.Contains(name, "opper_trace_model_") {
			t.Errorf("%s is exposed", name)
		}
	}
	if n := s.RequestCount(oppertest.UsageEndpoint, oppertest.BudgetEndpoint); n != 0 {
		t.Errorf("%d requests", n)
	}
	p.Stop(t)
}
