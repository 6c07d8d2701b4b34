package prometheus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// The end of a process with many projects, each a target of its own, is one alert for its
// instance and one for its job, and nothing else.
func TestDeadProcessOfManyProjectsFiresTwoAlerts(t *testing.T) {
	const projects = 100 // more are too many samples for promtool
	var file strings.Builder
	file.WriteString("rule_files: [")
	for _, name := range ruleFiles(t) {
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&file, "%q, ", path)
	}
	file.WriteString("]\nevaluation_interval: 1m\ntests:\n  - input_series:\n")
	series := func(name, values string, labels ...string) {
		labels = append(labels, `job="opper"`, `instance="a:1"`)
		fmt.Fprintf(&file, "      - {series: '%s{%s}', values: '%s'}\n", name, strings.Join(labels, ","), values)
	}
	series("up", "1x20 0x40")
	series("opper_exporter_config_last_reload_successful", "1x20 stale")
	for i := range projects {
		project := fmt.Sprintf(`project="p%03d"`, i)
		series("up", "1x20 0x40", project)
		series("opper_up", "1x20 stale", project)
		series("opper_exporter_last_success_timestamp_seconds", "0+60x20 stale", project)
		series("opper_exporter_syncs_total", "0+1x20 stale", project, `result="success"`)
		series("opper_exporter_initial_sync_progress_ratio", "1x20 stale", project)
		series("opper_usage_up", "1x20 stale", project, `kind="model"`)
		series("opper_project_spend_usd", "10x20 stale", project)
		series("opper_project_spend_limit_usd", "100x20 stale", project)
	}
	file.WriteString(`
    promql_expr_test:
      - expr: count by (alertname, job, instance) (ALERTS)
        eval_time: 20m
        exp_samples: []
      - expr: count by (alertname, job, instance) (ALERTS)
        eval_time: 30m
        exp_samples:
          - {labels: '{alertname="OpperExporterAbsent",job="opper"}', value: 1}
          - {labels: '{alertname="OpperExporterDown",job="opper",instance="a:1"}', value: 1}
`)
	path := filepath.Join(t.TempDir(), "many_test.yml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtest.Promtool(t, nil, "test", "rules", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
