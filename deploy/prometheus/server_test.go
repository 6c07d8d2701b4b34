package prometheus_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

// startServer runs a server that evaluates all rules each second, some of a
// test's own included, and scrapes one text.
func startServer(t *testing.T, files map[string]ruleFile, exposition, alerting string) *promtest.Server {
	t.Helper()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = fmt.Fprint(w, exposition)
	}))
	t.Cleanup(target.Close)
	config := promtest.Config{RuleFiles: map[string]string{}, YAML: fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: ["*.yml.rules"]
%s
scrape_configs:
  - job_name: opper
    static_configs: [{targets: [%q]}]
`, alerting, target.Listener.Addr().(*net.TCPAddr).String())}
	for name, f := range files {
		for i := range f.Groups {
			f.Groups[i].Interval = ""
		}
		content, err := yaml.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		config.RuleFiles[name+".rules"] = string(content)
	}
	return promtest.Start(t, config)
}

// Of these the higher one is stricter.
var minima = []string{"success_ratio", "objective", "initial_sync_progress"}

// Every threshold is given for all projects, one project, one trace name, and one
// trace name of one project, each of them twice. Two have no default.
func TestMostSpecificThresholdCounts(t *testing.T) {
	files := rules(t)
	thresholds := find(files, isThreshold)
	withoutDefault := []string{"success_ratio", "gaps"}
	var own group
	own.Name = "own"
	// want has the value of each recorded threshold by project and trace name,
	// which is empty for those of the exporter.
	want := map[string]map[[2]string]float64{}
	for i, r := range thresholds {
		kind := strings.TrimPrefix(r.Record, "opper:threshold:")
		values := map[string]float64{}
		for level, labels := range map[string]map[string]string{
			"default": {},
			"project": {"project": "q"},
			"name":    {"trace_name": "named"},
			"name 2":  {"trace_name": "both"},
			"both":    {"project": "q", "trace_name": "both"},
		} {
			lower := float64(1000*(i+1) + 10*len(level))
			higher := lower + 1
			values[level] = lower
			if slices.Contains(minima, kind) {
				values[level] = higher
			}
			if level == "default" && slices.Contains(withoutDefault, kind) {
				continue
			}
			for source, v := range map[string]float64{"one": lower, "other": higher} {
				rule := rule{Record: r.Record, Expr: fmt.Sprintf("vector(%v)", v), Labels: map[string]string{"source": source}}
				maps.Copy(rule.Labels, labels)
				own.Rules = append(own.Rules, rule)
			}
		}
		if record := "project:opper_threshold:" + kind; len(find(files, func(r rule) bool { return r.Record == record })) > 0 {
			want[record] = map[[2]string]float64{{"p"}: values["default"], {"q"}: values["project"]}
			if slices.Contains(withoutDefault, kind) {
				delete(want[record], [2]string{"p"})
			}
			continue
		}
		record := "project_trace_name:opper_threshold:" + kind
		want[record] = map[[2]string]float64{
			{"p", "any"}: values["default"], {"p", "named"}: values["name"], {"p", "both"}: values["name 2"],
			{"q", "any"}: values["project"], {"q", "named"}: values["name"], {"q", "both"}: values["both"],
		}
		if slices.Contains(withoutDefault, kind) {
			delete(want[record], [2]string{"p", "any"})
		}
	}
	files["opper_thresholds.yml"] = ruleFile{Groups: []group{own}}

	var exposition strings.Builder
	for _, project := range []string{"p", "q"} {
		fmt.Fprintf(&exposition, "opper_up{project=%q} 1\n", project)
		for _, name := range []string{"any", "named", "both"} {
			fmt.Fprintf(&exposition, "opper_traces_total{project=%q,trace_name=%q,outcome=\"success\"} 1\n", project, name)
		}
	}
	server := startServer(t, files, exposition.String(), "")
	server.WaitScrapes(t, "opper", 1)
	promtest.Eventually(t, func() error { return server.CheckRules(t.Context()) })
	for record, values := range want {
		promtest.Eventually(t, func() error {
			vector, err := server.Query(t.Context(), record, time.Now())
			got := map[[2]string]float64{}
			for _, sample := range vector {
				got[[2]string{string(sample.Metric["project"]), string(sample.Metric["trace_name"])}] = float64(sample.Value)
			}
			if err == nil && (fmt.Sprint(got) != fmt.Sprint(values) || len(vector) != len(values)) {
				err = fmt.Errorf("%s is %v, not %v", record, got, values)
			}
			return err
		})
	}
	promtest.Eventually(t, func() error {
		vector, err := server.Query(t.Context(), `ALERTS{alertname="OpperThresholdMissing"}`, time.Now())
		var got []string
		for _, sample := range vector {
			got = append(got, fmt.Sprint(sample.Metric["project"], " ", sample.Metric["threshold"]))
		}
		slices.Sort(got)
		if want := []string{"p gaps", "p success_ratio"}; err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the missing thresholds are %q, not %q", got, want)
		}
		return err
	})
}

// A threshold of one project must not keep the alerts of others from firing.
func TestThresholdOfOneProjectKeepsAlertsOfOthers(t *testing.T) {
	files := rules(t)
	files["own.yml"] = ruleFile{Groups: []group{{Name: "own", Rules: []rule{
		{Record: "opper:threshold:data_age_seconds", Expr: "vector(1e12)", Labels: map[string]string{"project": "q"}},
	}}}}
	var exposition strings.Builder
	for _, project := range []string{"p", "q"} {
		fmt.Fprintf(&exposition, "opper_up{project=%q} 1\n", project)
		fmt.Fprintf(&exposition, "opper_exporter_last_success_timestamp_seconds{project=%q} 1\n", project)
	}
	server := startServer(t, files, exposition.String(), "")
	promtest.Eventually(t, func() error {
		vector, err := server.Query(t.Context(), `ALERTS{alertname="OpperDataOld"}`, time.Now())
		if err == nil && (len(vector) != 1 || vector[0].Metric["project"] != model.LabelValue("p")) {
			err = fmt.Errorf("OpperDataOld is active for %v, not for p only; rules: %w", vector, server.CheckRules(t.Context()))
		}
		return err
	})
}
