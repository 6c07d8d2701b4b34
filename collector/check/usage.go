package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/status"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

const (
	// maxUsageTime bounds the requests for usage and the budget of one project.
	maxUsageTime = 15 * time.Second
	// usageHours and traceHours are how many whole hours before this one are asked for:
	// by trace, each row is of one trace.
	usageHours = 24
	traceHours = 1
)

// Usage is what was found of the usage and the budget.
type Usage struct {
	Error         string  `json:"error,omitempty"` // why the usage cannot be read
	Cost          float64 `json:"cost_usd"`        // of the last 24 hours, as all that follows
	Calls         int64   `json:"calls"`
	Models        []Model `json:"models"` // most expensive first
	MaxModels     int     `json:"max_models"`
	OpperProjects int     `json:"opper_projects"` // by their UUIDs; 0 if Opper names none
	ByTrace       ByTrace `json:"by_trace"`
	Budget        *Budget `json:"budget"` // null if there is none

	err, traceErr, budgetErr error
}

// Model is what calls of a model cost.
type Model struct {
	Name  string  `json:"model"`
	Calls int64   `json:"calls"`
	Cost  float64 `json:"cost_usd"`

	nanodollars int64
}

// ByTrace says whether Opper tells the usage of each trace.
type ByTrace struct {
	Result string `json:"result"`
	Traces int    `json:"traces"`        // with usage, in this hour and the one before
	Known  int    `json:"listed_traces"` // of those, read from the list
}

// The results of asking for usage by trace.
const (
	traceSupported   = "supported"
	traceUnsupported = "not supported"
	traceUntold      = "unknown" // there was no usage, or no answer
)

// Budget is what may be spent in this calendar month.
type Budget struct {
	Spent   *float64 `json:"spent_usd"`
	Limit   *float64 `json:"limit_usd"` // null if there is none
	Blocked *bool    `json:"blocked"`   // null if Opper does not say
}

// usd writes an amount, with more than cents if it is less than a dollar.
func usd(amount float64) string {
	if amount != 0 && amount > -1 && amount < 1 {
		return fmt.Sprintf("$%.4f", amount)
	}
	return fmt.Sprintf("$%.2f", amount)
}

func statusCode(err error) int {
	if answer, ok := errors.AsType[*opper.Error](err); ok {
		return answer.Status
	}
	return 0
}

func fromCents(cents int64, has bool) *float64 {
	if !has {
		return nil
	}
	return new(float64(cents) / 100)
}

// readUsage asks for the usage by model and by trace, and for the budget.
func readUsage(ctx context.Context, cfg config.Project, s *sample, now time.Time) (*Usage, error) {
	client, err := opper.New(cfg.Opper)
	if err != nil {
		return nil, err
	}
	client = client.WithRetries(maxRetries)
	ctx, cancel := context.WithTimeout(ctx, maxUsageTime)
	defer cancel()

	u := &Usage{Models: []Model{}, MaxModels: cfg.MaxModels, ByTrace: ByTrace{Result: traceUntold}}
	hour := now.UTC().Truncate(time.Hour)
	from, to := hour.Add(-usageHours*time.Hour), hour.Add(time.Hour)
	var pages usage.Pages
	rows, _, err := pages.ReadBy(ctx, client, opper.GroupModel, from, to)
	if u.err = err; err != nil {
		u.Error = reasonOf(err)
	} else {
		u.count(rows)
		rows, u.traceErr = pages.Read(ctx, client, hour.Add(-traceHours*time.Hour), to, opper.GroupTrace)
		u.ByTrace = newByTrace(rows, u.traceErr, s)
	}
	budget, err := client.Budget(ctx)
	if u.budgetErr = err; err == nil {
		u.Budget = &Budget{Spent: fromCents(budget.SpentCents, budget.HasSpent), Limit: fromCents(budget.LimitCents, budget.HasLimit)}
		if budget.HasBlocked {
			u.Budget.Blocked = &budget.Blocked
		}
	}
	return u, nil
}

// count adds up rows by model.
func (u *Usage) count(rows []opper.Usage) {
	models, projects := map[string]*Model{}, map[string]bool{}
	total := Model{}
	for _, row := range rows {
		name := printable(cmp.Or(row.Model, usage.None))
		if models[name] == nil {
			models[name] = &Model{Name: name}
		}
		for _, m := range []*Model{models[name], &total} {
			m.Calls += row.Calls
			m.nanodollars += row.Cost
			m.Cost = float64(m.nanodollars) / status.Dollar
		}
		if row.Project != "" {
			projects[row.Project] = true
		}
	}
	u.Calls, u.Cost, u.OpperProjects = total.Calls, total.Cost, len(projects)
	for _, m := range models {
		u.Models = append(u.Models, *m)
	}
	slices.SortFunc(u.Models, func(a, b Model) int {
		return cmp.Or(cmp.Compare(b.nanodollars, a.nanodollars), cmp.Compare(a.Name, b.Name))
	})
}

