package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// serverSource reads from an Opper in memory, without HTTP.
type serverSource struct{ *oppertest.Server }

func (serverSource) Budget(context.Context) (opper.Budget, error) { return opper.Budget{}, nil }

func (s serverSource) Usage(_ context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	var groups []string
	for _, group := range q.GroupBy {
		groups = append(groups, string(group))
	}
	a := s.ReadUsage(q.From, q.To, groups...)
	if a.Status != 200 {
		return opper.UsagePage{}, &opper.Error{Status: a.Status}
	}
	if len(a.Rows) > 0 && len(a.Groups) < len(groups) {
		return opper.UsagePage{}, opper.ErrNoGroup
	}
	page := opper.UsagePage{Total: a.Total}
	for i := range a.Rows {
		r := &a.Rows[i]
		page.Rows = append(page.Rows, opper.Usage{
			Bucket: r.Bucket, Cost: r.Cost, Calls: r.Calls, InputTokens: r.InputTokens, OutputTokens: r.OutputTokens, Unreadable: [4]bool{Cost: r.Unreadable},
			Model: r.Model, Project: r.Project,
		})
	}
	return page, nil
}

// TestMonthOfTroubles reads usage for 30 days from an Opper in which all goes wrong that
// may. In the end, what is counted is what it has served, to the last digit.
func TestMonthOfTroubles(t *testing.T) {
	first, end := int64(0), max(*schedules/50, 1)
	if *seed >= 0 {
		first, end = *seed, *seed+1
	}
	for n := first; n < end; n++ {
		monthOfTroubles(t, n)
		if t.Failed() {
			t.Fatalf("replay with -seed %d", n)
		}
	}
}

func monthOfTroubles(t *testing.T, seed int64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	now := time.Date(2026, 10, 20, 12, 0, 0, 0, time.UTC)
	usage := oppertest.NewUsage(oppertest.UsageConfig{Seed: seed, Now: func() time.Time { return now }})
	server := oppertest.New(oppertest.Config{Now: func() time.Time { return now }, Usage: usage, Project: "X"})
	projects := []string{"X", "X", "Y", "Z"}
	call := func(project string) {
		usage.Add(oppertest.Call{
			Time: now, Model: new(fmt.Sprint("m", rng.IntN(5))), Project: project,
			Amounts: oppertest.Amounts{Cost: rng.Int64N(1e12), InputTokens: rng.Int64N(5000), OutputTokens: rng.Int64N(500)},
		})
	}
	troubles := oppertest.UsageTroubles{OrganizationWide: rng.IntN(2) == 0}
	if !troubles.OrganizationWide {
		projects = projects[:1]
	}
	usage.SetTroubles(troubles)
	for _, project := range projects {
		call(project)
	}
	f := newFixture(t, Config{MaxModels: 10})
	var pages Pages
	readOnce := func() (isComplete bool) {
		from, to := f.set.Window(now)
		rows, err := pages.Read(t.Context(), serverSource{server}, from, to, opper.GroupModel, opper.GroupProject)
		if errors.Is(err, opper.ErrNoGroup) {
			rows, err = pages.Read(t.Context(), serverSource{server}, from, to, opper.GroupModel)
		}
		return err == nil && f.set.Apply(rows, from, true, Proof{}, now) == nil && !f.set.IsUndecided()
	}
	// What is new is served once before it is counted, and must not change meanwhile.
	read := func() {
		if !readOnce() {
			readOnce()
		}
	}
	troubles.RollUp = time.Duration(rng.IntN(120)) * time.Second
	troubles.RollUpSpread = time.Duration(rng.IntN(24)) * time.Hour
	troubles.Duplicates, troubles.Shuffle = rng.Float64(), true
	if rng.IntN(2) == 0 {
		troubles.MaxRows, troubles.Wrapped = []int{20, 25, 33, 50, 100}[rng.IntN(5)], rng.IntN(2) == 0
	}
	// What is served and lost is not what is counted if it becomes smaller meanwhile.
	corrects := rng.IntN(2) == 0
	switch {
	case corrects:
		troubles.Corrections, troubles.CorrectWithin = rng.Float64()/2, 10*time.Hour
		troubles.Unreadable = max(rng.Float64()-0.5, 0) // what cannot be read at last is not served either
	default:
		troubles.Errors = rng.Float64() / 2
	}
	if !troubles.OrganizationWide && !corrects && rng.IntN(3) == 0 {
		troubles.NoGroups = []string{string(opper.GroupProject)}
	} else {
		read()
		if troubles.Nulls = rng.Float64() / 2; corrects && !troubles.OrganizationWide {
			troubles.Nulls = 0 // what was highest without a project is part of the own
		}
	}
	usage.SetTroubles(troubles)
	for last := now.AddDate(0, 0, 30); now.Before(last); {
		switch p := rng.IntN(100); {
		case p < 40:
			now = now.Add(time.Duration(rng.IntN(90)) * time.Minute)
			call(projects[rng.IntN(len(projects))])
		case p < 97:
			now = now.Add(time.Duration(rng.IntN(300)) * time.Second)
			read()
			if corrects || rng.IntN(3) > 0 {
				f.commit()
			}
		case p < 99:
			f.restart()
		default:
			for range 10 * rng.IntN(10) {
				now = now.Add(time.Hour)
				call(projects[rng.IntN(len(projects))])
			}
		}
	}
	troubles.Errors, troubles.Corrections, troubles.Nulls, troubles.RollUpSpread, troubles.Unreadable = 0, 0, 0, 0, 0
	usage.SetTroubles(troubles)
	for range 30 {
		for _, project := range projects {
			call(project)
		}
		now = now.Add(2 * time.Hour)
		read()
	}
	got, want := map[cell]Amounts{}, map[cell]Amounts{}
	for _, m := range f.set.Models() {
		got[cell{m.OpperProject, m.Label}] = m.counted
	}
	truth := usage.ByModel()
	if corrects {
		truth = server.HighestUsage()
	}
	for k, a := range truth {
		project, isCounted := f.set.accounts[k.Project]
		if !isCounted && troubles.NoGroups == nil {
			t.Errorf("no project counts %q", k.Project)
		}
		c := cell{project, aggregate.LabelOr(k.Model, None)}
		sum := want[c]
		sum.add(Amounts{a.Cost, a.Calls, a.InputTokens, a.OutputTokens})
		want[c] = sum
	}
	if !maps.Equal(got, want) {
		t.Errorf("troubles %+v: counted %v\nwant %v", troubles, got, want)
	}
}
