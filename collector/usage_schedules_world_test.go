package collector

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"opper_exporter/collector/simulation"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// What is refused or fails for a while.
const (
	usageRefused    = "usage refused"
	usageFails      = "usage fails"
	modelsRefused   = "models refused"
	projectsRefused = "projects refused"
	tracesRefused   = "traces refused"
	budgetRefused   = "budget refused"
	listFails       = "list fails"
)

// happen does some of what may happen between two steps.
func (s *usageSchedule) happen() {
	if s.outage != "" && !s.at.Before(s.until) {
		s.tell("no more: %s", s.outage)
		s.outage = ""
	}
	if s.outages && s.outage == "" && s.chance(15) {
		all := []string{usageRefused, usageFails, modelsRefused, projectsRefused, tracesRefused, budgetRefused, listFails}
		s.outage, s.until, s.status = all[s.rng.IntN(len(all))], s.at.Add(s.some(10*time.Hour)), []int{0, 403, 404, 422}[s.rng.IntN(4)]
		if s.outage == projectsRefused && s.troubles.OrganizationWide && !s.isIdentified() {
			s.outage = "" // a sum of all would be counted as the project's own
		} else {
			s.note(s.outage)
		}
	}
	if s.steps && s.chance(20) {
		s.ours = s.some(40*time.Hour) - 20*time.Hour
		s.note("clock set")
	}
	if s.ahead && s.chance(8) {
		s.note("hour ahead")
		s.makeCall("", ownUUID, s.at.Add(s.some(20*time.Hour)), s.at)
	}
	for range s.rng.IntN(3) {
		at := s.at
		if s.late {
			at = at.Add(-s.some(3 * time.Hour))
		}
		s.call("", at)
	}
	switch s.rng.IntN(6) {
	case 0, 1:
		s.begin(s.rng.IntN(3) > 0)
	case 2, 3:
		s.change()
	}
}

// trouble returns the troubles of usage, with those of an outage.
func (s *usageSchedule) trouble() oppertest.UsageTroubles {
	t := s.troubles
	refuse := func(groups ...string) {
		if s.status == 0 {
			t.NoGroups = groups
		} else {
			t.RefuseGroups = groups
		}
	}
	switch s.outage {
	case usageRefused:
		t.Status = max(s.status, http.StatusUnauthorized)
	case usageFails:
		t.Errors = 1
	case modelsRefused:
		refuse("model")
	case projectsRefused:
		refuse("project.uuid")
	case tracesRefused:
		refuse("trace_uuid")
	case budgetRefused:
		t.BudgetStatus = http.StatusForbidden
	}
	return t
}

// isIdentified reports whether the Opper projects of the organization are known for good.
func (s *usageSchedule) isIdentified() bool {
	_, own := s.durable.projects[ownUUID]
	_, other := s.durable.projects[otherUUID]
	return own && other
}

// identify makes calls that tell whose the usage is, which the first read has to know.
func (s *usageSchedule) identify() {
	s.usage.SetTroubles(oppertest.UsageTroubles{})
	s.makeCall("", ownUUID, s.at, s.at)
	if s.troubles.OrganizationWide {
		s.makeCall("", otherUUID, s.at, s.at)
	}
}

// call makes a call at a time, which shows by the plan.
func (s *usageSchedule) call(trace string, at time.Time) {
	project := ownUUID
	if trace == "" && s.troubles.OrganizationWide && s.rng.IntN(3) == 0 {
		project = otherUUID
	}
	shown := at.Add(s.roll + s.some(s.rollSpread))
	if shown.Before(s.at) && s.project != nil { // it was not there before
		shown = s.at
	}
	s.makeCall(trace, project, at, shown)
}

func (s *usageSchedule) makeCall(trace, project string, at, shown time.Time) {
	models := []string{"", "(none)", "(other)", "openai/gpt-4o", "openai/gpt-4o", "openai/gpt-4o", "mistral/large", "x"}
	c := oppertest.Call{Time: at, Project: project, Trace: trace, Shown: shown, Amounts: oppertest.Amounts{
		Cost: s.rng.Int64N([]int64{10, 1e6, 5e9}[s.rng.IntN(3)]), InputTokens: s.rng.Int64N(5000), OutputTokens: s.rng.Int64N(900),
	}}
	if model := models[s.rng.IntN(len(models))]; model != "" {
		c.Model = &model
	}
	if s.troubles.Corrections > 0 && s.rng.IntN(20) == 0 {
		c.Adjustment, c.Cost = true, -c.Cost
	}
	if s.usage.Add(c); trace != "" {
		s.spent[trace] = plus(s.spent[trace], usage.Amounts{usage.Cost: c.Cost, usage.InputTokens: c.InputTokens, usage.OutputTokens: c.OutputTokens})
		if shown.After(s.shown[trace]) {
			s.shown[trace] = shown
		}
		if first, ok := s.began[trace]; !ok || at.Before(first) {
			s.began[trace] = at
		}
	}
	s.tell("call of trace %q at %s: %+v, shows %s", trace, at.Format("02 15:04:05"), c.Amounts, shown.Format("02 15:04:05"))
}

