package collector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// restarted is the exporter after a restart with other settings.
func (u *usageBench) restarted(cfg setup) {
	u.t.Helper()
	source := u.project.usage.source
	cfg.MaxModels = 50
	u.bench.restarted(cfg)
	u.project.usage.source = source
}

// heldCommits is a Store whose commits hang while they are held.
type heldCommits struct {
	*storetest.Memory
	held             bool
	reached, release chan struct{}
}

func (s *heldCommits) Commit(project string, changes map[string][]byte, fresh bool) error {
	if s.held {
		s.reached <- struct{}{}
		<-s.release
	}
	return s.Memory.Commit(project, changes, fresh)
}

// While the commit of usage hangs, nothing is synced, and opper_up tells of it.
func TestCommitOfUsageHangs(t *testing.T) {
	store := &heldCommits{Memory: new(storetest.Memory), reached: make(chan struct{}), release: make(chan struct{})}
	cfg := usageConfig()
	cfg.Store = store
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.sync()
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	store.held = true
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		u.read()
	}()
	<-store.reached
	u.step(minStall)
	u.expect(values{"opper_up{}": 0})
	close(store.release)
	<-ended
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
	u.step(time.Minute)
	u.expect(values{"opper_up{}": 0}) // until a sync succeeds
	store.held = false
	u.sync()
}

// An exporter that has never reached its upstream leaves no state of it: with the right
// URL, history is counted.
func TestUpstreamThatNeverAnsweredLeavesNoState(t *testing.T) {
	stored := new(storetest.Memory)
	cfg := usageConfig()
	cfg.Store = stored
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{Status: http.StatusNotFound, BudgetStatus: http.StatusNotFound})
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	cfg.UpstreamURL = "a wrong URL"
	u.restarted(cfg)
	u.opper.Fail(oppertest.Fault{Answer: oppertest.Respond(http.StatusNotFound, "application/json", "{}")})
	u.project.sync(t.Context())
	u.read()
	if stored.Entries != nil {
		t.Errorf("%d entries are stored", len(stored.Entries))
	}
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	cfg.UpstreamURL = ""
	u.restarted(cfg)
	u.sync()
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
	if strings.Contains(u.log.String(), "upstream changed") {
		t.Errorf("the log says that the upstream has changed\n%s", u.log.String())
	}
}

// Usage of another upstream begins at 0, also if the exporter is killed before it was read.
func TestUsageOfAnotherUpstreamAfterAKill(t *testing.T) {
	cfg := usageConfig()
	cfg.Store = new(storetest.Memory)
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.call("m", "", oppertest.Amounts{Cost: 2 * dollar})
	u.sync()
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{m,}": 2})
	cfg.UpstreamURL = "another upstream"
	u.restarted(cfg)
	u.sync()
	u.restarted(cfg)
	u.sync()
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{m,}": 0})
	u.step(time.Minute)
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
}

// Usage does not depend on the name filter. It continues when that changes, whenever the
// program is killed, and only what is counted of traces begins at 0.
func TestUsageGoesOnWithAnotherNameFilter(t *testing.T) {
	cfg := usageConfig()
	cfg.Store = new(storetest.Memory)
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.call("m", "", oppertest.Amounts{Cost: 2 * dollar})
	u.trace("agent", dollar)
	u.step(time.Minute)
	u.sync()
	u.read()
	const key, agent = "opper_usage_cost_usd_total{m,}", "opper_usage_cost_usd_total{openai/gpt-4o,}"
	u.expect(values{key: 2, agent: 1, "opper_traces_total{success,agent}": 1})
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	cfg.Opper.Name = "another"
	for range 2 { // what is stored is that of the other filter until the initial sync is complete
		u.step(time.Hour)
		u.restarted(cfg)
		u.expect(values{key: 2, agent: 1})
		if got := u.gather().of("opper_traces_total"); len(got) > 0 {
			t.Errorf("exposed before the initial sync: %v", got)
		}
	}
	u.sync()
	u.restarted(cfg)
	u.expect(values{key: 2, agent: 1})
	u.read()
	u.expect(values{key: 3, agent: 1, "opper_exporter_usage_corrections_total{}": 0})
	u.restarted(cfg)
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.step(time.Hour)
	u.read()
	u.expect(values{key: 4, agent: 1})
	cfg.UpstreamURL, cfg.Opper.Name = "another upstream", ""
	u.restarted(cfg)
	u.sync()
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.read()
	u.expect(values{key: 0})
}

// What was counted of usage stays exposed after a restart, also if the initial sync has
// never been complete.
func TestUsageIsExposedDuringTheInitialSync(t *testing.T) {
	cfg := usageConfig()
	cfg.Store = new(storetest.Memory)
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.read()
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
	u.restarted(cfg)
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
}

// A trace without a call, in a project that has other usage, does not keep the costs of
// later ones unknown.
func TestTraceWithoutCallsAbandonsNoCosts(t *testing.T) {
	for name, other := range map[string]string{"beside calls without a trace": "", "beside traces that are not listed": "not listed"} {
		t.Run(name, func(t *testing.T) {
			u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
			u.sync()
			u.opper.Add(oppertest.Trace{ID: "no-calls", Name: new("agent"), Status: new("error"), Start: new(u.now()), End: new(u.now())})
			run := func(minutes int) {
				for range minutes {
					u.call("m", other, oppertest.Amounts{Cost: 1})
					u.step(time.Minute)
					u.sync()
					u.read()
				}
			}
			run(20)
			up := 1.0
			if other != "" {
				up = 0
			}
			u.expect(values{"opper_exporter_trace_costs_unknown_total{}": 1, "opper_usage_up{trace}": up})
			u.trace("agent", dollar)
			run(70)
			u.expect(values{"opper_trace_cost_usd_total{success,agent}": 1, "opper_exporter_trace_costs_unknown_total{}": 1, "opper_usage_up{trace}": 1})
		})
	}
}

