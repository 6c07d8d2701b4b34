package prometheus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

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
// OpperThresholdMissing is about all thresholds, whatever their value.
func alertsBy(files map[string]ruleFile, record string) []string {
	var names []string
	for _, r := range find(files, isAlert) {
		if r.Alert != "OpperThresholdMissing" && needs(files, r)[record] {
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
// found by what is missing, and of a count of 1 less is none.
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
