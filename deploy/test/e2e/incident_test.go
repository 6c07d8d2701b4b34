package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// speedup is how much faster than at a user's the time of the incident goes by: a
// minute is a second.
const speedup = 60

// durations are those of a rule, not those in the names of metrics.
var durations = regexp.MustCompile(`(?m)(\[|\boffset |^ *(?:for|interval): )([0-9]+[smhdw])\b`)

// accelerated divides all durations in the text of rules: windows, offsets,
// intervals and times of grace. All else stays the user's.
func accelerated(t *testing.T, rules string) string {
	t.Helper()
	return durations.ReplaceAllStringFunc(rules, func(s string) string {
		part := durations.FindStringSubmatch(s)
		d, err := model.ParseDuration(part[2])
		if err != nil {
			t.Fatal(err)
		}
		return part[1] + (d / speedup).String()
	})
}

// acceleratedRules returns the delivered rules by file, and a list of the files.
func acceleratedRules(t *testing.T) (rules map[string]string, files string) {
	t.Helper()
	rules = map[string]string{}
	for _, file := range []string{"opper_thresholds.yml", "opper_rules.yml", "opper_alerts.yml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "prometheus", file))
		if err != nil {
			t.Fatal(err)
		}
		rules[file] = accelerated(t, string(text))
	}
	list, err := json.Marshal(slices.Sorted(maps.Keys(rules)))
	if err != nil {
		t.Fatal(err)
	}
	return rules, string(list)
}

// alert is one that is pending or fires.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

func alerts(ctx context.Context, server string) ([]alert, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/api/v1/alerts", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Alerts []alert `json:"alerts"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return answer.Data.Alerts, nil
}

// traffic has each agent end a trace every 100 ms until the test ends. Those of
// one fail while failing holds its name.
func traffic(t *testing.T, s *oppertest.Server, failing *atomic.Value, agents ...string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
			for _, agent := range agents {
				tr := ended(agent)
				tr.ID = fmt.Sprint(agent, n)
				if failing.Load() == agent {
					tr.Status = new("error")
				}
				s.Add(tr)
			}
		}
	}()
	t.Cleanup(func() { <-done })
}

// An agent starts to fail. With the rules as they are delivered, only sixty
// times faster, the alert becomes pending, fires, names the agent, and is over
// when the agent works again. No other alert appears but those of that agent.
func TestIncidentFiresAndResolvesItsAlert(t *testing.T) {
	t.Parallel()
	const failing, name = "billing-agent", "OpperSuccessRateLow"
	agents := []string{failing, "support-agent", "search-agent"}
	s := oppertest.New(oppertest.Config{Seed: 1, NoRecord: true})
	for _, agent := range agents {
		s.Add(ended(agent)) // so that the initial sync sees the names
	}
	var fails atomic.Value
	fails.Store("")
	address := exporter(t, s, "--opper.project=shop", "--collector.interval=250ms", noSettle)
	traffic(t, s, &fails, agents...)

	rules, files := acceleratedRules(t)
	server := promtest.Start(t, promtest.Config{
		YAML: fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: %s
scrape_configs: [{job_name: opper, static_configs: [{targets: [%q]}]}]
`, files, address),
		RuleFiles: rules,
	})

	// All that was ever seen of alerts: in which states, and whose fired.
	states, whose := map[string][]string{}, map[string]bool{}
	until := func(condition func(now []alert) error) {
		t.Helper()
		promtest.Eventually(t, func() error {
			now, err := alerts(t.Context(), server.URL())
			if err != nil {
				return err
			}
			for _, a := range now {
				n := a.Labels["alertname"]
				if !slices.Contains(states[n], a.State) {
					states[n] = append(states[n], a.State)
				}
				// A scrape that a busy machine was late with makes one pending.
				if a.State == "firing" {
					whose[n+" of "+a.Labels["project"]+"/"+a.Labels["trace_name"]] = true
				}
			}
			return condition(now)
		})
	}
	of := func(now []alert, name string) *alert {
		for _, a := range now {
			if a.Labels["alertname"] == name {
				return &a
			}
		}
		return nil
	}

	// While all is well for a window, nothing fires.
	until(func(now []alert) error {
		v, err := server.Query(t.Context(), `count(project_trace_name:opper_traces:increase30m > 100)`, time.Now())
		if err != nil {
			return err
		}
		if len(v) != 1 || int(v[0].Value) != len(agents) {
			return fmt.Errorf("agents with enough traces: %v", v)
		}
		return nil
	})
	if len(whose) > 0 {
		t.Errorf("alerts while all is well: %v", slices.Sorted(maps.Keys(whose)))
	}

	fails.Store(failing)
	var fired alert
	until(func(now []alert) error {
		a := of(now, name)
		if a == nil || a.State != "firing" {
			return fmt.Errorf("%s is %v", name, a)
		}
		fired = *a
		return nil
	})
	if got := states[name]; !slices.Equal(got, []string{"pending", "firing"}) {
		t.Errorf("the states of %s were %v", name, got)
	}
	want := map[string]string{"alertname": name, "severity": "critical", "project": "shop", "trace_name": failing}
	if !maps.Equal(fired.Labels, want) {
		t.Errorf("it has the labels %v, want %v", fired.Labels, want)
	}
	for annotation, text := range fired.Annotations {
		if annotation != "runbook_url" && !strings.Contains(text, failing) {
			t.Errorf("its %s does not name the agent: %s", annotation, text)
		}
	}

	fails.Store("")
	until(func(now []alert) error {
		if a := of(now, name); a != nil {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	v, err := server.Query(t.Context(), `project_trace_name:opper_traces_success:ratio_increase30m{trace_name="`+failing+`"}`, time.Now())
	if err != nil || len(v) != 1 || float64(v[0].Value) < 0.8 || math.IsNaN(float64(v[0].Value)) {
		t.Errorf("it is over with a success rate of %v, error %v", v, err)
	}
	for _, seen := range slices.Sorted(maps.Keys(whose)) {
		if !strings.HasSuffix(seen, " of shop/"+failing) {
			t.Errorf("there was %s", seen)
		}
	}
}