// What was read before a trace was counted says nothing about its cost, however long the
// sync that counted it took.
func TestUsageThatWasReadBeforeATraceWasCounted(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	u.trace("agent", dollar)
	u.sync()
	u.call("m", "", oppertest.Amounts{Cost: 1}) // so that there is some usage
	request := u.project.usage.request(u.project.aggregates.WaitingSince())
	request.asked[byTrace] = true
	u.step(settle)
	u.sync()
	u.expect(values{"opper_traces_total{success,agent}": 1})
	u.step(20 * time.Minute)
	answer := request.read(t.Context(), u.project.usage.source())
	answer.traces = nil // the trace was not rolled up then
	u.project.countUsage(answer)
	u.step(time.Minute)
	u.read()
	u.sync()
	u.expect(values{"opper_trace_cost_usd_total{success,agent}": 1, "opper_exporter_trace_costs_unknown_total{}": 0})
}

// handlerTransport is a network that ends at a handler.
type handlerTransport struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	return answer.Result(), r.Context().Err()
}

// A read of usage that takes more requests than the limit allows in an interval ends all
// the same.
func TestUsageOfManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const models = 30
		usage := oppertest.NewUsage(oppertest.UsageConfig{})
		list := oppertest.New(oppertest.Config{Key: apiKey, Usage: usage, Project: ownUUID})
		<-time.After(6 * day)
		for ago := range 5 * 24 {
			for m := range models {
				at := time.Now().Add(-time.Duration(ago) * time.Hour)
				usage.Add(oppertest.Call{Time: at, Model: new(fmt.Sprint("model-", m)), Project: ownUUID, Amounts: oppertest.Amounts{Cost: dollar}})
			}
		}
		usage.SetTroubles(oppertest.UsageTroubles{MaxRows: 50})
		cfg := usageConfig().Project
		key, err := opper.FixedKey(apiKey)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Interval, cfg.UsageInterval, cfg.MaxModels = 30*time.Second, 10*time.Second, 50
		cfg.Opper = opper.Options{URL: "https://opper.example", Key: key, RequestsPerSecond: 5, Transport: opper.Transport{
			Build: func(func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) {
				return handlerTransport{list}, nil
			},
		}}
		c, err := New([]config.Project{cfg}, Deps{Logger: log.NewNopLogger(), Clock: NewClock(), Limit: opper.NewSharedLimit(50)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		<-time.After(10 * time.Minute)
		synctest.Wait()
		families, err := c.Gatherer("").Gather()
		if err != nil {
			t.Fatal(err)
		}
		if got := valuesOf(families)["opper_usage_cost_usd_total{model-0,}"]; got != 5*24 {
			t.Errorf("cost is %v, want %v", got, 5*24)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A project with other settings continues to expose its budget and how reading goes, as it
// may take long until they are read again.
func TestBudgetIsExposedAfterAReload(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{}, "a")
	o.usage.SetBudget(uuidOf("a"), oppertest.Budget{LimitCents: new(int64(1234))})
	o.configure("a")
	o.run(1)
	want := values{"opper_project_spend_limit_usd{}": 12.34, "opper_usage_up{budget}": 1, "opper_usage_up{model}": 1}
	for _, settings := range []string{"", "others"} {
		o.settings = settings
		o.configure("a")
		families, err := o.c.Gatherer("").Gather()
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got := valuesOf(families)[key]; got != value {
				t.Errorf("settings %q: %s is %v, want %v", settings, key, got, value)
			}
		}
		if st := o.c.Status()[0].Usage; st == nil || st.Budget == nil {
			t.Errorf("settings %q: the status has no budget", settings)
		}
	}
}

// What can't be committed of usage is not in the status either.
func TestStatusOfUsageThatIsNotCommitted(t *testing.T) {
	store := &commits{Memory: new(storetest.Memory)}
	cfg := usageConfig()
	cfg.Store = store
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.sync()
	u.read()
	cost := func() int64 { return u.collector().Status()[0].Usage.Models[0].Cost }
	store.refused = errors.New("no space left on device")
	u.step(time.Minute)
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	u.read()
	if got := cost(); got != dollar {
		t.Errorf("the status has a cost of %d, want %d", got, dollar)
	}
	store.refused = nil
	u.step(time.Minute)
	u.read()
	if got := cost(); got != 2*dollar {
		t.Errorf("the status has a cost of %d, want %d", got, 2*dollar)
	}
}

// A refusal that passes, as of a gateway, leaves no cost unknown: those that wait have it
// from the next read, after an hour.
func TestRefusalThatPasses(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	u.trace("agent", dollar)
	u.step(time.Minute)
	u.sync()
	u.step(settle)
	u.sync()
	u.usage.SetTroubles(oppertest.UsageTroubles{Status: http.StatusNotFound})
	u.read()
	u.expect(values{"opper_usage_up{trace}": 0})
	u.usage.SetTroubles(oppertest.UsageTroubles{})
	for range 61 {
		u.step(time.Minute)
		u.sync()
		u.read()
	}
	u.sync()
	u.expect(values{"opper_usage_up{trace}": 1, "opper_trace_cost_usd_total{success,agent}": 1, "opper_exporter_trace_costs_unknown_total{}": 0})
}
