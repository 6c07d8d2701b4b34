package collector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/simulation"
	"opper_exporter/collector/storetest"
	"opper_exporter/collector/syncer"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// TestSchedulesOfUsage proves what is exposed of usage and of the cost of traces, over 30
// days of a project in which anything may happen between two reads and commits: it is what
// was read, each hour and model with its highest amounts and each trace once, it never
// falls, and it is the truth once all is quiet.
// scheduledKey is always the same, so whatever is listed after all has expired is of the
// project.
var scheduledKey, _ = opper.FixedKey("key")

func TestSchedulesOfUsage(t *testing.T) {
	var mu sync.Mutex
	all := map[string]int{}
	many := simulation.Seeds(t, func(t *testing.T, seed int64) {
		t.Helper()
		s := newUsageSchedule(t, seed)
		s.run()
		mu.Lock()
		defer mu.Unlock()
		for what, n := range s.happened {
			all[what] += n
		}
	})
	t.Log(all)
	for _, what := range []string{
		"crash", "commit fails", "commit fails and is durable", "stale read", "cut answer", "truncated hour", "unreadable row", "correction", "another month", "clock set", "process down",
		"hour ahead", "usage refused", "projects refused", "traces refused", "budget refused", "usage fails", "list fails",
		"cost final", "cost unknown", "cost complete", "trace renamed", "name expired", "trace name overflow", "model overflow", "model expired", "several Opper projects", "usage as the truth",
	} {
		if many && all[what] == 0 {
			t.Errorf("%s: never", what)
		}
	}
}

// usagePlan says what a schedule is made of.
type usagePlan struct {
	troubles          oppertest.UsageTroubles // at all times
	roll, rollSpread  time.Duration           // until calls show
	late              bool                    // calls show up in earlier hours
	ahead             bool                    // some show up in later ones
	outages           bool                    // what is refused or fails for a while
	stale             time.Duration
	crash, unwritable int  // one commit of so many; 0 is none
	steps             bool // of our clock
	lookback          *time.Duration
	maxNames          int
	expiry            time.Duration
	maxModels         int
	tooLarge          int // rows
}

// usageSchedule drives a project through a schedule, by one goroutine and one fake clock.
type usageSchedule struct {
	usagePlan
	t        testing.TB
	seed     int64
	rng      *rand.Rand
	log      strings.Builder
	happened map[string]int
	calm     bool

	at      time.Time     // as Opper has it
	past    time.Duration // how old what usage says is
	ours    time.Duration // how far our clock is ahead
	usage   *oppertest.Usage
	opper   *oppertest.Server
	setup   setup
	disk    storetest.Memory
	project *project
	outage  string    // what is refused or fails,
	until   time.Time // for how long
	status  int       // how

	agents []agent
	made   int
	spent  map[string]usage.Amounts // by trace
	began  map[string]time.Time     // when the first of its calls was
	shown  map[string]time.Time     // when the last of them shows

	traceReads     traceReads
	isTruncated    bool         // rows were missing from an answer
	isInitial      bool         // the initial sync is not complete
	answer         *usageAnswer // that is being counted
	proof          usage.Proof  // that it has
	answerAt       time.Time    // as of which usage was read for it
	model, durable *spendModel  // what is counted in memory, and what is stored of that
	usageShown     *spendModel  // what was published last
	tracesShown    *spendModel
	exposed        map[seriesKey]float64
	highest        map[oppertest.HourKey]usage.Amounts // that any read could have seen
	maximum        map[string]usage.Amounts            // the same over all hours, by the label of the model
}

// agent is a trace that may change.
type agent struct {
	id    string
	start time.Time
	ended bool
}

type killed struct{}

var errDiskFull = errors.New("no space left on device")

