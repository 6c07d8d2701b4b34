package promtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// clockTolerance is how far the server may move the timestamp of a scrape
// from when it began.
const clockTolerance = 2 * time.Millisecond

// Query evaluates an expression at one time. Samples of native histograms
// carry them in Histogram. A scalar or string result is an error.
func (s *Server) Query(ctx context.Context, promql string, at time.Time) (model.Vector, error) {
	var v model.Vector
	err := s.query(ctx, "query", model.ValVector, &v, url.Values{
		"query": {promql},
		"time":  {unix(at)},
	})
	return v, err
}

// QueryRange evaluates an expression at every step from start to end.
func (s *Server) QueryRange(ctx context.Context, promql string, start, end time.Time, step time.Duration) (model.Matrix, error) {
	var m model.Matrix
	err := s.query(ctx, "query_range", model.ValMatrix, &m, url.Values{
		"query": {promql},
		"start": {unix(start)},
		"end":   {unix(end)},
		"step":  {strconv.FormatInt(step.Milliseconds(), 10) + "ms"}, // the server cuts fractions of a second
	})
	return m, err
}

func (s *Server) query(ctx context.Context, path string, want model.ValueType, result any, params url.Values) error {
	var data struct {
		ResultType model.ValueType `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	}
	if err := s.get(ctx, path, params, &data); err != nil {
		return err
	}
	if data.ResultType != want {
		return fmt.Errorf("result of %q is a %s, not a %s", params.Get("query"), data.ResultType, want)
	}
	return json.Unmarshal(data.Result, result)
}

// ExemplarSeries is one series and its exemplars, in the order of time.
type ExemplarSeries struct {
	Labels    model.Metric `json:"seriesLabels"`
	Exemplars []Exemplar   `json:"exemplars"`
}

// Exemplar is one exemplar of a series.
type Exemplar struct {
	Labels    model.LabelSet    `json:"labels"`
	Value     model.SampleValue `json:"value"`
	Timestamp model.Time        `json:"timestamp"`
}

// Exemplars returns the exemplars, from start to end by their own timestamps,
// of the series that an expression selects. The server keeps none without
// --enable-feature=exemplar-storage.
func (s *Server) Exemplars(ctx context.Context, promql string, start, end time.Time) ([]ExemplarSeries, error) {
	var series []ExemplarSeries
	err := s.get(ctx, "query_exemplars", url.Values{
		"query": {promql},
		"start": {unix(start)},
		"end":   {unix(end)},
	}, &series)
	return series, err
}

// Target is one target that the server scrapes.
type Target struct {
	Job       string         `json:"scrapePool"`
	URL       string         `json:"scrapeUrl"`
	Labels    model.LabelSet `json:"labels"`
	Health    string         `json:"health"`    // up, down or unknown
	LastError string         `json:"lastError"` // why the last scrape failed, or empty
}

// Targets returns the targets of every job.
func (s *Server) Targets(ctx context.Context) ([]Target, error) {
	var data struct {
		ActiveTargets []Target `json:"activeTargets"`
	}
	err := s.get(ctx, "targets", url.Values{"state": {"active"}}, &data)
	return data.ActiveTargets, err
}

// CheckRules returns an error unless the server has rules and has evaluated all of
// them well.
func (s *Server) CheckRules(ctx context.Context) error {
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := s.get(ctx, "rules", nil, &data); err != nil {
		return err
	}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				return fmt.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if len(data.Groups) == 0 {
		return errors.New("no rules")
	}
	return nil
}

// WaitScrapes returns when every target of a job has been scraped with success
// n times more, counting only scrapes that began after the call: what a target
// exposes now is in the server then. It fails the test, with the last error of
// the scrapes, if that takes minutes.
func (s *Server) WaitScrapes(t testing.TB, job string, n int) {
	t.Helper()
	since := time.Now().Add(clockTolerance)
	Eventually(t, func() error {
		targets, err := s.Targets(t.Context())
		if err != nil {
			return err
		}
		// A range leaves out its start, so nothing older counts.
		now := time.Now()
		window := now.Sub(since).Milliseconds()
		if window < 1 {
			return errors.New("too early")
		}
		scrapes, err := s.Query(t.Context(), fmt.Sprintf("sum_over_time(up{job=%q}[%dms])", job, window), now)
		if err != nil {
			return err
		}
		return scraped(targets, scrapes, job, n)
	})
}

// scraped returns an error unless every target of a job, of which there must
// be one, has at least n scrapes.
func scraped(targets []Target, scrapes model.Vector, job string, n int) error {
	counts := map[model.LabelValue]model.SampleValue{}
	for _, sample := range scrapes {
		counts[sample.Metric[model.InstanceLabel]] = sample.Value
	}
	found := false
	for _, target := range targets {
		if target.Job != job {
			continue
		}
		found = true
		if got := counts[target.Labels[model.InstanceLabel]]; got < model.SampleValue(n) {
			return fmt.Errorf("%v of %d scrapes of %s, last error: %q", got, n, target.URL, target.LastError)
		}
	}
	if !found {
		return fmt.Errorf("no target in job %q", job)
	}
	return nil
}

// get asks an endpoint below /api/v1/ and decodes the data of its answer.
func (s *Server) get(ctx context.Context, path string, params url.Values, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/"+path+"?"+params.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, answer.Error)
	}
	return nil
}

// unix writes a time as seconds, to the millisecond that the server keeps.
func unix(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// Node is a part of an expression as the server has parsed it. Which of the
// fields are set depends on the type.
type Node struct {
	Type string `json:"type"` // vectorSelector, matrixSelector, subquery, aggregation, call, binaryExpr, stringLiteral, ...

	// Of selectors.
	Name     string        `json:"name"` // of the metric, empty if only a matcher has it
	Matchers []Matcher     `json:"matchers"`
	Offset   time.Duration `json:"-"` // of subqueries, too

	// Of aggregations.
	Op       string   `json:"op"`
	Grouping []string `json:"grouping"`
	Without  bool     `json:"without"`

	// Of binary expressions; nil without a vector on each side.
	Matching *struct {
		Labels  []string `json:"labels"`
		On      bool     `json:"on"`
		Include []string `json:"include"`
	} `json:"matching"`

	Func struct {
		Name string `json:"name"`
	} `json:"func"` // of calls
	Val string `json:"val"` // of literals

	// What it is made of.
	Expr  *Node   `json:"expr"`
	Param *Node   `json:"param"`
	LHS   *Node   `json:"lhs"`
	RHS   *Node   `json:"rhs"`
	Args  []*Node `json:"args"`
}

// Matcher is a condition on a label.
type Matcher struct {
	Name  string `json:"name"`
	Type  string `json:"type"` // =, !=, =~ or !~
	Value string `json:"value"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Node) UnmarshalJSON(data []byte) error {
	type plain Node
	milliseconds := struct {
		*plain
		Offset int64 `json:"offset"`
	}{plain: (*plain)(n)}
	if err := json.Unmarshal(data, &milliseconds); err != nil {
		return err
	}
	n.Offset = time.Duration(milliseconds.Offset) * time.Millisecond
	return nil
}

// Children returns what a node is made of.
func (n *Node) Children() []*Node {
	children := []*Node{}
	for _, child := range append([]*Node{n.Expr, n.Param, n.LHS, n.RHS}, n.Args...) {
		if child != nil {
			children = append(children, child)
		}
	}
	return children
}

// Parse returns how the server understands an expression.
func (s *Server) Parse(ctx context.Context, promql string) (*Node, error) {
	n := new(Node)
	return n, s.get(ctx, "parse_query", url.Values{"query": {promql}}, n)
}

// LabelValues returns the values that a label has in the series that a selector
// matches.
func (s *Server) LabelValues(ctx context.Context, label, selector string) ([]string, error) {
	var values []string
	err := s.get(ctx, "label/"+url.PathEscape(label)+"/values", url.Values{"match[]": {selector}}, &values)
	return values, err
}
