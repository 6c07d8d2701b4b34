package check

import (
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// What is found in the usage and the budget, each with what to do.
func TestUsageFindings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		troubles      oppertest.UsageTroubles
		limit         int64 // cents; 0 is none
		args          []string
		problem, note string
	}{
		"friendly":            {limit: 1_000_000},
		"too many models":     {args: []string{"--collector.max-models=2"}, problem: "3 models are more than the limit of 2: usage of the rest is counted as (other). Raise --collector.max-models."},
		"not found":           {troubles: oppertest.UsageTroubles{Status: 404}, problem: "Opper has no usage for this key"},
		"failing":             {troubles: oppertest.UsageTroubles{Status: 500}, problem: "The usage cannot be read: opper answered 500"},
		"no group of traces":  {troubles: oppertest.UsageTroubles{NoGroups: []string{"trace_uuid"}}, note: "Opper does not tell usage by trace: usage without a group that was asked for"},
		"no group of project": {troubles: oppertest.UsageTroubles{NoGroups: []string{"project.uuid"}}},
		"refused projects":    {troubles: oppertest.UsageTroubles{RefuseGroups: []string{"project.uuid"}}},
		"no group of model":   {troubles: oppertest.UsageTroubles{NoGroups: []string{"model"}}, problem: "Opper has no usage for this key: usage without a group"},
		"no budget":           {troubles: oppertest.UsageTroubles{BudgetStatus: 404}, note: "There is no budget: "},
		"limit near":          {limit: 12_000, note: "of this month's limit of $120.00 are spent. At the limit, Opper may refuse calls."},
		"unknown fields":      {troubles: oppertest.UsageTroubles{UnknownFields: true, Shapes: true, Wrapped: true, Underscores: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, oppertest.Config{}, 100)
			f.use(3, ownProject)
			f.usage.SetTroubles(c.troubles)
			if c.limit > 0 {
				f.usage.SetBudget(ownProject, oppertest.Budget{LimitCents: &c.limit})
			}
			r := f.report(t, c.args...)
			for _, x := range []struct {
				found []Finding
				want  string
			}{{r.Problems, c.problem}, {r.Notes, c.note}} {
				if len(x.found) != count(x.want != "") || !strings.Contains(texts(x.found), x.want) {
					t.Errorf("found %+v, want %q", x.found, x.want)
				}
			}
		})
	}
}

// The amounts are those of Opper, to the last digit, of 24 hours and the present one, also
// if answers are cut.
func TestUsageAmounts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, oppertest.Config{}, 100)
	f.use(3, ownProject)
	f.usage.SetTroubles(oppertest.UsageTroubles{MaxRows: 50})
	u := f.report(t).Usage
	if len(u.Models) != 3 || u.Calls != 72 || u.Models[0] != (Model{Name: "provider/model-00", Calls: 24, Cost: 29.62962936}) || u.Models[2].Cost != 7.407407328 {
		t.Errorf("%+v", u)
	}
	if u.ByTrace != (ByTrace{traceSupported, 3, 3}) || u.OpperProjects != 1 || *u.Budget.Spent != 103.7 || u.Budget.Limit != nil || *u.Budget.Blocked {
		t.Errorf("%+v, %+v", u.ByTrace, u.Budget)
	}
}

// Switched off, or behind a list that fails, neither usage nor the budget is asked for.
func TestUsageIsNotAskedFor(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*fixture){
		"off":          func(f *fixture) { f.args = append(f.args, "--collector.usage-interval=0s") },
		"key refused":  func(f *fixture) { f.key = "op-WRONG" },
		"HTML gateway": fail(oppertest.HTML),
	} {
		f := newFixture(t, oppertest.Config{}, 100)
		f.use(1, ownProject)
		prepare(f)
		r := f.report(t)
		if n := f.RequestCount(oppertest.UsageEndpoint, oppertest.BudgetEndpoint); n != 0 || r.Usage != nil {
			t.Errorf("%s: %d requests, %+v", name, n, r.Usage)
		}
	}
}

// An empty list is a problem where a name filter may be the reason, or nothing is used.
func TestEmptyListWithUsage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, oppertest.Config{}, 0)
	f.took = time.Millisecond
	f.use(1, ownProject)
	if r := f.report(t); len(r.Problems) != 0 || !strings.Contains(texts(r.Notes), "only usage") {
		t.Errorf("%+v", r)
	}
	for _, arg := range []string{"--opper.name-filter=x", "--collector.usage-interval=0s"} {
		if r := f.report(t, arg); len(r.Problems) != 1 || len(r.Notes) != 0 {
			t.Errorf("%s: %+v", arg, r)
		}
	}
}