func newUsageSchedule(t testing.TB, seed int64) *usageSchedule {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(seed), 16))
	s := &usageSchedule{
		t: t, seed: seed, rng: rng, at: epoch.Add(time.Duration(rng.IntN(28*24*60)) * time.Minute), happened: map[string]int{},
		spent: map[string]usage.Amounts{}, began: map[string]time.Time{}, shown: map[string]time.Time{}, exposed: map[seriesKey]float64{},
		highest: map[oppertest.HourKey]usage.Amounts{}, maximum: map[string]usage.Amounts{},
	}
	s.choose()
	s.usage = oppertest.NewUsage(oppertest.UsageConfig{Seed: seed, Now: func() time.Time { return s.at.Add(-s.past) }})
	s.opper = oppertest.New(oppertest.Config{
		Seed: seed, Now: func() time.Time { return s.at }, NoRecord: true, Usage: s.usage, Project: ownUUID,
		SortBy: oppertest.Sort(rng.IntN(2)), Retention: []time.Duration{0, 8 * 24 * time.Hour}[rng.IntN(2)],
	})
	s.setup = usageConfig()
	s.setup.Opper.Key = scheduledKey
	cfg := &s.setup.Project
	cfg.Interval, cfg.SweepInterval, cfg.Concurrency = 30*time.Second, 24*time.Hour, 1
	cfg.InitialLookback, cfg.MaxModels = s.lookback, s.maxModels
	cfg.Aggregate.MaxNames, cfg.Aggregate.NameExpiry = s.maxNames, s.expiry
	s.setup.source = func(opper.Priority, time.Time) syncer.Source { return scheduledList{s} }
	s.setup.Store = scheduledStore{s}
	s.setup.AllRead = func(string, time.Time) bool { return s.calm || s.rng.IntN(3) == 0 }
	s.setup.Clock = newClock(
		func() (time.Time, time.Duration) { return s.at.Add(s.ours), s.at.Sub(epoch) },
		func() (string, time.Duration) { return "boot", s.at.Sub(epoch) })
	s.setup.Logger = log.NewNopLogger()
	if simulation.IsReplay() {
		s.setup.Logger = log.NewLogfmtLogger(&s.log)
	}
	s.durable = newSpendModel(s.lookback != nil && *s.lookback == 0)
	return s
}

// choose makes a plan.
func (s *usageSchedule) choose() {
	durations := func(all ...time.Duration) time.Duration { return all[s.rng.IntN(len(all))] }
	ratio := func(all ...float64) float64 { return all[s.rng.IntN(len(all))] }
	count := func(all ...int) int { return all[s.rng.IntN(len(all))] }
	s.usagePlan = usagePlan{
		troubles: oppertest.UsageTroubles{
			Corrections: ratio(0, 0, 0.05, 0.3), CorrectWithin: durations(time.Hour, 6*time.Hour),
			Nulls: ratio(0, 0, 0.1), OrganizationWide: s.rng.IntN(3) == 0, Duplicates: ratio(0, 0.5), Shuffle: s.rng.IntN(2) == 0,
			MaxRows: count(0, 0, 0, 20, 25, 33, 50, 100), Wrapped: s.rng.IntN(3) == 0, Errors: ratio(0, 0, 0.1),
		},
		roll: durations(0, 0, time.Minute, 3*time.Hour), rollSpread: durations(0, 0, 2*time.Minute, 9*time.Hour),
		late: s.rng.IntN(2) == 0, ahead: s.rng.IntN(4) == 0, outages: s.rng.IntN(3) > 0, stale: durations(0, 0, time.Minute, 2*time.Hour),
		crash: count(0, 8, 40), unwritable: count(0, 0, 6), steps: s.rng.IntN(3) == 0,
		maxNames: count(1, 3, 200, 200), expiry: durations(0, 0, time.Hour, 24*time.Hour, 5*24*time.Hour), maxModels: count(1, 3, 50, 50),
		tooLarge: count(0, 0, 0, 30),
	}
	if t := &s.troubles; t.MaxRows == 20 && !t.OrganizationWide && t.Duplicates == 0 && t.Nulls == 0 {
		t.MaxRows = 7 // no hour has more models
	}
	if s.rng.IntN(12) == 0 {
		s.troubles.MaxRows = 3 // some minutes have more
	}
	s.troubles.Unreadable = ratio(0, 0, 0, 0.1)
	if s.rng.IntN(4) == 0 {
		s.lookback = new(durations(0, 0, 3*24*time.Hour))
	}
}

func (s *usageSchedule) tell(format string, args ...any) {
	if simulation.IsReplay() {
		fmt.Fprintf(&s.log, "%s %s\n", s.at.Format("01-02 15:04:05"), fmt.Sprintf(format, args...))
	}
}

func (s *usageSchedule) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %[1]d: go test ./collector -run TestSchedulesOfUsage$ -seed %[1]d\nat %s: %s\n%s", s.seed, s.at.Format("01-02 15:04:05"), fmt.Sprintf(format, args...), s.log.String())
}

// note says that something has happened in the schedule.
func (s *usageSchedule) note(what string) {
	s.happened[what]++
	s.tell("%s", what)
}

