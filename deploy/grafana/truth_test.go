package grafana_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// A real server that scrapes a real exporter answers everything that the
// dashboards and the rules ask.
func TestDashboardsAndRulesTellTheTruth(t *testing.T) {
	opper := newOpper(t, "0b6f1c6e-0000-4000-8000-000000000001")
	exporter, address := startExporter(t, opper)
	if _, err := exporter.FamiliesWithUsage(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	breakRequests(t, opper, address)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}

	files := readRules(t, "../prometheus", "testdata")
	config := promtest.Config{RuleFiles: map[string]string{}, Flags: []string{"--enable-feature=exemplar-storage"}}
	var names []string
	for i, f := range files {
		name := fmt.Sprintf("%d.rules", i)
		config.RuleFiles[name] = f.hasty
		names = append(names, name)
	}
	// The second target is to the server a replica with the same counts.
	config.YAML = fmt.Sprintf(`
global: {scrape_interval: %[1]v, scrape_timeout: %[1]v, evaluation_interval: 1s}
rule_files: [%[2]s]
scrape_configs:
  - job_name: opper
    scrape_protocols: [PrometheusProto]
    scrape_native_histograms: true
    always_scrape_classic_histograms: true
    static_configs: [{targets: ["127.0.0.1:%[3]s", "localhost:%[3]s"]}]
`, scrapeInterval, strings.Join(names, ", "), port)
	server := promtest.Start(t, config)
	server.WaitScrapes(t, "opper", 3)
	known := newFacts(scrape(t, address), files)
	all := readDashboards(t)

	t.Run("dashboards", func(t *testing.T) {
		for _, d := range all {
			chosen, err := options(t, server, d)
			if err != nil {
				t.Fatal(err)
			}
			if v := d.variable("trace_name"); v != nil && !v.IncludeAll && !slices.Contains(chosen[v.Name], awkward) {
				t.Errorf("%s offers %q", d.file, chosen[v.Name])
			}
			for _, names := range [][]string{nil, {awkward}, {awkward, "support-triage"}, {quiet}} {
				if v := d.variable("trace_name"); v == nil && names != nil || v != nil && names == nil && !v.IncludeAll {
					continue
				}
				chosen["trace_name"] = names
				t.Run(fmt.Sprintf("%s/%q", filepath.Base(d.file), names), func(t *testing.T) { checkDashboard(t, server, known, d, chosen) })
			}
		}
	})
	t.Run("rules", func(t *testing.T) { checkRules(t, server, known, files) })
	t.Run("exemplars", func(t *testing.T) { checkExemplars(t, server, opper, all) })
	t.Run("replicas", func(t *testing.T) { checkReplicas(t, server, all) })
	t.Run("finds", func(t *testing.T) { checkFinds(t, server, known) })
}

// options asks the variables of a dashboard for what there is to choose, and
// chooses All where that is one text, and else everything that there is.
func options(t *testing.T, server *promtest.Server, d *dashboard) (choice, error) {
	t.Helper()
	chosen := choice{"datasource": {"prometheus"}}
	for _, v := range d.Templating.List {
		switch v.Type {
		case "query":
			filled, err := d.fill(v.query(), chosen, builtinValues)
			if err != nil {
				return nil, err
			}
			values, err := v.values(t.Context(), server, filled)
			if err != nil {
				return nil, err
			}
			if len(values) == 0 {
				return nil, fmt.Errorf("nothing to choose: %s", filled)
			}
			chosen[v.Name] = values
			if v.AllValue != "" {
				chosen[v.Name] = nil
			}
		case "custom", "textbox":
			value, ok := v.Current.Value.(string)
			if !ok || value == "" {
				return nil, fmt.Errorf("%s has no value", v.Name)
			}
			chosen[v.Name] = []string{value}
		}
	}
	return chosen, nil
}

