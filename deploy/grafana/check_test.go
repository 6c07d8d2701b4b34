package grafana_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/promtest"
)

// builtinValues are what Grafana makes of its variables for a time of an hour
// and that interval of scrapes.
var builtinValues = map[string]string{"__interval": "1s", "__rate_interval": "4s", "__range": "3600s"}

// mayBeEmpty are the expressions and selectors of rules that may give nothing,
// by what they contain, and why they may.
var mayBeEmpty = []struct{ pattern, reason string }{
	{`^opper:threshold:\w+\{.*!=""`, "as it comes, no project and no name has a threshold of its own"},
	{`^job_project:opper_up:absent\b`, "no project is absent"},
	{`^up\{project!=""`, "the project is no target of its own"},
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

func labelOf(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
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
