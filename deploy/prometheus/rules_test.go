// Package prometheus_test holds the rules, their tests and what is written about
// them to each other.
package prometheus_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
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
	Tests []testGroup    `yaml:"tests"`
	Rest  map[string]any `yaml:",inline"`
}

type testGroup struct {
	Name   string         `yaml:"name"`
	Alerts []alertTest    `yaml:"alert_rule_test"`
	Exprs  []exprTest     `yaml:"promql_expr_test"`
	Rest   map[string]any `yaml:",inline"`
}

type alertTest struct {
	Name     string         `yaml:"alertname"`
	Expected []any          `yaml:"exp_alerts"`
	Rest     map[string]any `yaml:",inline"`
}

type exprTest struct {
	Expr     string         `yaml:"expr"`
	Expected []any          `yaml:"exp_samples"`
	Rest     map[string]any `yaml:",inline"`
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

func TestPromtoolAcceptsRules(t *testing.T) {
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

var allRules = flag.Bool("all-rules", false, "let TestRulesPassTheirTests run the tests of alerts too, which takes minutes")

// TestEveryAlertIsTested runs the tests of alerts, each beside the rules that it needs.
// Beside all rules they take many times longer.
func TestRulesPassTheirTests(t *testing.T) {
	rules(t) // promtool reads them, which makes a cached result stale when they change
	ofNoAlert := regexp.MustCompile(`^[^:]*$`)
	args := []string{"test", "rules", "--run=" + ofNoAlert.String()}
	if *allRules {
		args = args[:2]
	}
	for name, f := range tests(t) {
		if !*allRules && !slices.ContainsFunc(f.Tests, func(g testGroup) bool { return ofNoAlert.MatchString(g.Name) }) {
			continue
		}
		for server, promtool := range map[string]func(testing.TB, ...string) (string, error){"newest": newestPromtool, "oldest": promtest.OldestPromtool} {
			t.Run(server+"/"+filepath.Base(name), func(t *testing.T) {
				t.Parallel()
				if out, err := promtool(t, append(slices.Clip(args), name)...); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// The scrape by service discovery is that of the example, but for how targets are found.
func TestScrapeOfManyProjectsIsThatOfTheExample(t *testing.T) {
	_, block, _ := strings.Cut(read(t, "README.md"), "## Many projects\n")
	_, block, _ = strings.Cut(block, "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtest.Promtool(t, nil, "check", "config", "--lint=all", "--lint-fatal", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	var many, one struct {
		Scrapes []map[string]any `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(block), &many); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus.yml")), &one); err != nil {
		t.Fatal(err)
	}
	if many.Scrapes[0]["honor_labels"] != true {
		t.Error("the label project of the exporter would become exported_project")
	}
	for _, name := range []string{"honor_labels", "sample_limit", "http_sd_configs"} {
		delete(many.Scrapes[0], name)
	}
	delete(one.Scrapes[0], "static_configs")
	if !reflect.DeepEqual(many, one) {
		t.Errorf("the README has\n%v\nthe example\n%v", many, one)
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
	// TestMostSpecificThresholdCounts is about the thresholds, given and recorded.
	for _, r := range find(files, func(r rule) bool {
		return !isAlert(r) && !strings.Contains(r.Record, "opper_threshold:") && !isThreshold(r)
	}) {
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
		if severity := r.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, severity) {
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
