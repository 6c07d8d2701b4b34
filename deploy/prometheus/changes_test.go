package prometheus_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

// change is an edit of one rule that a test of an alert must notice.
type change struct {
	what string
	name string // of the rule
	edit func(*rule)
}

func nameOf(r rule) string { return r.Record + r.Alert }

// changed returns the name of a rule in the copies for one change.
func changed(name string, i int) string { return fmt.Sprintf("%s_change%d", name, i) }

// writeChanges writes the rules that an alert needs, and its tests, to a directory. For
// each change there is a copy of the changed rule, and of all that depend on it, under
// names of their own, and a copy of each test of the alert. So all changes are tested
// while the other rules, which take most of the time, are evaluated once.
func writeChanges(t *testing.T, files map[string]ruleFile, alert rule, changes []change) (dir string) {
	t.Helper()
	dir = t.TempDir()
	own := map[string]testFile{}
	roots := []rule{alert}
	for name, f := range tests(t) {
		f.Tests = slices.DeleteFunc(f.Tests, func(g testGroup) bool { return !strings.HasPrefix(g.Name, alert.Alert+": ") })
		if len(f.Tests) == 0 {
			continue
		}
		for i := range f.Tests {
			for _, e := range f.Tests[i].Exprs {
				roots = append(roots, rule{Expr: e.Expr})
			}
			for _, a := range f.Tests[i].Alerts {
				for n := range changes {
					a.Name = changed(alert.Alert, n)
					f.Tests[i].Alerts = append(f.Tests[i].Alerts, a)
				}
			}
		}
		own[name] = f
	}
	needed := needs(files, roots...)
	needed[alert.Alert] = true
	affected := make([]map[string]bool, len(changes))
	for i, c := range changes {
		affected[i] = dependants(files, needed, c.name)
	}

	const overrides = "tests/overrides.yml"
	all := maps.Clone(files)
	var f ruleFile
	parse(t, overrides, &f)
	all[overrides] = f
	for name, f := range all {
		var some ruleFile
		for _, g := range f.Groups {
			kept := g.Rules
			g.Rules = nil
			for _, r := range kept {
				if !needed[nameOf(r)] {
					continue
				}
				g.Rules = append(g.Rules, r)
				for i, c := range changes {
					if affected[i][nameOf(r)] {
						g.Rules = append(g.Rules, c.copyOf(r, i, affected[i], name != overrides))
					}
				}
			}
			some.Groups = append(some.Groups, g)
		}
		write(t, filepath.Join(dir, name), some)
	}
	for name, f := range own {
		write(t, filepath.Join(dir, name), f)
	}
	return dir
}

// dependants returns the names of those rules, among the needed ones, whose value may
// change with that of one of them, itself included.
func dependants(files map[string]ruleFile, needed map[string]bool, name string) map[string]bool {
	names := map[string]bool{name: true}
	for _, r := range find(files, func(r rule) bool { return needed[nameOf(r)] && needs(files, r)[name] }) {
		names[nameOf(r)] = true
	}
	return names
}

// copyOf returns the copy of a rule for this change, which is the i-th.
func (c change) copyOf(r rule, i int, affected map[string]bool, edited bool) rule {
	if edited && nameOf(r) == c.name {
		c.edit(&r)
	}
	r.Expr = metric.ReplaceAllStringFunc(r.Expr, func(name string) string {
		if affected[name] {
			return changed(name, i)
		}
		return name
	})
	if isAlert(r) {
		r.Alert = changed(r.Alert, i)
	} else {
		r.Record = changed(r.Record, i)
	}
	return r
}

func write(t *testing.T, path string, value any) {
	t.Helper()
	content, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newestPromtool(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return promtest.Promtool(t, nil, args...)
}

var failedAlert = regexp.MustCompile(`alertname: (\w+), time: `)

// failedTests runs the tests in a directory and returns the names of the alerts of which
// one failed, and what promtool said.
func failedTests(t *testing.T, dir string) (names []string, out string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "tests", "*_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	out, err = newestPromtool(t, append([]string{"test", "rules"}, paths...)...)
	for _, match := range failedAlert.FindAllStringSubmatch(out, -1) {
		names = append(names, match[1])
	}
	// Anything else that promtool says is about an expression or an error of a rule.
	if err != nil && len(names) == 0 || strings.Contains(out, "expr: ") || strings.Contains(out, "err: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	return names, out
}
