package grafana_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// A name that has expired is not silent but retired. Those of a project whose exporter is
// down, as far as the chosen time reaches, are shown with a time that goes on.
func TestSilentAgentsAreNotRetired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "silent_test.yml")
	content := fmt.Sprintf(`
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'opper_exporter_trace_names{project="up"}', values: '2x20 1x40'}
      - {series: 'opper_trace_last_end_timestamp_seconds{project="up",trace_name="silent"}', values: '300x60'}
      - {series: 'opper_trace_last_end_timestamp_seconds{project="up",trace_name="retired"}', values: '300x20 stale'}
      - {series: 'opper_exporter_trace_names{project="down"}', values: '1x20 stale'}
      - {series: 'opper_trace_last_end_timestamp_seconds{project="down",trace_name="silent"}', values: '600x20 stale'}
    promql_expr_test:
      - eval_time: 60m
        expr: |
%s
        exp_samples:
          - {labels: '{project="up",trace_name="silent"}', value: 3300}
          - {labels: '{project="down",trace_name="silent"}', value: 3000}
`, indent(panelExpression(t, "opper-overview", "Silent agents", "A", "3600s")))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtest.Promtool(t, nil, "test", "rules", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