// values returns what Grafana offers for a variable. From the result of a query
// it makes texts, without escaping what is in labels, and takes the group of the
// regular expression.
func (v *variable) values(ctx context.Context, server *promtest.Server, query string) ([]string, error) {
	if match := labelValues.FindStringSubmatch(query); match != nil {
		return server.LabelValues(ctx, match[2], match[1])
	}
	match := queryResult.FindStringSubmatch(query)
	if match == nil {
		return nil, fmt.Errorf("%s asks %s", v.Name, query)
	}
	vector, err := server.Query(ctx, match[1], time.Now())
	if err != nil {
		return nil, err
	}
	group, err := regexp.Compile(strings.Trim(v.Regex, "/"))
	if err != nil {
		return nil, err
	}
	var values []string
	for _, sample := range vector {
		var labels []string
		for name, value := range sample.Metric {
			labels = append(labels, fmt.Sprintf("%s=\"%s\"", name, value))
		}
		text := fmt.Sprintf("{%s} %v %d", strings.Join(labels, ","), sample.Value, sample.Timestamp)
		found := group.FindStringSubmatch(text)
		if found == nil {
			return nil, fmt.Errorf("%s does not match %s", v.Regex, text)
		}
		values = append(values, found[1])
	}
	return values, nil
}

func checkDashboard(t *testing.T, server *promtest.Server, known *facts, d *dashboard, chosen choice) {
	t.Helper()
	var asked []*expression
	for _, p := range d.all() {
		for _, target := range p.Targets {
			promql, err := d.fill(target.Expr, chosen, builtinValues)
			if err != nil {
				t.Errorf("%s: %v", p.Title, err)
				continue
			}
			asked = append(asked, &expression{
				where: fmt.Sprintf("%s, %s", p.Title, target.RefID), promql: promql, isRange: target.Range,
				// What is computed of traces has no answer without traces. What there is must still be a number.
				mayBeEmpty: slices.Equal(chosen["trace_name"], []string{quiet}),
			})
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr == "" {
			continue
		}
		promql, err := d.fill(a.Expr, chosen, builtinValues)
		if err != nil {
			t.Errorf("%s: %v", a.Name, err)
		}
		asked = append(asked, &expression{where: "annotation " + a.Name, promql: promql, isRange: true, mayBeEmpty: true})
	}
	check(t, server, known, asked)
	for _, e := range asked {
		known.dashboardOnly(t, e)
	}
}

func checkRules(t *testing.T, server *promtest.Server, known *facts, files []*ruleFile) {
	t.Helper()
	if len(files) == 0 {
		t.Error("no rules")
	}
	late := lateRecords(t, server, files)
	for _, f := range files {
		t.Run(filepath.Base(f.name), func(t *testing.T) {
			var asked []*expression
			for _, r := range f.rules {
				// An alert gives nothing while all is well, and a comparison with the past nothing while there is none.
				e := &expression{where: r.Record + r.Alert, promql: r.Expr, mayBeEmpty: r.Alert != "" || late[r.Record] == mixed || excused(r.Record)}
				asked = append(asked, e)
			}
			check(t, server, known, asked)
			for _, e := range asked {
				if e.parsed != nil {
					checkSelectors(t, server, late, e)
				}
			}
		})
	}
}

// checkExemplars follows the dots in the dashboards to the traces at Opper.
func checkExemplars(t *testing.T, server *promtest.Server, opper *oppertest.Server, all []*dashboard) {
	t.Helper()
	asked := 0
	for _, d := range all {
		chosen, err := options(t, server, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d.all() {
			for _, target := range p.Targets {
				if !target.Exemplar {
					continue
				}
				asked++
				promql, err := d.fill(target.Expr, chosen, builtinValues)
				if err != nil {
					t.Fatal(err)
				}
				promtest.Eventually(t, func() error {
					series, err := server.Exemplars(t.Context(), promql, time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
					if err == nil && len(series) == 0 {
						err = fmt.Errorf("%s, %s: no exemplars", d.Title, p.Title)
					}
					for _, s := range series {
						for _, exemplar := range s.Exemplars {
							if id := string(exemplar.Labels[exemplarLabel(t)]); !listed(opper, id) {
								return fmt.Errorf("%s, %s: Opper knows no trace %q of %v", d.Title, p.Title, id, exemplar.Labels)
							}
						}
					}
					return err
				})
			}
		}
	}
	if asked < 3 {
		t.Errorf("only %d panels show exemplars", asked)
	}
}

func listed(opper *oppertest.Server, id string) bool {
	_, ok := opper.Get(id)
	return ok
}

// checkReplicas looks whether two replicas count twice. The dashboard of the
// exporter shows each replica.
func checkReplicas(t *testing.T, server *promtest.Server, all []*dashboard) {
	t.Helper()
	compared := 0
	for _, d := range all {
		if d.variable("instance") != nil {
			continue
		}
		chosen, err := options(t, server, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d.all() {
			for _, target := range p.Targets {
				// Shares and quantiles are the same for any number of replicas.
				if strings.Contains(target.Expr, "/") || strings.Contains(target.Expr, "histogram_quantile") || !strings.Contains(target.Expr, "sum") || strings.Contains(target.Expr, "offset") {
					continue
				}
				promql, err := d.fill(target.Expr, chosen, builtinValues)
				if err != nil {
					t.Fatal(err)
				}
				compared++
				promtest.Eventually(t, func() error {
					now := time.Now()
					both, err := total(t.Context(), server, promql, now)
					if err != nil {
						return err
					}
					one, err := total(t.Context(), server, strings.ReplaceAll(promql, "{", `{instance=~"127.*", `), now)
					if err != nil {
						return err
					}
					// They are scraped at different times, so they do not count the same at any one.
					if both > 1.5*one {
						return fmt.Errorf("%s, %s: one replica has %v, two have %v", d.Title, p.Title, one, both)
					}
					return nil
				})
			}
		}
	}
	if compared < 20 {
		t.Errorf("only %d values", compared)
	}
}

// total adds up a result, histograms by their counts.
func total(ctx context.Context, server *promtest.Server, promql string, at time.Time) (float64, error) {
	vector, err := server.Query(ctx, promql, at)
	sum := 0.0
	for _, sample := range vector {
		if sample.Histogram != nil {
			sum += float64(sample.Histogram.Count)
		} else {
			sum += float64(sample.Value)
		}
	}
	return sum, err
}

// checkFinds gives the checks what they are to find.
func checkFinds(t *testing.T, server *promtest.Server, known *facts) {
	t.Helper()
	for _, test := range []struct{ promql, finds string }{
		{`sum(rate(opper_traces_total[4s])`, "unclosed left parenthesis"},
		{`opper_traces_renamed_total`, "no metric"},
		{`sum by (trace_name) (rate(opper_trace_duration_seconds_buckets[4s]))`, "no metric"},
		{`{__name__=~"opper_.*"}`, "no metric"},
		{`unknown:recorded:rate5m`, "no metric"},
		{`opper_traces_total{name="a"}`, "no label"},
		{`sum by (name) (opper_traces_total)`, "no label"},
		{`sum by (le) (opper_traces_total)`, "no label"},
		{`opper_traces_open / on (project, outcome) opper_traces_listed`, "no label"},
		{`opper_traces_open * on (project) group_left (version) opper_traces_listed`, "no label"},
		{`max without (replica) (opper_traces_open)`, "no label"},
		{`rate(opper_traces_open[4s])`, "no counter"},
		{`increase(opper_exporter_last_success_timestamp_seconds[4s])`, "no counter"},
		{`sum by (trace_name) (trace_name:opper_traces:rate5m{level="test"})`, ""},
		{`label_replace(up, "a", "$1", "job", "(.*)") * on (a) group_left () label_replace(up, "a", "$1", "job", "(.*)")`, ""},
	} {
		parsed, err := server.Parse(t.Context(), test.promql)
		if err == nil {
			err = known.check(parsed)
		}
		if test.finds == "" && err != nil || test.finds != "" && (err == nil || !strings.Contains(err.Error(), test.finds)) {
			t.Errorf("%s: %v, not %q", test.promql, err, test.finds)
		}
	}
	for _, promql := range []string{`opper_traces_total{outcome="won"}`, `rate(opper_exporter_api_requests_total{code=~"4.*x"}[4s])`} {
		n, err := ask(t.Context(), server, &expression{promql: promql, parsed: &promtest.Node{}})
		if n > 0 || err != nil {
			t.Errorf("%s: %d series, %v", promql, n, err)
		}
	}
	if _, err := ask(t.Context(), server, &expression{promql: "0 * opper_up / 0", parsed: &promtest.Node{}}); err == nil {
		t.Error("not a number was taken for one")
	}
}
