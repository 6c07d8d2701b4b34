package prometheus_test

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
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

var changeRules = flag.Bool("change-rules", false, "let TestEveryAlertIsTested change the rules too, to see its tests fail, which takes minutes")

// Each alert passes its tests beside the rules that it needs, on the newest server; the
// oldest one has TestRulesPassTheirTests -all-rules. With -change-rules, one of them fails without any of its conditions,
// without its time of grace, or with twice or half of a threshold. Of the alerts that use
// a threshold, the one that is quickest to test shows it.
func TestEveryAlertIsTested(t *testing.T) {
	files := rules(t)
	byAlert := map[string][]change{}
	for _, threshold := range find(files, isThreshold) {
		users := find(files, func(r rule) bool { return isAlert(r) && needs(files, r)[threshold.Record] })
		if len(users) == 0 {
			t.Errorf("no alert uses %s", threshold.Record)
			continue
		}
		alert := slices.MinFunc(users, func(a, b rule) int { return len(needs(files, a)) - len(needs(files, b)) }).Alert
		for _, other := range others(value(t, threshold)) {
			byAlert[alert] = append(byAlert[alert], change{
				what: fmt.Sprintf("with %s at %v", threshold.Record, other), name: threshold.Record,
				edit: func(r *rule) { r.Expr = fmt.Sprintf("vector(%v)", other) },
			})
		}
	}
	for _, alert := range find(files, isAlert) {
		var changes []change
		if *changeRules {
			changes = append(byAlert[alert.Alert], withoutConditions(alert)...)
		}
		t.Run(alert.Alert, func(t *testing.T) {
			t.Parallel()
			failed, out := failedTests(t, writeChanges(t, files, alert, changes))
			if slices.Contains(failed, alert.Alert) {
				t.Fatalf("the tests fail as they are\n%s", out)
			}
			for i, c := range changes {
				if !slices.Contains(failed, changed(alert.Alert, i)) {
					t.Errorf("the tests pass %s", c.what)
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

// withoutConditions returns the changes that take one condition, or the time of grace,
// from an alert.
func withoutConditions(alert rule) (changes []change) {
	starts := clause.FindAllStringIndex(alert.Expr, -1)
	for i, start := range starts {
		end := len(alert.Expr)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		changes = append(changes, change{
			what: "without\n" + alert.Expr[start[0]:end], name: alert.Alert,
			edit: func(r *rule) { r.Expr = r.Expr[:start[0]] + r.Expr[end:] },
		})
	}
	if alert.For != "" {
		changes = append(changes, change{what: "without for: " + alert.For, name: alert.Alert, edit: func(r *rule) { r.For = "" }})
	}
	return changes
}