// chance is true one time in n.
func (s *usageSchedule) chance(n int) bool { return n > 0 && !s.calm && s.rng.IntN(n) == 0 }

// some is a duration up to one.
func (s *usageSchedule) some(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d/time.Second)+1)) * time.Second
}

// run plays the schedule.
func (s *usageSchedule) run() {
	s.tell("%+v", s.usagePlan)
	s.usage.SetTroubles(s.troubles)
	for range s.rng.IntN(80) {
		s.call("", s.at.Add(-s.some(12*24*time.Hour)))
	}
	if s.troubles.OrganizationWide {
		s.note("several Opper projects")
	}
	for range s.rng.IntN(5) {
		s.begin(s.rng.IntN(4) == 0)
	}
	s.at = s.at.Add(time.Second)
	s.restart()
	for month, end := s.at.Month(), s.at.AddDate(0, 0, 30); s.at.Before(end); {
		for range 3 + s.rng.IntN(8) {
			s.step(s.some([]time.Duration{40 * time.Second, 5 * time.Minute, 20 * time.Minute}[s.rng.IntN(3)]))
		}
		if s.rng.IntN(3) == 0 {
			s.note("process down")
			s.at = s.at.Add(s.some(5 * 24 * time.Hour))
			s.restart()
		} else {
			for range 1 + s.rng.IntN(4) {
				s.step(s.some(30 * time.Hour))
			}
		}
		if s.at.Month() != month {
			month = s.at.Month()
			s.note("another month")
		}
	}
	s.rest()
}

// step lets time pass, and does some of what may happen then.
func (s *usageSchedule) step(d time.Duration) {
	s.at = s.at.Add(d)
	s.happen()
	switch s.rng.IntN(8) {
	case 0:
		s.sync()
	case 1:
		s.read(true)
	case 2:
		s.read(false)
	case 3:
		if s.crash > 0 && s.rng.IntN(3) == 0 {
			s.restart()
		}
	default:
		s.read(false)
		s.sync()
	}
}

// restart makes a project of what is stored, as a start of the program does.
func (s *usageSchedule) restart() {
	s.tell("start")
	s.project, s.answer, s.traceReads = nil, nil, traceReads{}
	s.model = s.durable.restarted(s.at.Add(s.ours))
	calm := s.calm
	s.calm = true // a start that can't write ends the program
	p, err := s.setup.project(newInstrumentation("default", true))
	if err != nil {
		s.fail("%v", err)
	}
	s.calm = calm
	p.usage.source = func() usage.Source { return scheduledUsage{s} }
	p.syncer = scheduledSyncer{p.syncer, s}
	s.project = p
	s.usageShown, s.tracesShown = s.durable, s.durable
	s.watch()
}

// survive does something during which the program may be killed.
func (s *usageSchedule) survive(do func()) {
	defer func() {
		switch r := recover(); r {
		case nil:
			s.watch()
		case killed{}:
			s.note("crash")
			s.watch()
			s.restart()
		default:
			panic(r)
		}
	}()
	do()
}

func (s *usageSchedule) sync() {
	s.survive(func() {
		s.isInitial = s.project.ledger.IsInitialSync()
		if s.project.sync(context.Background()) && s.project.state.err == nil {
			s.usageShown, s.tracesShown = s.durable, s.durable
			s.model.published()
		}
	})
}

// read reads usage, and counts it; something may happen between the two.
func (s *usageSchedule) read(isSlow bool) {
	troubles, age := s.trouble(), time.Duration(0)
	switch {
	case s.durable.newest == 0:
		s.identify()
	case s.stale > 0 && s.chance(4):
		s.note("stale read")
		age = s.stale
		troubles.Stale, troubles.StaleBy = 1, age
	}
	s.usage.SetTroubles(troubles)
	project, request := s.project, s.project.usage.request(s.project.aggregates.WaitingSince())
	answer := request.read(context.Background(), project.usage.source())
	s.answerAt = s.at.Add(-age)
	s.checkAnswer(&answer, age)
	if isSlow {
		s.at = s.at.Add(s.some(2 * time.Minute))
		s.happen()
		s.sync()
		if s.project != project {
			return
		}
	}
	s.survive(func() {
		s.answer, s.proof = &answer, project.usage.proof(&answer, project.ledger, project.snapshots.isPublished())
		project.countUsage(answer)
		s.applied() // without changes, there is no commit
		if project.state.err == nil {
			s.usageShown = s.durable
		}
	})
}
