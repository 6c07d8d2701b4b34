package grafana_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// costExpression returns what a panel of the Cost dashboard asks for all projects.
func costExpression(t *testing.T, title, ref, timeRange string) string {
	t.Helper()
	return panelExpression(t, "opper-cost", title, ref, timeRange)
}

// panelExpression returns what a panel of a dashboard asks for all projects and names.
func panelExpression(t *testing.T, uid, title, ref, timeRange string) string {
	t.Helper()
	builtins := maps.Clone(builtinValues)
	builtins["__range"] = timeRange
	for _, d := range readDashboards(t) {
		for _, p := range d.all() {
			for _, target := range p.Targets {
				if d.UID != uid || p.Title != title || target.RefID != ref {
					continue
				}
				promql, err := d.fill(target.Expr, choice{"datasource": {"prometheus"}, "project": nil, "trace_name": nil, "window": {"1h"}, "job": {"opper"}, "instance": {"a:1"}}, builtins)
				if err != nil {
					t.Fatal(err)
				}
				return promql
			}
		}
	}
	t.Fatalf("no panel %s, %s, %s", uid, title, ref)
	return ""
}

// The dashboard computes spend and forecast over a border of months. Usage is 0.5
// dollars an hour of each project, which two replicas count. The server is new on the
// first of January.
func TestCostOfMonth(t *testing.T) {
	const january = 31 * 24
	var file strings.Builder
	file.WriteString("evaluation_interval: 1h\ntests:\n  - interval: 1h\n    input_series:\n")
	for _, instance := range []string{"a:1", "b:1"} {
		series := func(name, labels, values string) {
			fmt.Fprintf(&file, "      - {series: '%s{job=\"opper\",instance=\"%s\",%s}', values: '%s'}\n", name, instance, labels, values)
		}
		for _, project := range []string{"all", "no budget"} {
			series("opper_usage_cost_usd_total", fmt.Sprintf("project=%q,opper_project=\"\",model=\"m\"", project), "1000+0.5x1100")
			series("opper_trace_cost_usd_total", fmt.Sprintf("project=%q,trace_name=\"agent\",outcome=\"success\"", project), "1000+0.3x1100")
			series("opper_trace_cost_usd_total", fmt.Sprintf("project=%q,trace_name=\"agent\",outcome=\"failure\"", project), "1000+0.1x1100")
		}
		for _, project := range []string{"all", "no usage"} {
			label := fmt.Sprintf("project=%q", project)
			// The budget is read once an hour, half an hour before the sample.
			series("opper_project_spend_usd", label, fmt.Sprintf("0+0.5x%d 0.5+0.5x300", january))
			series("opper_project_spend_limit_usd", label, "310x1100")
			series("opper_exporter_usage_last_success_timestamp_seconds", label+`,kind="budget"`, "0 1800+3600x1100")
		}
	}
	file.WriteString("    promql_expr_test:\n")
	value := func(hour, sinceMonth int, title, ref string, want map[string]float64) {
		promql := costExpression(t, title, ref, fmt.Sprintf("%dh", sinceMonth))
		fmt.Fprintf(&file, "      - eval_time: %dh\n        expr: |\n          round(\n%s\n          , 0.01)\n        exp_samples: [", hour, indent(promql))
		for _, project := range slices.Sorted(maps.Keys(want)) {
			labels := "{}"
			if project != "" {
				labels = fmt.Sprintf("{project=%q}", project)
			}
			fmt.Fprintf(&file, "{labels: '%s', value: %v}, ", labels, want[project])
		}
		file.WriteString("]\n")
	}
	// Of a week there are two days.
	value(2*24, 2*24, "Projects", "D", map[string]float64{"all": 372, "no usage": 372, "no budget": 372})
	// On the sixteenth of January at 00:00, and then on the twelfth of February at 00:00.
	for _, at := range []struct {
		hour, sinceMonth int
		spent, forecast  float64
	}{{15 * 24, 15 * 24, 180, 372}, {january + 11*24, 11 * 24, 132, 336}} {
		value(at.hour, 24, "Spent today", "A", map[string]float64{"": 24})
		value(at.hour, at.sinceMonth, "Projects", "C", map[string]float64{"all": round(at.spent / 310), "no usage": round(at.spent / 310)})
		value(at.hour, at.sinceMonth, "Of the limit", "A", map[string]float64{"": round(at.spent / 310)})
		value(at.hour, 24, "Wasted", "A", map[string]float64{"": 0.25})
	}
	value(15*24, 15*24, "Projects", "A", map[string]float64{"all": 180, "no usage": 180, "no budget": 180})
	value(15*24, 15*24, "Projects", "D", map[string]float64{"all": 372, "no usage": 372, "no budget": 372})
	value(january+11*24, 11*24, "Projects", "A", map[string]float64{"all": 132, "no usage": 132, "no budget": 132})
	value(january+11*24, 11*24, "Projects", "D", map[string]float64{"all": 336, "no usage": 336, "no budget": 336})
	value(january+11*24, 11*24, "Projects", "E", map[string]float64{"all": round(336. / 310), "no usage": round(336. / 310)})
	value(january+11*24, 11*24, "Forecast", "A", map[string]float64{"": 3 * 336})
	value(january+11*24, 11*24, "Spent this month", "A", map[string]float64{"": 3 * 132})
	// When February begins, the last answer of Opper is of January.
	value(january, 1, "Projects", "A", nil)
	value(january+2, 2, "Projects", "A", map[string]float64{"all": 1, "no usage": 1, "no budget": 1})
	value(january+2, 2, "Projects", "D", map[string]float64{"all": round(1 + 12*(28-2./24)), "no usage": 28, "no budget": 336})

	path := filepath.Join(t.TempDir(), "cost_test.yml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtest.Promtool(t, nil, "test", "rules", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func indent(promql string) string {
	return "            " + strings.ReplaceAll(promql, "\n", "\n            ")
}

func round(v float64) float64 { return float64(int(v*100+0.5)) / 100 }
