package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

// The exporter takes the arguments and the configuration that the chart gives it for
// many projects, with the Secret as the kubelet mounts it.
func TestChartConfiguresManyProjects(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	for _, test := range []struct {
		values string
		want   []string
	}{
		{"projects: {existingSecret: keys}", []string{"checkout", "support", "valid: 2 projects"}},
		{"projects: {existingSecret: keys, config: {projects: [{name: a b/c, interval: 1m, api_key_file: /run/secrets/opper/support}]}}", []string{"a b/c", "1m", "valid: 1 project"}},
		{
			"projects: {existingSecret: keys, config: {project_key_directories: [/run/secrets/opper], projects: [{name: support, interval: 1m}]}}",
			[]string{"checkout", "support", "1m", "valid: 2 projects"},
		},
	} {
		mount := t.TempDir()
		values := filepath.Join(mount, "values.yaml")
		write(t, values, test.values)
		out, log, err := helmRun(t, "template", release, chart, "--values="+values)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		_, file, _ := strings.Cut(out, "  opper.yml: |\n")
		file, _, _ = strings.Cut(file, "\n---")
		at := strings.NewReplacer("/run/secrets/opper", filepath.Join(mount, "keys"), "/etc/opper", mount)
		write(t, filepath.Join(mount, "opper.yml"), at.Replace(file))
		for _, name := range []string{"checkout", "support"} {
			write(t, filepath.Join(mount, "keys/..2026/", name), "the-key-of-"+name)
			if err := os.Symlink("..data/"+name, filepath.Join(mount, "keys", name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("..2026", filepath.Join(mount, "keys/..data")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), binary, "--config.check")
		for _, arg := range args(t, out) {
			cmd.Args = append(cmd.Args, at.Replace(arg))
		}
		checked, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, checked)
		}
		for _, want := range test.want {
			if !strings.Contains(string(checked), want) {
				t.Errorf("no %s in\n%s", want, checked)
			}
		}
	}
}