// begin lists a trace, which has ended or is running.
func (s *usageSchedule) begin(ended bool) {
	s.made++
	age := s.some([]time.Duration{time.Minute, time.Minute, 3 * time.Hour, 60 * time.Hour}[s.rng.IntN(4)])
	a := agent{id: fmt.Sprintf("00000000-0000-4000-8000-%012d", s.made), start: s.at.Add(-age)}
	tr := oppertest.Trace{ID: a.id, Name: s.name()}
	if s.rng.IntN(12) > 0 {
		// The clocks of clients may be wrong.
		tr.Start = new(a.start.Add([]time.Duration{0, 0, 50 * time.Minute, -2 * time.Hour}[s.rng.IntN(4)]))
	}
	if ended {
		a.ended = true
		s.end(&tr)
	}
	s.tell("%s begins, ended: %v", a.id, ended)
	s.opper.Add(tr)
	s.agents = append(s.agents, a)
	for range s.rng.IntN(4) {
		s.call(a.id, s.at.Add(-s.some(min(age, 20*time.Hour)))) // earlier hours may be final
	}
}

func (s *usageSchedule) name() *string {
	return []*string{nil, new("a"), new("a"), new("b"), new("c"), new("(other)"), new("e")}[s.rng.IntN(7)]
}

func (s *usageSchedule) end(tr *oppertest.Trace) {
	tr.End = new(s.at)
	tr.Status = []*string{nil, new("success"), new("success"), new("error")}[s.rng.IntN(4)]
}

// change ends one of the last traces, or renames it if that has ended.
func (s *usageSchedule) change() {
	if len(s.agents) == 0 {
		return
	}
	recent := s.agents[max(len(s.agents)-6, 0):]
	a := &recent[s.rng.IntN(len(recent))]
	if _, listed := s.opper.Get(a.id); !listed {
		return
	}
	switch {
	case !a.ended:
		a.ended = true
		s.tell("%s ends", a.id)
		s.opper.Update(a.id, s.end)
		s.call(a.id, s.at)
	case s.rng.IntN(2) == 0:
		s.note("trace renamed")
		name := s.name()
		s.opper.Update(a.id, func(tr *oppertest.Trace) { tr.Name = name })
	default:
		s.call(a.id, s.at) // later than its end
	}
}

// scheduledList is the list of traces as the project reads it.
type scheduledList struct{ *usageSchedule }

var errListDown = &opper.Error{Status: http.StatusServiceUnavailable}

func (s scheduledList) List(_ context.Context, offset, limit int) (opper.Page, error) {
	if s.outage == listFails {
		return opper.Page{}, errListDown
	}
	rows, total, _ := s.opper.List(offset, limit)
	page := opper.Page{Total: *total, Traces: make([]opper.Trace, len(rows))}
	for i := range rows {
		page.Traces[i] = simulation.Read(&rows[i])
	}
	return page, nil
}

func (s scheduledList) Get(_ context.Context, id string) (opper.Trace, error) {
	tr, ok := s.opper.Show(id)
	switch {
	case s.outage == listFails:
		return opper.Trace{}, errListDown
	case !ok:
		return opper.Trace{}, &opper.Error{Status: http.StatusNotFound}
	}
	return simulation.Read(&tr), nil
}

// scheduledUsage is usage as the project reads it.
type scheduledUsage struct{ *usageSchedule }

func (s scheduledUsage) Usage(_ context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	var groups []string
	for _, g := range q.GroupBy {
		groups = append(groups, string(g))
	}
	a := s.opper.ReadUsage(q.From, q.To, groups...)
	if a.Status != http.StatusOK {
		return opper.UsagePage{}, &opper.Error{Status: a.Status}
	}
	for _, g := range groups {
		if len(a.Rows) > 0 && !slices.Contains(a.Groups, g) {
			return opper.UsagePage{}, fmt.Errorf("%w: %s", opper.ErrNoGroup, g)
		}
	}
	if s.tooLarge > 0 && len(a.Rows) > s.tooLarge && q.To.Sub(q.From) > time.Hour {
		return opper.UsagePage{}, opper.ErrTooLarge
	}
	if len(a.Rows) > 0 && len(a.Rows) == s.troubles.MaxRows {
		s.happened["cut answer"]++
	}
	if slices.ContainsFunc(a.Rows, func(r oppertest.UsageRow) bool { return r.Unreadable }) {
		s.happened["unreadable row"]++
	}
	page := opper.UsagePage{Total: a.Total}
	for _, r := range a.Rows {
		page.Rows = append(page.Rows, opper.Usage{
			Bucket: r.Bucket, Cost: r.Cost, Calls: r.Calls, InputTokens: r.InputTokens, OutputTokens: r.OutputTokens,
			Unreadable: [4]bool{usage.Cost: r.Unreadable}, Model: r.Model, Project: r.Project, Trace: r.Trace,
		})
	}
	return page, nil
}

func (s scheduledUsage) Budget(context.Context) (opper.Budget, error) {
	a := s.opper.ReadBudget()
	if a.Status != http.StatusOK {
		return opper.Budget{}, &opper.Error{Status: a.Status}
	}
	var b opper.Budget
	if a.SpentCents != nil {
		b.SpentCents, b.HasSpent = *a.SpentCents, true
	}
	if a.LimitCents != nil {
		b.LimitCents, b.HasLimit = *a.LimitCents, true
	}
	if a.Blocked != nil {
		b.Blocked, b.HasBlocked = *a.Blocked, true
	}
	return b, nil
}
