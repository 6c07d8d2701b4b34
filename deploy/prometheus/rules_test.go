// Package prometheus_test holds the rules, their tests and what is written about
// them to each other.
package prometheus_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

// ruleFile is a file of rules, with all that ours have.
type ruleFile struct {
	Groups []group `yaml:"groups"`
}

type group struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval,omitempty"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// testFile is a file for promtool test rules.
type testFile struct {
	Tests []testGroup `yaml:"tests"`
}

type testGroup struct {
	Name   string `yaml:"name"`
	Alerts []struct {
		Name     string `yaml:"alertname"`
		Expected []any  `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
	Exprs []struct {
		Expr     string `yaml:"expr"`
		Expected []any  `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// parse reads YAML into a value that must have a field for all that is there.
func parse(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(read(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// ruleFiles are those that prometheus.yml loads.
func ruleFiles(t *testing.T) []string {
	t.Helper()
	var config struct {
		Files []string `yaml:"rule_files"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus.yml")), &config); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("opper_*.yml")
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(config.Files)); !slices.Equal(got, all) {
		t.Fatalf("prometheus.yml loads %q, there are %q", got, all)
	}
	return config.Files
}

// rules are all rules by file.
func rules(t *testing.T) map[string]ruleFile {
	t.Helper()
	files := map[string]ruleFile{}
	for _, name := range ruleFiles(t) {
		var f ruleFile
		parse(t, name, &f)
		files[name] = f
	}
	return files
}

// find returns the rules for which a condition holds.
func find(files map[string]ruleFile, is func(rule) bool) []rule {
	var found []rule
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, g := range files[name].Groups {
			for _, r := range g.Rules {
				if is(r) {
					found = append(found, r)
				}
			}
		}
	}
	return found
}

func isAlert(r rule) bool { return r.Alert != "" }

func isThreshold(r rule) bool { return strings.HasPrefix(r.Record, "opper:threshold:") }

// tests are all rule tests by file.
func tests(t *testing.T) map[string]testFile {
	t.Helper()
	names, err := filepath.Glob("tests/*_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]testFile{}
	for _, name := range names {
		var f testFile
		if err := yaml.Unmarshal([]byte(read(t, name)), &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files[name] = f
	}
	return files
}

func TestCheck(t *testing.T) {
	files := ruleFiles(t)
	for _, args := range [][]string{
		{"check", "config", "--lint=all", "--lint-fatal", "prometheus.yml"},
		append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files...),
		{"check", "rules", "--lint=all", "--lint-fatal", "tests/overrides.yml"},
	} {
		if out, err := promtest.Promtool(t, nil, args...); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

func TestRules(t *testing.T) {
	rules(t) // promtool reads them, which makes a cached result stale when they change
	for name := range tests(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			if out, err := promtest.Promtool(t, nil, "test", "rules", name); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// The scrape configuration is that of the README.
func TestConfigIsThatOfTheReadme(t *testing.T) {
	_, block, _ := strings.Cut(read(t, "../../README.md"), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	var want, got struct {
		Scrapes any `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(block), &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus.yml")), &got); err != nil {
		t.Fatal(err)
	}
	if want.Scrapes == nil || !reflect.DeepEqual(want, got) {
		t.Errorf("the scrape configuration is\n%v\nthe README has\n%v", got.Scrapes, want.Scrapes)
	}
}

func TestEveryRuleHasCases(t *testing.T) {
	// Each alert fires in one case and does not in another, in groups of its
	// own: what is named after the colon is the case.
	fires, quiet := map[string]bool{}, map[string]bool{}
	var names, exprs strings.Builder
	for file, f := range tests(t) {
		for _, g := range f.Tests {
			names.WriteString(g.Name + "\n")
			alert, _, own := strings.Cut(g.Name, ": ")
			for _, a := range g.Alerts {
				if own && a.Name != alert {
					t.Errorf("%s: %s tests %s", file, g.Name, a.Name)
				}
				if own && len(a.Expected) > 0 {
					fires[a.Name] = true
				} else if own {
					quiet[a.Name] = true
				}
			}
			for _, e := range g.Exprs {
				if len(e.Expected) > 0 {
					exprs.WriteString(e.Expr + "\n")
				}
			}
		}
	}
	files := rules(t)
	for _, r := range find(files, isAlert) {
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: a case in which it fires: %t, in which it does not: %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
	}
	for _, r := range find(files, func(r rule) bool { return !isAlert(r) && !isThreshold(r) }) {
		if !slices.Contains(metrics(exprs.String()), r.Record) {
			t.Errorf("%s is in no expression that returns something", r.Record)
		}
	}
	for _, scenario := range []string{"new name", "restart", "two replicas", "quiet night", "low traffic", "is down", "missing data"} {
		if !strings.Contains(names.String(), scenario) {
			t.Errorf("no case is about: %s", scenario)
		}
	}
}

func TestAlertsSayWhatToDo(t *testing.T) {
	runbook := map[string]string{}
	for _, section := range strings.Split(read(t, "runbook.md"), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		runbook[heading] = strings.TrimSpace(text)
	}
	alerts := find(rules(t), isAlert)
	for _, r := range alerts {
		for _, name := range []string{"summary", "description"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		if severity := r.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, severity)
		}
		if url := r.Annotations["runbook_url"]; !strings.HasSuffix(url, "/runbook.md#"+strings.ToLower(r.Alert)) {
			t.Errorf("%s has the runbook_url %q", r.Alert, url)
		}
		if runbook[r.Alert] == "" {
			t.Errorf("%s is not in the runbook", r.Alert)
		}
		delete(runbook, r.Alert)
	}
	for heading := range runbook {
		t.Errorf("the runbook is about %s, there is no such alert", heading)
	}
	if len(alerts) == 0 {
		t.Error("no alerts at all")
	}
}

// The table in the README has all thresholds, their values and their alerts.
func TestReadmeHasTheThresholds(t *testing.T) {
	files := rules(t)
	want := map[string]string{}
	for _, r := range find(files, isThreshold) {
		want[strings.TrimPrefix(r.Record, "opper:threshold:")] = fmt.Sprint(value(t, r), " ", alertsBy(files, r.Record))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([0-9.]+) \\|.*\\| (.*) \\|$").FindAllStringSubmatch(read(t, "README.md"), -1) {
		got := fmt.Sprint(row[2], " ", slices.Sorted(strings.SplitSeq(strings.ReplaceAll(row[3], "`", ""), ", ")))
		if got != want[row[1]] {
			t.Errorf("the README has %s as %s, the rules have %s", row[1], got, want[row[1]])
		}
		delete(want, row[1])
	}
	for name := range want {
		t.Errorf("the README has no %s", name)
	}
}

var metric = regexp.MustCompile(`[a-z_]+(?::\w+)+`)

// metrics returns the recorded metrics that an expression uses.
func metrics(expr string) []string { return metric.FindAllString(expr, -1) }

// needs returns the names of the recorded metrics that some rules use, directly
// or not.
func needs(files map[string]ruleFile, of ...rule) map[string]bool {
	needed := map[string]bool{}
	for len(of) > 0 {
		var names []string
		for _, r := range of {
			names = append(names, metrics(r.Expr)...)
		}
		of = find(files, func(r rule) bool {
			return r.Record != "" && slices.Contains(names, r.Record) && !needed[r.Record]
		})
		for _, r := range of {
			needed[r.Record] = true
		}
	}
	return needed
}

// alertsBy returns the names of the alerts that a recorded metric decides on.
func alertsBy(files map[string]ruleFile, record string) []string {
	var names []string
	for _, r := range find(files, isAlert) {
		if needs(files, r)[record] {
			names = append(names, r.Alert)
		}
	}
	slices.Sort(names)
	return names
}

var vector = regexp.MustCompile(`^vector\(([0-9.]+)\)$`)

// value returns the number of a threshold.
func value(t *testing.T, r rule) float64 {
	t.Helper()
	match := vector.FindStringSubmatch(r.Expr)
	if match == nil {
		t.Fatalf("%s is not a number: %s", r.Record, r.Expr)
	}
	v, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// tested runs the tests of an alert with changed rules, and returns whether they
// all pass. Rules that the alert does not need are left out, because most of the
// time is spent on them.
func tested(t *testing.T, files map[string]ruleFile, alert string, change func(rule) rule) bool {
	t.Helper()
	needed := needs(files, find(files, func(r rule) bool { return r.Alert == alert })...)
	dir := t.TempDir()
	for name, f := range files {
		var less ruleFile
		for _, g := range f.Groups {
			var some []rule
			for _, r := range g.Rules {
				if needed[r.Record] || r.Alert == alert {
					some = append(some, change(r))
				}
			}
			g.Rules = some
			less.Groups = append(less.Groups, g)
		}
		content, err := yaml.Marshal(less)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "tests"), os.DirFS("tests")); err != nil {
		t.Fatal(err)
	}
	args := []string{"test", "rules", "--run=^" + alert + ": "}
	for name, f := range tests(t) {
		if slices.ContainsFunc(f.Tests, func(g testGroup) bool {
			return strings.HasPrefix(g.Name, alert+": ")
		}) {
			args = append(args, filepath.Join(dir, name))
		}
	}
	out, err := promtest.Promtool(t, nil, args...)
	if err != nil && !strings.Contains(out, "exp:") {
		t.Fatalf("%v\n%s", err, out)
	}
	return err == nil
}

// With twice or half of any threshold, a test of an alert that uses it fails:
// of the one that is quickest to test, if there are several.
func TestEveryThresholdIsTested(t *testing.T) {
	files := rules(t)
	for _, threshold := range find(files, isThreshold) {
		t.Run(threshold.Record, func(t *testing.T) {
			t.Parallel()
			users := find(files, func(r rule) bool { return isAlert(r) && needs(files, r)[threshold.Record] })
			if len(users) == 0 {
				t.Fatal("no alert uses it")
			}
			alert := slices.MinFunc(users, func(a, b rule) int { return len(needs(files, a)) - len(needs(files, b)) }).Alert
			for _, other := range others(value(t, threshold)) {
				if tested(t, files, alert, func(r rule) rule {
					if r.Record == threshold.Record {
						r.Expr = fmt.Sprintf("vector(%v)", other)
					}
					return r
				}) {
					t.Errorf("the tests of %s pass with %v", alert, other)
				}
			}
		})
	}
}

// others returns twice and half of a threshold. A share that is near 1 is
// judged by what is missing, and of a count of 1 less is none.
func others(v float64) []float64 {
	switch {
	case v > 0.7 && v < 1:
		return []float64{1 - 2*(1-v), 1 - (1-v)/2}
	case v == 1:
		return []float64{0, 2}
	}
	return []float64{v / 2, v * 2}
}

var clause = regexp.MustCompile(`(?m)^(and|unless|or)\b`)

// Without any of its conditions, or without its time of grace, a test of the
// alert fails.
func TestEveryConditionIsTested(t *testing.T) {
	files := rules(t)
	for _, alert := range find(files, isAlert) {
		t.Run(alert.Alert, func(t *testing.T) {
			t.Parallel()
			with := func(change func(*rule)) bool {
				return tested(t, files, alert.Alert, func(r rule) rule {
					if r.Alert == alert.Alert {
						change(&r)
					}
					return r
				})
			}
			if !with(func(*rule) {}) {
				t.Fatal("the tests fail as they are")
			}
			starts := clause.FindAllStringIndex(alert.Expr, -1)
			for i, start := range starts {
				end := len(alert.Expr)
				if i+1 < len(starts) {
					end = starts[i+1][0]
				}
				if with(func(r *rule) { r.Expr = r.Expr[:start[0]] + r.Expr[end:] }) {
					t.Errorf("the tests pass without\n%s", alert.Expr[start[0]:end])
				}
			}
			if alert.For != "" && with(func(r *rule) { r.For = "" }) {
				t.Errorf("the tests pass without for: %s", alert.For)
			}
		})
	}
}
