package grafana_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// Whether data is old depends on the interval of its project, as for the alerts. That of
// a project whose exporter is gone keeps aging.
func TestDataAgeGoesByTheInterval(t *testing.T) {
	const minutes = 240
	type project struct {
		name                 string
		interval, age, state int
	}
	slow := project{"slow good", 1200, 2340, 0}
	file := &strings.Builder{}
	file.WriteString("evaluation_interval: 1m\ntests:\n")
	for _, worst := range []project{
		slow,
		{"slow late", 1200, 2460, 1},
		{"slow old", 1200, 3660, 2},
		{"late", 30, 180, 1},
		{"old", 30, 660, 2},
		{"old without interval", 0, 660, 2},
	} {
		for _, exporter := range []string{"_", "stale"} {
			file.WriteString("  - interval: 1m\n    input_series:\n")
			table := ""
			for _, p := range []project{slow, worst} {
				labels := fmt.Sprintf(`{job="opper",instance="a:1",project="%s"}`, p.name)
				fmt.Fprintf(file, "      - {series: 'opper_exporter_last_success_timestamp_seconds%s', values: '%dx%d %s'}\n", labels, minutes*60-p.age, minutes-1, exporter)
				if p.interval > 0 {
					fmt.Fprintf(file, "      - {series: 'opper_exporter_sync_interval_seconds%s', values: '%dx%d %s'}\n", labels, p.interval, minutes-1, exporter)
				}
				table += fmt.Sprintf(`{labels: '{instance="a:1",project=%q}', value: %d}, `, p.name, p.state)
				if p == worst {
					break
				}
			}
			state := []string{"good", "late", "old"}[worst.state]
			file.WriteString("    promql_expr_test:\n")
			for _, want := range []struct{ uid, title, ref, samples string }{
				{"opper-overview", "Data age", "A", fmt.Sprintf("{labels: '{state=%q}', value: %d}", state, worst.age)},
				{"opper-exporter", "Data age", "A", fmt.Sprintf(`{labels: '{instance="a:1",state=%q}', value: %d}`, state, worst.age)},
				{"opper-exporter", "Projects", "G", table},
			} {
				fmt.Fprintf(file, "      - eval_time: %dm\n        expr: |\n%s\n        exp_samples: [%s]\n", minutes, indent(panelExpression(t, want.uid, want.title, want.ref, "3600s")), want.samples)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "age_test.yml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtest.Promtool(t, nil, "test", "rules", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
