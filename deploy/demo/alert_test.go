package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

const (
	composeConfig = "../container/prometheus.yml"
	// counting is from the end of a trace until a scrape shows it: settling, and two
	// syncs.
	counting = 15 * time.Second
	within   = 5 * time.Minute
	// historyTested is more than the alert looks back.
	historyTested = 70 * time.Minute
)

// Whatever the traffic does, an alert fires within five minutes of a start, without
// anything being edited, and it is the thresholds of the demo that make it fire.
func TestAnAlertFiresSoonInTheDemo(t *testing.T) {
	var config struct {
		Global struct {
			Evaluation string `yaml:"evaluation_interval"`
		} `yaml:"global"`
		RuleFiles []string `yaml:"rule_files"`
		Scrapes   []struct {
			Job      string `yaml:"job_name"`
			Interval string `yaml:"scrape_interval"`
		} `yaml:"scrape_configs"`
	}
	text, err := os.ReadFile(composeConfig)
	if err == nil {
		err = yaml.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	interval, err := time.ParseDuration(config.Scrapes[0].Interval)
	if err != nil || config.Scrapes[0].Job != "opper" {
		t.Fatalf("the first job is %+v: %v", config.Scrapes[0], err)
	}
	var withDemo, without []string
	for _, pattern := range config.RuleFiles {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(composeConfig), pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no file %s: %v", pattern, err)
		}
		for _, file := range files {
			if file, err = filepath.Abs(file); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(file); err != nil { // a cached result ends with a change of it
				t.Fatal(err)
			}
			withDemo = append(withDemo, file)
			if filepath.Base(file) != filepath.Base(demoThresholds) {
				without = append(without, file)
			}
		}
	}
	type sample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
	type query struct {
		Expr     string   `yaml:"expr"`
		Time     string   `yaml:"eval_time"`
		Expected []sample `yaml:"exp_samples"`
	}
	type group struct {
		Name     string   `yaml:"name"`
		Interval string   `yaml:"interval"`
		Series   []series `yaml:"input_series"`
		Queries  []query  `yaml:"promql_expr_test"`
	}
	check := func(rules []string, evaluation string, interval, past time.Duration, seeds int64, want float64) {
		t.Helper()
		tests := map[string]any{"rule_files": rules, "evaluation_interval": evaluation}
		var groups []group
		for seed := range seeds {
			// Prometheus is up with the demo, or some time later.
			late := time.Duration(seed%3) * 2 * interval
			groups = append(groups, group{
				fmt.Sprint("seed ", seed), interval.String(), traffic(seed, interval, late, past),
				[]query{{`count(ALERTS{alertstate="firing", severity="critical", project="demo"}) > bool 0 or vector(0)`, (past + within).String(), []sample{{"{}", want}}}},
			})
		}
		tests["tests"] = groups
		text, err := yaml.Marshal(tests)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "demo_test.yml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := promtest.Promtool(t, nil, "test", "rules", path); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	check(withDemo, config.Global.Evaluation, interval, 0, 10, 1)
	check(without, config.Global.Evaluation, interval, 0, 10, 0)
	// With a history, which the rules take long to evaluate.
	check(withDemo, "1m", time.Minute, historyTested, 2, 1)
}

// series is a series of a test of rules.
type series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// traffic returns what scrapes find that begin a while after the start of a demo, or
// what there is since a time before it, if there is a history.
func traffic(seed int64, interval, late, past time.Duration) []series {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seed) * 11 * time.Minute)
	now := start.Add(-past)
	server := oppertest.New(oppertest.Config{Now: func() time.Time { return now }, Seed: seed, NoRecord: true})
	traffic := oppertest.NewTraffic(server, agents(start), seed)
	traffic.Backfill(start.Add(-past-10*time.Minute), start.Add(-past))
	counter := func(agent, outcome string) string {
		return fmt.Sprintf(`opper_traces_total{project="demo",trace_name=%q,outcome=%q,instance="exporter:16773",job="opper"}`, agent, outcome)
	}
	values := map[string]*strings.Builder{}
	for now = start.Add(-past); !now.After(start.Add(within)); now = now.Add(interval) {
		traffic.Step(now)
		counts := map[string]int{}
		for _, agent := range agents(start) {
			for _, outcome := range []string{"success", "failure", "unknown", "abandoned"} {
				counts[counter(agent.Name, outcome)] = 0
			}
		}
		for offset := 0; offset < server.Len(); offset += 100 {
			rows, _, _ := server.List(offset, 100)
			for _, row := range rows {
				if row.Name == nil || row.Status == nil || row.End == nil || row.End.After(now.Add(-counting)) {
					continue
				}
				counts[counter(*row.Name, map[string]string{"success": "success", "error": "failure"}[*row.Status])]++
			}
		}
		for name, n := range counts {
			if values[name] == nil {
				values[name] = new(strings.Builder)
			}
			if past == 0 && now.Sub(start) < late {
				values[name].WriteString("_ ")
			} else {
				fmt.Fprintf(values[name], "%d ", n)
			}
		}
	}
	var all []series
	for name, v := range values {
		all = append(all, series{name, v.String()})
	}
	return all
}