func newByTrace(rows []opper.Usage, err error, s *sample) ByTrace {
	with := map[string]bool{}
	for _, row := range rows {
		if row.Trace != "" {
			with[row.Trace] = true
		}
	}
	b := ByTrace{Result: traceUntold, Traces: len(with)}
	switch {
	case len(with) > 0:
		b.Result = traceSupported
	case opper.Permanent(err):
		b.Result = traceUnsupported
	}
	for _, t := range s.traces() {
		b.Known += count(with[t.ID])
	}
	return b
}

// flows reports whether there was usage.
func (u *Usage) flows() bool { return u != nil && u.Calls > 0 }

// reasonOf returns an error without what was asked for.
func reasonOf(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "read usage: "), "read budget: ")
	return clean(text)
}

const withoutUsage = "--collector.usage-interval=0s"

func (r *Report) usageFindings() {
	u := r.Usage
	const others = "Traces are counted all the same. "
	switch {
	case opper.Refused(u.err):
		r.problem(fmt.Sprintf("Opper refuses this key its usage (%d), so there is no cost.", statusCode(u.err)),
			others+"Give the key access to usage at Opper, or switch usage and budget off:", withoutUsage)
		return
	case opper.Permanent(u.err):
		r.problem("Opper has no usage for this key: "+u.Error+".", others+"Check --opper.url: usage is read at /v2/analytics/usage. Or switch usage and budget off:", withoutUsage)
		return
	case u.err != nil:
		r.problem("The usage cannot be read: "+u.Error+".", others+"Try again later. A running exporter tries again at each --collector.usage-interval, and catches up.")
		return
	}
	if n := len(u.Models); n > u.MaxModels {
		r.problem(fmt.Sprintf("%d models are more than the limit of %d: usage of the rest is counted as %s.", n, u.MaxModels, aggregate.Other), "Raise --collector.max-models.")
	}
	if u.OpperProjects > 1 {
		r.note(fmt.Sprintf("The key sees the usage of %d projects of Opper, as keys of an organization do.", u.OpperProjects),
			"Each is counted once. The label opper_project tells them apart; it is empty for the project's own.")
	}
	switch {
	case u.ByTrace.Result == traceUnsupported:
		r.note("Opper does not tell usage by trace: "+reasonOf(u.traceErr)+".", "There is no cost by trace name. Cost by model is complete.")
	case u.traceErr != nil && u.ByTrace.Result == traceUntold:
		r.note("The usage by trace cannot be read: "+reasonOf(u.traceErr)+".", "Try again later.")
	}
}

func (r *Report) budgetFindings() {
	b := r.Usage.Budget
	if b == nil {
		r.note("There is no budget: "+reasonOf(r.Usage.budgetErr)+".", "The metrics of spending, limit and block are missing. Cost does not need them.")
		return
	}
	switch {
	case b.Blocked != nil && *b.Blocked:
		r.problem("Opper blocks this project: it refuses calls.", "Raise the limit of the project at Opper, or wait for the next month. What was counted stays.")
	case b.Spent != nil && b.Limit != nil && *b.Spent >= status.NearLimit**b.Limit:
		r.note(fmt.Sprintf("%s of this month's limit of %s are spent.", usd(*b.Spent), usd(*b.Limit)), "At the limit, Opper may refuse calls. Raise it at Opper, or find what spends: see the models above.")
	}
}

func (r *Report) writeUsage(w *text) {
	u := r.Usage
	switch {
	case u.err != nil:
		w.line("Usage", "none: %s", u.Error)
	case !u.flows():
		w.line("Usage", "no calls in the last %d hours", usageHours)
	default:
		u.writeModels(w)
	}
	switch u.ByTrace.Result {
	case traceSupported:
		w.line("By trace", "supported: %s in this hour and the last, %d of them read", plural(u.ByTrace.Traces, "trace"), u.ByTrace.Known)
	case traceUnsupported:
		w.line("By trace", "not supported")
	}
	if u.Budget != nil {
		w.line("Budget", "%s", u.Budget)
	}
}

func (u *Usage) writeModels(w *text) {
	of := ""
	if u.OpperProjects > 1 {
		of = fmt.Sprintf(" of %d projects of Opper", u.OpperProjects)
	}
	w.line("Usage", "%s in the last %d hours%s, by %s:", usd(u.Cost), usageHours, of, plural(len(u.Models), "model"))
	var rows []row
	for _, m := range u.Models {
		rows = append(rows, row{m.Name, int(m.Calls), usd(m.Cost)})
	}
	w.table(rows, shownNames)
}

// String says what is known of a budget.
func (b *Budget) String() string {
	var parts []string
	if b.Spent != nil {
		parts = append(parts, usd(*b.Spent)+" spent this month")
	}
	if b.Limit != nil {
		parts = append(parts, "the limit is "+usd(*b.Limit))
	} else {
		parts = append(parts, "no limit")
	}
	if b.Blocked != nil {
		parts = append(parts, map[bool]string{true: "blocked", false: "not blocked"}[*b.Blocked])
	}
	return strings.Join(parts, ", ")
}
