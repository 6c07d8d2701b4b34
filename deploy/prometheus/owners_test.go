package prometheus_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

// relabelConfigs are those of a configuration.
func relabelConfigs(t *testing.T, text string) any {
	t.Helper()
	var config struct {
		Alerting struct {
			Relabel any `yaml:"alert_relabel_configs"`
		} `yaml:"alerting"`
	}
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	if config.Alerting.Relabel == nil {
		t.Fatal("no alert_relabel_configs")
	}
	return config.Alerting.Relabel
}

func amtool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=deploy/test/tools/alertmanager/go.mod", "amtool"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("amtool %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A server with the example configuration sends alerts that the example of
// Alertmanager routes to their owners.
func TestAlertsReachTheirOwners(t *testing.T) {
	read(t, "alertmanager.yml") // amtool reads it
	_, block, _ := strings.Cut(read(t, "README.md"), "## Owners\n")
	_, block, _ = strings.Cut(block, "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	relabel := relabelConfigs(t, read(t, "prometheus.yml"))
	if written := relabelConfigs(t, block); !reflect.DeepEqual(written, relabel) {
		t.Errorf("the README has\n%v\nthe configuration\n%v", written, relabel)
	}

	var mu sync.Mutex
	sent := map[string]map[string]string{}
	manager := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var alerts []struct{ Labels map[string]string }
		if err := json.NewDecoder(r.Body).Decode(&alerts); err != nil {
			t.Errorf("what the server sends is no list of alerts: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, a := range alerts {
			sent[fmt.Sprint(a.Labels["alertname"], " ", a.Labels["project"], " ", a.Labels["trace_name"])] = a.Labels
		}
	}))
	t.Cleanup(manager.Close)
	alerting, err := yaml.Marshal(map[string]any{"alerting": map[string]any{
		"alert_relabel_configs": relabel,
		"alertmanagers":         []any{map[string]any{"static_configs": []any{map[string]any{"targets": []string{manager.Listener.Addr().(*net.TCPAddr).String()}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}

	// The real alerts take their time. Their labels are in the tests of promtool.
	files := map[string]ruleFile{"alerts.yml": {Groups: []group{{Name: "alerts", Rules: []rule{
		{Alert: "OpperDataOld", Expr: "opper_up"},
		{Alert: "OpperTracesOpen", Expr: "opper_traces_open"},
		{Alert: "Other", Expr: `opper_up{project="billing"}`},
	}}}}}
	var exposition strings.Builder
	for _, project := range []string{"billing", "support"} {
		fmt.Fprintf(&exposition, "opper_up{project=%q} 1\n", project)
		for _, name := range []string{"triage", "nightly-report"} {
			fmt.Fprintf(&exposition, "opper_traces_open{project=%q,trace_name=%q} 1\n", project, name)
		}
	}
	startServer(t, files, exposition.String(), string(alerting))
	want := map[string]string{
		"OpperDataOld billing ":                  "payments",
		"OpperDataOld support ":                  "operations",
		"OpperTracesOpen billing triage":         "payments",
		"OpperTracesOpen billing nightly-report": "reporting",
		"OpperTracesOpen support triage":         "operations",
		"OpperTracesOpen support nightly-report": "reporting",
		"Other billing ":                         "operations",
	}
	promtest.Eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if got := slices.Sorted(maps.Keys(sent)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			return fmt.Errorf("the server sent %q", got)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for alert, receiver := range want {
		args := []string{"config", "routes", "test", "--config.file=deploy/prometheus/alertmanager.yml"}
		for name, value := range sent[alert] {
			args = append(args, name+"="+value)
		}
		if got := amtool(t, args...); got != receiver {
			t.Errorf("%s goes to %q, not %q: %v", alert, got, receiver, sent[alert])
		}
	}
}
