package grafana_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// buildSchema builds the command in schema, and returns a function that runs it
// over dashboards.
func buildSchema(t *testing.T) func(files ...string) (string, error) {
	t.Helper()
	promtest.DependOnSources(t)
	binary := filepath.Join(t.TempDir(), "schema")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "schema", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(files ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Dir = "schema" // where the go command finds its module
		for _, file := range files {
			path, err := filepath.Abs(file)
			if err != nil {
				return "", err
			}
			cmd.Args = append(cmd.Args, path)
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

func TestSchema(t *testing.T) {
	check := buildSchema(t)
	var files []string
	for _, d := range readDashboards(t) {
		files = append(files, d.file)
	}
	if out, err := check(files...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	// What it is there to find, it finds.
	content, err := os.ReadFile("dashboards/overview.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, finds string }{
		{`"expr":`, `"exp":`, "unexpected field 'exp'"},
		{`"noValue":`, `"noVal":`, `unknown field "noVal"`},
		{`"graphMode":`, `"graph":`, "unexpected field 'graph'"},
		{`"fillOpacity": 8,`, `"fillOpacity": "8",`, "cannot unmarshal string"},
		{`"unit": "percentunit"`, `"unit": "percents"`, `no unit is called "percents"`},
		{`"type": "timeseries"`, `"type": "graph"`, `type "graph"`},
		{`"fiscalYearStartMonth": 0`, `"fiscalYearStartMonth": 12`, "must be < 12"},
	} {
		broken := filepath.Join(t.TempDir(), "broken.json")
		changed := strings.Replace(string(content), test.from, test.to, 1)
		if changed == string(content) {
			t.Fatalf("the dashboard has no %s", test.from)
		}
		if err := os.WriteFile(broken, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := check(broken); err == nil || !strings.Contains(out, test.finds) {
			t.Errorf("%s: error %v, not %q but %q", test.to, err, test.finds, out)
		}
	}
}
