package grafana_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/deploy/test/promtest"
)

// facts is what expressions may be about.
type facts struct {
	scraped  map[string]metric
	recorded map[string]bool
	// labels are all that there are. Which of them a recorded series has is
	// not known here.
	labels map[string]bool
}

type metric struct {
	labels  map[string]bool
	counter bool // or a part of a histogram, which counts too
}

// newFacts takes them from an exposition and from rules.
func newFacts(families map[string]*dto.MetricFamily, files []*ruleFile) *facts {
	f := &facts{scraped: map[string]metric{}, recorded: map[string]bool{}, labels: map[string]bool{}}
	add := func(name string, counter bool, labels ...string) {
		m := metric{labels: map[string]bool{"job": true, "instance": true}, counter: counter}
		for _, label := range labels {
			m.labels[label] = true
		}
		f.scraped[name] = m
		maps.Copy(f.labels, m.labels)
	}
	// With service discovery, the target of a project has its label.
	for _, name := range []string{"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"} {
		add(name, false, "project")
	}
	// What the server writes of the alerts of the rules.
	add("ALERTS", false, "alertname", "alertstate", "project", "trace_name")
	for name, family := range families {
		var labels []string
		for _, m := range family.GetMetric() {
			for _, pair := range m.GetLabel() {
				labels = append(labels, pair.GetName())
			}
		}
		switch family.GetType() {
		case dto.MetricType_HISTOGRAM:
			if h := family.GetMetric()[0].GetHistogram(); h.Schema != nil {
				add(name, true, labels...)
			}
			add(name+"_bucket", true, append(labels, "le")...)
			add(name+"_sum", true, labels...)
			add(name+"_count", true, labels...)
		case dto.MetricType_SUMMARY:
			add(name, false, append(labels, "quantile")...)
			add(name+"_sum", true, labels...)
			add(name+"_count", true, labels...)
		default:
			add(name, family.GetType() == dto.MetricType_COUNTER, labels...)
		}
	}
	for _, file := range files {
		for _, r := range file.rules {
			if r.Record != "" {
				f.recorded[r.Record] = true
				for name := range r.Labels {
					f.labels[name] = true
				}
			}
		}
	}
	return f
}

// ofOthers are labels that a Prometheus may add, so that an expression may drop
// them although they are not here.
var ofOthers = []string{"pod"}

// check says what an expression is about that does not exist.
func (f *facts) check(n *promtest.Node) error {
	available, err := f.availableIn(n)
	if err != nil {
		return err
	}
	for _, child := range n.Children() {
		if err := f.check(child); err != nil {
			return err
		}
	}
	wanted := n.Grouping
	if n.Without {
		wanted = slices.DeleteFunc(slices.Clone(wanted), func(label string) bool { return slices.Contains(ofOthers, label) })
	}
	if n.Matching != nil {
		wanted = slices.Concat(wanted, n.Matching.Labels, n.Matching.Include)
	}
	for _, m := range n.Matchers {
		wanted = append(wanted, m.Name)
	}
	for _, label := range wanted {
		if !available[label] && label != "__name__" {
			return fmt.Errorf("no label %s in %s", label, describe(n))
		}
	}
	if slices.Contains([]string{"rate", "increase", "irate", "resets"}, n.Func.Name) && len(n.Args) == 1 {
		if m, ok := f.scraped[n.Args[0].Name]; ok && !m.counter {
			return fmt.Errorf("%s is no counter", n.Args[0].Name)
		}
	}
	return nil
}

// availableIn returns the labels that the parts of an expression can have.
func (f *facts) availableIn(n *promtest.Node) (map[string]bool, error) {
	labels := map[string]bool{}
	if n.Type == "vectorSelector" || n.Type == "matrixSelector" {
		m, ok := f.scraped[n.Name]
		switch {
		case ok:
			return m.labels, nil
		case f.recorded[n.Name]:
			return f.labels, nil
		}
		return nil, fmt.Errorf("no metric in %s", describe(n))
	}
	if (n.Func.Name == "label_replace" || n.Func.Name == "label_join") && len(n.Args) > 1 {
		labels[n.Args[1].Val] = true
	}
	for _, child := range n.Children() {
		of, err := f.availableIn(child)
		if err != nil {
			return nil, err
		}
		maps.Copy(labels, of)
	}
	return labels, nil
}

func describe(n *promtest.Node) string {
	switch n.Type {
	case "vectorSelector", "matrixSelector":
		return selectorText(n)
	case "aggregation":
		return fmt.Sprintf("%s (%s)", n.Op, strings.Join(n.Grouping, ", "))
	}
	return n.Type + " " + n.Op
}

// dashboardOnly finds what a dashboard must not ask: it has to work without
// the rules, but for what it says about their alerts.
func (f *facts) dashboardOnly(t *testing.T, e *expression) {
	t.Helper()
	if e.parsed == nil || strings.Contains(e.promql, "ALERTS{") {
		return
	}
	for _, selector := range selectorsOf(e.parsed) {
		if f.recorded[selector.Name] {
			t.Errorf("%s needs a rule: %s", e.where, selector.Name)
		}
	}
}
