package grafana_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

const (
	scrapeInterval = time.Second
	// awkward is a name with all that has to be escaped somewhere.
	awkward = `it's a "test" (a|b).c\d/e $f`
	// quiet has a past, and no traces now.
	quiet = "quiet"
)

// builtinValues are what Grafana makes of its variables for a time of an hour
// and that interval of scrapes.
var builtinValues = map[string]string{"__interval": "1s", "__rate_interval": "4s", "__range": "3600s"}

// mayBeEmpty are the expressions and selectors of rules that may give nothing,
// by what they contain, and why they may.
var mayBeEmpty = []struct{ pattern, reason string }{
	{`^opper:threshold:\w+\{trace_name!=""\}$`, "as it comes, no name has a threshold of its own"},
}

// expression is one that Grafana or Prometheus will ask.
type expression struct {
	where  string // for messages
	promql string // with all variables filled in
	// Ranges are asked for some seconds, others for one time.
	isRange bool
	// mayBeEmpty is set where emptiness is an answer, too.
	mayBeEmpty bool
	// parsed is what the server makes of it.
	parsed *promtest.Node
}

// TestTrue asks a real server that scrapes a real exporter everything that the
// dashboards and the rules ask.
func TestMain(m *testing.M) { exportertest.Main(m) }

func TestTrue(t *testing.T) {
	opper := newOpper(t)
	address := startExporter(t, opper)
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

// scrape returns the families that the exporter exposes.
func scrape(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := exportertest.Families(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// newOpper runs an Opper with the traffic of the demo, somewhat livelier, and
// some agents more.
func newOpper(t *testing.T) *oppertest.Server {
	t.Helper()
	opper := oppertest.New(oppertest.Config{NoRecord: true})
	agents := append(oppertest.DefaultAgents(), oppertest.Agent{Name: awkward, Rate: 1, Median: time.Second, Spread: 0.5, Failure: 0.3, Tokens: 500})
	for i := range agents {
		agents[i].Rate *= 3
	}
	traffic := oppertest.NewTraffic(opper, agents, 1)
	now := time.Now()
	traffic.Backfill(now.Add(-time.Hour), now)
	begin, end := now.Add(-time.Hour), now.Add(-time.Hour+time.Second)
	opper.Add(oppertest.Trace{ID: "quiet", Name: new(quiet), Status: new("success"), Start: &begin, End: &end, Tokens: new(int64(100))})
	ctx := t.Context()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				traffic.Step(now)
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return opper
}

// startExporter runs the exporter, and returns its address when the
// first walk is published.
func startExporter(t *testing.T, opper http.Handler) string {
	t.Helper()
	server := httptest.NewServer(opper)
	t.Cleanup(server.Close)
	return exportertest.MustStart(t, exportertest.Command(exportertest.Binary(t), server.URL,
		"--collector.interval=1s", "--collector.settle-delay=1s", "--storage.path="+t.TempDir())).AwaitReady(t)
}

// breakRequests makes Opper answer once with each of some errors, and waits
// until the exporter has met them.
func breakRequests(t *testing.T, opper *oppertest.Server, address string) {
	t.Helper()
	codes := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError}
	for _, code := range codes {
		opper.Fail(oppertest.Fault{Answer: oppertest.Respond(code, "", "")})
	}
	opper.Fail(oppertest.Fault{Answer: oppertest.CutBody})
	promtest.Eventually(t, func() error {
		met := map[string]bool{}
		for _, m := range scrape(t, address)["opper_exporter_api_requests_total"].GetMetric() {
			met[labelOf(m, "code")] = m.GetCounter().GetValue() > 0
		}
		for _, code := range codes {
			if !met[strconv.Itoa(code)] {
				return fmt.Errorf("no answer %d yet", code)
			}
		}
		if !met["error"] {
			return errors.New("no request without an answer yet")
		}
		return nil
	})
}

func labelOf(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
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
			match := labelValues.FindStringSubmatch(filled)
			if match == nil {
				return nil, fmt.Errorf("%s asks %s", v.Name, filled)
			}
			values, err := server.LabelValues(t.Context(), match[2], match[1])
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
				e := &expression{where: r.Record + r.Alert, promql: r.Expr, mayBeEmpty: r.Alert != "" || late[r.Record] == mixed}
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

// lateness says whether a recorded series can be there when a server has just
// begun.
type lateness int

const (
	inTime  lateness = iota
	shifted          // all that it is made of is of one time in the past
	mixed            // it is made of the past and of the present
)

// lateRecords finds the recorded series that need a past.
func lateRecords(t *testing.T, server *promtest.Server, files []*ruleFile) map[string]lateness {
	t.Helper()
	late := map[string]lateness{}
	for found := true; found; {
		found = false
		for _, f := range files {
			for _, r := range f.rules {
				if r.Record == "" || late[r.Record] != inTime {
					continue
				}
				parsed, err := server.Parse(t.Context(), r.Expr)
				if err != nil {
					continue // check will say it
				}
				for _, selector := range selectorsOf(parsed) {
					switch {
					case late[selector.Name] != inTime || selector.Offset > 0 && pastOf(parsed) == 0:
						late[r.Record], found = mixed, true
					case selector.Offset > 0 && late[r.Record] == inTime:
						late[r.Record], found = shifted, true
					}
				}
			}
		}
	}
	return late
}

func excused(text string) bool {
	for _, excuse := range mayBeEmpty {
		if regexp.MustCompile(excuse.pattern).MatchString(text) {
			return true
		}
	}
	return false
}

// check has expressions parsed, looks what they are about, and asks them until
// each has given an answer.
func check(t *testing.T, server *promtest.Server, known *facts, asked []*expression) {
	t.Helper()
	series := map[*expression]int{}
	var open []*expression
	for _, e := range asked {
		parsed, err := server.Parse(t.Context(), e.promql)
		if err != nil {
			t.Errorf("%s: %v\n%s", e.where, err, e.promql)
			continue
		}
		e.parsed = parsed
		if err := known.check(parsed); err != nil {
			t.Errorf("%s: %v\n%s", e.where, err, e.promql)
			continue
		}
		open = append(open, e)
	}
	promtest.Eventually(t, func() error {
		for len(open) > 0 {
			e := open[0]
			n, err := ask(t.Context(), server, e)
			if err == nil && n == 0 && !e.mayBeEmpty {
				err = errors.New("no data")
			}
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", e.where, err, e.promql)
			}
			series[e] = n
			open = open[1:]
		}
		return nil
	})
	for _, e := range asked {
		t.Logf("%4d series: %s", series[e], e.where)
	}
}

// ask returns the number of series that an expression gives. One that is only
// about the past is asked when that past is now.
func ask(ctx context.Context, server *promtest.Server, e *expression) (int, error) {
	at := time.Now().Add(pastOf(e.parsed))
	if !e.isRange {
		vector, err := server.Query(ctx, e.promql, at)
		for _, sample := range vector {
			if sample.Histogram == nil && !finite(sample.Value) {
				return 0, fmt.Errorf("%v is %v", sample.Metric, sample.Value)
			}
		}
		return len(vector), err
	}
	matrix, err := server.QueryRange(ctx, e.promql, at.Add(-10*scrapeInterval), at, scrapeInterval)
	for _, stream := range matrix {
		for _, pair := range stream.Values {
			if !finite(pair.Value) {
				return 0, fmt.Errorf("%v is %v", stream.Metric, pair.Value)
			}
		}
	}
	return len(matrix), err
}

func finite(v model.SampleValue) bool {
	return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0)
}

// pastOf returns the offset that all selectors of an expression have in common.
func pastOf(n *promtest.Node) time.Duration {
	selectors := selectorsOf(n)
	for _, selector := range selectors {
		if selector.Offset != selectors[0].Offset {
			return 0
		}
	}
	if len(selectors) == 0 {
		return 0
	}
	return selectors[0].Offset
}

func selectorsOf(n *promtest.Node) []*promtest.Node {
	if n.Type == "vectorSelector" || n.Type == "matrixSelector" {
		return []*promtest.Node{n}
	}
	var all []*promtest.Node
	for _, child := range n.Children() {
		all = append(all, selectorsOf(child)...)
	}
	return all
}

// selectorText writes a selector, without range and offset.
func selectorText(n *promtest.Node) string {
	var matchers []string
	for _, m := range n.Matchers {
		if m.Name != model.MetricNameLabel {
			matchers = append(matchers, m.Name+m.Type+strconv.Quote(m.Value))
		}
	}
	return n.Name + "{" + strings.Join(matchers, ", ") + "}"
}

// checkSelectors asks for what an expression selects, each by itself: an alert
// that is silent because of a wrong label looks like one that has no cause.
func checkSelectors(t *testing.T, server *promtest.Server, late map[string]lateness, e *expression) {
	t.Helper()
	for _, selector := range selectorsOf(e.parsed) {
		text := selectorText(selector)
		if late[selector.Name] != inTime || excused(text) {
			continue
		}
		promtest.Eventually(t, func() error {
			vector, err := server.Query(t.Context(), "last_over_time("+text+"[1h])", time.Now())
			if err == nil && len(vector) == 0 {
				err = fmt.Errorf("%s: no data for %s", e.where, text)
			}
			return err
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
		t.Errorf("only %d sums", compared)
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
