package collector

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/walk"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

var (
	replay    = flag.Int64("seed", -1, "run only the schedule of this seed, and tell what happens in it")
	schedules = flag.Int("schedules", 1_500, "how many schedules of the simulator to run")
)

// plan says what a schedule is made of. Troubles happen one time in so many
// chances, and never if that is 0.
type plan struct {
	list    oppertest.Config
	history int           // traces listed at the start
	steps   int           // syncs and what lies between them
	short   int           // the most rows that a page gives, whatever it is asked for; 0 means that there is no such limit
	clients time.Duration // how far the clients' clocks are ahead at most, behind if negative
	ours    time.Duration // how far our clock is ahead of Opper's
	names   int           // names with sums of their own
	onDisk  bool          // use the real store
	quiet   bool          // nothing but arrivals, ends and expiry: no gap may be counted
	cancel  bool          // as many traces arrive behind the newest as expire

	change, backdate, remove, relist int // of the list, before each page
	fault, foreign, poison           int
	crash, unwritable, restart       int
	clock                            int // steps of our clock
}

// simulation drives a Project through a schedule, by one goroutine and one fake
// clock, and watches that its promises are kept at each step.
type simulation struct {
	plan
	t     testing.TB
	name  string // of the schedule, for who reads the failure
	pick  func(n int) int
	calm  bool // nothing goes wrong and nothing changes any more
	told  strings.Builder
	tells bool

	at           time.Time // as Opper has it
	clockSet     time.Time // when our clock was last set
	opper, other *oppertest.Server
	cfg          Config
	project      *Project
	inner        Store
	reopen       func() Store // what a start finds

	// Of the list.
	ids, open []string
	left      map[string]time.Time // deleted by hand, and when
	poisoned  map[string]bool      // rows that can't be read
	made      int
	listed    int // at the last step

	badness   int // requests that fail from now on, as the last one did
	badAnswer error
	strangers bool // another project's list answers
	full      int  // commits that fail

	// What is durable of what the project counted.
	counting ledger.Events // since the last commit
	durable  []oppertest.Counted
	judged   map[string]bool   // ids of these
	lateEnds map[string]bool   // ids of abandoned traces that ended after all
	totals   map[string]uint64 // sums by published name

	// What is published.
	last   *snapshot
	before map[*metric]string // its metrics, and the names of their series
	shown  map[string]*metric // counters and histograms ever published, as last seen
	zero   map[string]*zeros  // what began at 0 after the first walk and is still there, by group
	strict bool               // nothing may be held any more

	// When the project looked.
	baseline, ended, lasted time.Time // the first walk began, ended, was durable
	sweepBegan, sweepLasts  time.Time // the complete walk under way, and the durable one
	looks                   []oppertest.Sync
	syncs                   int
	requests                int       // since the sync, or the page of the sweep, began
	spoiled                 bool      // an answer in this sync was a lie
	unanswered              bool      // Opper did not say what became of a trace
	blind                   time.Time // rows may have been taken for unreadable then
	gaps                    uint64    // counted until the last look
	partial                 bool      // the first walk could not read all
}

type crash struct{}

// zeros is a group of series that is shown at 0. Groups are released together:
// they are the counters, the durations or the tokens of a name.
type zeros struct {
	since    time.Time // this process shows them
	read     bool      // since then
	released bool      // and that may be durable
}

func newSimulation(t testing.TB, name string, pick func(n int) int, p plan) *simulation {
	t.Helper()
	s := &simulation{
		plan: p, t: t, name: name, pick: pick, tells: *replay >= 0,
		at: epoch, left: map[string]time.Time{}, poisoned: map[string]bool{}, judged: map[string]bool{},
		lateEnds: map[string]bool{}, totals: map[string]uint64{}, shown: map[string]*metric{}, zero: map[string]*zeros{},
	}
	now := func() time.Time { return s.at }
	p.list.Now = now
	s.opper, s.other = oppertest.New(p.list), oppertest.New(oppertest.Config{Now: now})
	s.reopen = func() Store { return s.inner }
	s.inner = newMemory()
	if p.onDisk {
		folder := t.TempDir()
		s.reopen = func() Store {
			if old, ok := s.inner.(*store.Store); ok {
				if err := old.Close(); err != nil {
					t.Fatal(err)
				}
			}
			next, err := store.Open(folder)
			if err != nil {
				t.Fatal(err)
			}
			return next
		}
		t.Cleanup(func() {
			if err := s.inner.(*store.Store).Close(); err != nil {
				t.Error(err)
			}
		})
	}
	s.cfg = testConfig()
	s.cfg.Concurrency = 1
	s.cfg.Interval, s.cfg.SweepEvery = 30*time.Second, 20*time.Minute
	s.cfg.Now = s.now
	s.cfg.Logger = log.NewNopLogger()
	if s.tells {
		s.cfg.Logger = log.NewLogfmtLogger(&s.told)
	}
	s.cfg.Source = func() walk.Source { return simulatedSource{s} }
	s.cfg.AllRead = func(time.Time) bool {
		if !s.calm && s.pick(3) > 0 {
			return false
		}
		for _, z := range s.zero {
			z.read = true
		}
		return true
	}
	s.cfg.Store = disk{s}
	s.cfg.Sums.MaxNames = p.names
	s.setBuckets()
	return s
}

func (s *simulation) now() time.Time { return s.at.Add(s.ours) }

func (s *simulation) tell(format string, args ...any) {
	if s.tells {
		fmt.Fprintf(&s.told, "%v %s\n", s.at.Sub(epoch), fmt.Sprintf(format, args...))
	}
}

func (s *simulation) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nafter %v: %s\n%s", s.name, s.at.Sub(epoch), fmt.Sprintf(format, args...), s.told.String())
}

// chance is true one time in n.
func (s *simulation) chance(n int) bool { return n > 0 && !s.calm && s.pick(n) == 0 }

func (s *simulation) wait(d time.Duration) { s.at = s.at.Add(d) }

// tick lets up to about a second pass.
func (s *simulation) tick() { s.wait(time.Duration(1+s.pick(1000)) * time.Millisecond) }

func (s *simulation) setBuckets() {
	s.cfg.Sums.DurationBuckets = [][]float64{{0.1, 1, 10, 60}, {0.5, 5, 50}}[s.pick(2)]
	s.cfg.Sums.TokenBuckets = [][]float64{{10, 1000}, {100}}[s.pick(2)]
}

// run plays the schedule.
func (s *simulation) run() {
	for range s.history {
		s.arrive(s.pick(8) == 0, time.Duration(1+s.pick(40*60))*time.Second)
	}
	for range 3 {
		s.other.Add(s.trace(true, time.Minute))
	}
	s.start()
	for range s.steps {
		s.step()
	}
	s.rest()
}

// step is a sync, and what goes before it.
func (s *simulation) step() {
	switch s.pick(20) {
	case 0:
		s.wait(time.Duration(10+s.pick(80)) * time.Minute)
	case 1, 2, 3:
		s.wait(time.Duration(1+s.pick(300)) * time.Second)
	default:
		s.wait(time.Duration(1+s.pick(40)) * time.Second)
	}
	listed := len(s.opper.Snapshot())
	for range s.pick(4) {
		s.changeList()
	}
	for ; s.cancel && listed < s.listed; listed++ {
		s.arrive(false, time.Duration(10+s.pick(40))*time.Minute)
	}
	s.listed = len(s.opper.Snapshot())
	if s.chance(s.clock) {
		by := []time.Duration{5 * time.Minute, 2 * time.Hour}[s.pick(2)]
		if s.ours > -2*time.Hour && (s.ours > 2*time.Hour || s.pick(2) == 0) {
			by = -by
		}
		s.ours += by
		s.clockSet = s.at
		s.tell("our clock is set by %v", by)
	}
	if s.chance(s.poison) {
		if rows := s.opper.Snapshot(); len(rows) > 0 {
			row := rows[s.pick(len(rows))].ID
			s.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row, Times: -1})
			s.poisoned[row] = true
		}
	}
	if s.chance(s.unwritable) {
		s.full = 1 + s.pick(5)
	}
	if s.chance(s.restart) {
		if s.pick(2) == 0 {
			s.setBuckets()
		}
		s.start()
	}
	s.sync()
	s.sweep(s.pick(4))
	s.strangers = false
}

// start makes a project of what is stored, as a start of the program does.
func (s *simulation) start() {
	s.counting, s.sweepBegan = ledger.Events{}, s.sweepLasts
	if s.lasted.IsZero() {
		s.ended = time.Time{}
	}
	s.inner = s.reopen()
	durations, tokens := s.cfg.Sums.DurationBuckets, s.cfg.Sums.TokenBuckets
	if s.project != nil {
		if was := s.project.cfg.Sums; !slices.Equal(durations, was.DurationBuckets) || !slices.Equal(tokens, was.TokenBuckets) {
			s.beginHistograms(!slices.Equal(durations, was.DurationBuckets), !slices.Equal(tokens, was.TokenBuckets))
		}
	}
	calm := s.calm
	s.calm = true // a start that can't write ends the program
	full := s.full
	s.full = 0
	s.tell("start")
	for _, z := range s.zero {
		*z = zeros{since: s.at, read: z.released, released: z.released}
	}
	s.project = newTestProject(s.t, s.cfg)
	s.project.found = s.found
	s.strangers = false
	s.calm, s.full = calm, full
	s.watch()
}

// found takes note of what the project adds up, which uses the memory again.
func (s *simulation) found(ev ledger.Events) {
	c := &s.counting
	c.Counted = append(c.Counted, ev.Counted...)
	c.Vanished = append(c.Vanished, ev.Vanished...)
	c.LateEnds = append(c.LateEnds, ev.LateEnds...)
	c.Nameless += ev.Nameless
	c.Gaps += ev.Gaps
}

// beginHistograms forgets those that were shown with other bounds.
func (s *simulation) beginHistograms(durations, tokens bool) {
	for key := range s.shown {
		if durations && strings.HasPrefix(key, "opper_trace_duration_seconds") || tokens && strings.HasPrefix(key, "opper_tokens_per_trace") {
			delete(s.shown, key)
			s.zero[groupOf(key)] = &zeros{since: s.at}
		}
	}
	for key := range s.totals {
		if durations && strings.HasPrefix(key, "opper_trace_duration_seconds") || tokens && strings.HasPrefix(key, "opper_tokens_per_trace") {
			delete(s.totals, key)
		}
	}
}

// survive does something during which the program may be killed; false if it
// was, and has started again.
func (s *simulation) survive(do func()) (survived bool) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case crash{}:
			s.tell("crash")
			s.watch()
			s.start()
			survived = false
		default:
			panic(r)
		}
	}()
	do()
	return true
}

func (s *simulation) point() {
	if s.chance(s.crash) {
		panic(crash{})
	}
}

func (s *simulation) sync() {
	s.wait(time.Millisecond)
	start := s.at
	s.wait(time.Millisecond)
	shot := s.project.published.Load()
	baseline := s.project.led.Baseline()
	before := s.walked()
	swept := before.Sweep != nil && before.Sweep.Done
	if baseline && s.baseline.IsZero() {
		s.baseline = start
	}
	s.spoiled, s.requests = false, 0
	s.syncs++
	s.tell("sync")
	succeeded := false
	alive := s.survive(func() {
		succeeded = s.project.sync(context.Background())
		if !succeeded && s.project.published.Load() != shot {
			s.fail("a failed sync published numbers")
		}
		if baseline && !s.project.led.Baseline() {
			s.ended = s.at
			s.partial = s.spoiled || s.project.sums.Gaps > 0
		}
	})
	s.wait(time.Millisecond)
	s.watch()
	if !alive {
		return
	}
	s.tell("sync ends: %v", succeeded)
	if published := s.project.published.Load(); published != shot && !s.lasted.IsZero() {
		s.looked(start, baseline, swept)
	}
	s.wait(time.Millisecond)
}

// walked is what the walk remembers of complete walks.
func (s *simulation) walked() (state struct {
	FullAt   time.Time `json:"full_at"`
	LastGood time.Time `json:"last_good"`
	Oldest   time.Time
	Newest   time.Time
	Sweep    *struct{ Done bool }
},
) {
	b, err := s.project.walker.State()
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil {
		s.fail("%v", err)
	}
	return state
}

// looked notes a sync that lasted, unless an answer in it was a lie.
func (s *simulation) looked(start time.Time, baseline, swept bool) {
	gaps := s.totals["opper_exporter_gaps_total{}"]
	missed := gaps > s.gaps
	s.gaps = gaps
	if missed {
		s.blind = s.at
	}
	if baseline || s.spoiled {
		return
	}
	from := start
	if swept {
		from = s.sweepBegan
	}
	if isFull := !s.walked().FullAt.Add(-s.ours).Before(start); isFull && (s.blind.IsZero() || from.After(s.blind)) {
		s.blind = time.Time{}
		s.looks = append(s.looks, oppertest.Sync{Start: from, End: s.at, Full: true})
	}
	if s.blind.IsZero() && s.project.led.Hole(0, s.project.led.Listed()) < 0 {
		s.looks = append(s.looks, oppertest.Sync{Start: start, End: s.at})
	}
	if s.syncs%4 == 0 || len(s.looks) < 4 {
		s.check()
	}
}

func (s *simulation) sweep(pages int) {
	for ; pages > 0 && s.project.walker.SweepDue(); pages-- {
		shot := s.project.published.Load()
		s.tell("sweep")
		if s.walked().Sweep == nil {
			s.sweepBegan = s.at
			s.wait(time.Millisecond)
		}
		more := false
		s.requests = 0
		if alive := s.survive(func() { more = s.project.sweep(context.Background()) }); !alive {
			return
		}
		if s.project.published.Load() != shot {
			s.fail("a sweep published numbers")
		}
		if !more {
			return
		}
	}
}

// rest lets things settle, and compares what was counted with the truth.
func (s *simulation) rest() {
	s.calm, s.badness, s.strangers, s.full = true, 0, false, 0
	s.tell("rest")
	began := s.at
	pauses := []time.Duration{31 * time.Second, abandon * 3 / 2, 31 * time.Second, abandon * 3 / 2, 31 * time.Second}
	if s.ours != 0 || !s.clockSet.IsZero() {
		pauses = append([]time.Duration{6 * time.Hour}, pauses...)
	}
	for _, pause := range pauses {
		s.wait(pause)
		s.sync()
		s.sweep(100)
	}
	// What the last sweep found is shown at 0 by one sync, and counted by the next.
	for range 2 {
		s.wait(31 * time.Second)
		s.sync()
	}
	if s.strict = !s.project.failing; s.strict {
		s.compare()
	}
	s.check()
	s.checkLateEnds(began)
	if gaps := s.totals["opper_exporter_gaps_total{}"]; s.quiet && gaps > 0 {
		s.fail("%d gaps", gaps)
	}
}

// check compares what is durable with the truth.
func (s *simulation) check() {
	if s.lasted.IsZero() {
		return
	}
	rules := oppertest.Rules{Settle: settle, Abandon: abandon, Look: s.cfg.Interval, Baseline: s.baseline, BaselineDone: s.lasted, Syncs: s.looks}
	if s.partial {
		rules.Baseline = time.Time{}
	}
	if s.unanswered || s.list.NoGet != 0 || s.list.MaxOffset != 0 {
		// Who can't be asked for is given up as last seen.
		rules.Slack = 9 * time.Hour
	}
	if s.ours != 0 || !s.clockSet.IsZero() {
		// Ages that began by one clock and end by another are off by what lies
		// between the two; what is late by that is not demanded.
		rules.Slack, rules.Baseline = 9*time.Hour, time.Time{}
		since := s.clockSet
		if since.Before(s.lasted) {
			since = s.lasted
		}
		rules.Syncs = slices.DeleteFunc(slices.Clone(s.looks), func(k oppertest.Sync) bool { return k.Start.Before(since.Add(5 * time.Hour)) })
	}
	truth := s.opper.Truth(rules)
	if err := truth.Check(s.durable); err != nil {
		s.fail("%v", err)
	}
	if want, err := truth.Sums(); err == nil {
		if got := oppertest.SumOf(s.durable); !maps.Equal(got.By, want.By) || !maps.Equal(got.Tokens, want.Tokens) {
			s.fail("the sums are %+v, want %+v", got, want)
		}
	}
}

// checkLateEnds looks for abandoned traces whose end a complete walk met since
// some time, and that were not noted as ended after all.
func (s *simulation) checkLateEnds(since time.Time) {
	if !slices.ContainsFunc(s.looks, func(k oppertest.Sync) bool { return k.Full && k.Start.After(since) }) {
		return
	}
	for _, c := range s.durable {
		if tr, listed := s.opper.Get(c.ID); listed && tr.End != nil && c.Outcome == "abandoned" && !s.lateEnds[c.ID] && !s.poisoned[c.ID] {
			s.fail("the late end of trace %s was not noted", c.ID)
		}
	}
}

// trace makes one that began some time ago.
func (s *simulation) trace(ended bool, age time.Duration) oppertest.Trace {
	s.made++
	tr := oppertest.Trace{ID: fmt.Sprintf("%08x-0000-4000-8000-%012d", s.pick(math.MaxInt32), s.made)}
	if s.pick(30) == 0 {
		tr.ID = fmt.Sprintf("odd-%d", s.made)
	}
	if s.pick(200) == 0 {
		tr.ID = ""
	}
	tr.Name = []*string{nil, new("a"), new("a"), new("a"), new("b"), new("b"), new("c"), new("d"), new("")}[s.pick(9)]
	clients := time.Duration(0)
	if s.clients != 0 && s.pick(2) == 0 {
		clients = s.clients
	}
	if s.pick(12) > 0 {
		tr.Start = new(s.at.Add(clients - age))
	}
	if ended {
		s.finish(&tr, clients)
	}
	return tr
}

func (s *simulation) finish(tr *oppertest.Trace, clients time.Duration) {
	tr.End = new(s.at.Add(clients))
	tr.Status = []*string{nil, new("success"), new("success"), new("OK"), new("error"), new("who knows")}[s.pick(6)]
	if s.pick(3) > 0 {
		tr.DurationMS = new(float64(s.pick(100_000) - 1000))
	}
	if s.pick(3) > 0 {
		tr.Tokens = new(int64(s.pick(1 << 20)))
	}
}

func (s *simulation) arrive(running bool, age time.Duration) {
	tr := s.trace(!running, age)
	s.opper.Add(tr)
	s.tell("%s arrives, running: %v", tr.ID, running)
	if tr.ID == "" {
		return
	}
	s.ids = append(s.ids, tr.ID)
	if running {
		s.open = append(s.open, tr.ID)
	}
}

// changeList does one of the things that happen to a list.
func (s *simulation) changeList() {
	some := func(ids []string) string { return ids[s.pick(len(ids))] }
	if s.chance(s.backdate) {
		s.arrive(s.pick(4) == 0, time.Duration(1+s.pick(120))*time.Minute)
	}
	if s.chance(s.remove) {
		if rows := s.opper.Snapshot(); len(rows) > 0 {
			i := s.pick(len(rows))
			n := 1 + s.pick(3)
			if s.pick(8) == 0 {
				n = 20
			}
			for _, row := range rows[i:min(len(rows), i+n)] {
				s.tell("%s is deleted", row.ID)
				s.opper.Delete(row.ID)
				s.left[row.ID] = s.at
			}
		}
	}
	if s.chance(s.relist) && len(s.left) > 0 {
		ids := slices.Sorted(maps.Keys(s.left))
		id := some(ids)
		// An id that is missing for a day may be forgotten.
		if id != "" && s.at.Sub(s.left[id]) < 15*time.Hour {
			tr := s.trace(s.pick(3) > 0, time.Minute)
			tr.ID = id
			if _, listed := s.opper.Get(id); !listed {
				s.tell("%s comes back", id)
				s.opper.Add(tr)
			}
		}
		delete(s.left, id)
	}
	switch n := s.pick(16); {
	case n < 4:
		s.arrive(false, time.Duration(1+s.pick(100))*time.Second)
	case n < 6:
		s.arrive(true, time.Duration(1+s.pick(10))*time.Second)
	case n < 10 && len(s.open) > 0:
		i := s.pick(len(s.open))
		id := s.open[i]
		s.open = slices.Delete(s.open, i, i+1)
		s.tell("%s ends", id)
		s.opper.Update(id, func(tr *oppertest.Trace) { s.finish(tr, 0) })
	case n == 10 && len(s.ids) > 0:
		s.opper.Update(some(s.ids), func(tr *oppertest.Trace) { tr.Name = []*string{new("a"), new("b"), new("e")}[s.pick(3)] })
	case n < 13 && len(s.ids) > 0:
		recent := s.ids[max(len(s.ids)-5, 0):]
		s.opper.Update(some(recent), func(tr *oppertest.Trace) {
			if tr.End != nil {
				tr.Tokens, tr.Status = new(int64(s.pick(1<<20))), new("failed")
			}
		})
	case n == 13 && s.pick(20) == 0:
		for range 20 + s.pick(100) {
			s.arrive(false, time.Duration(1+s.pick(100))*time.Second)
		}
	case n == 14 && s.pick(20) == 0 && !s.quiet && len(s.ids) > 0:
		s.opper.Update(some(s.ids), func(tr *oppertest.Trace) { tr.End = nil })
	}
}

// simulatedSource is Opper as the project reads it.
type simulatedSource struct{ *simulation }

func (s simulatedSource) List(_ context.Context, offset, limit int) (opper.Page, error) {
	if err := s.request(limit, true); err != nil {
		return opper.Page{}, err
	}
	from := s.opper
	if s.strangers {
		s.spoiled = true
		from = s.other
	}
	if s.short > 0 {
		limit = min(limit, s.short)
	}
	rows, total, ok := from.List(offset, limit)
	s.tell("rows %d to %d", offset, offset+len(rows))
	s.tick()
	s.point()
	switch {
	case ok:
	case s.list.MaxOffset > 0 && offset > s.list.MaxOffset:
		return opper.Page{}, &opper.Error{Status: http.StatusUnprocessableEntity}
	default:
		return opper.Page{}, opper.ErrTooLarge
	}
	page := opper.Page{Total: -1, Traces: make([]opper.Trace, len(rows))}
	if total != nil {
		page.Total = *total
	}
	for i := range rows {
		page.Traces[i] = readBy(&rows[i])
	}
	return page, nil
}

func (s simulatedSource) Get(_ context.Context, id string) (opper.Trace, error) {
	if err := s.request(0, false); err != nil {
		return opper.Trace{}, err
	}
	if s.list.NoGet != 0 {
		return opper.Trace{}, &opper.Error{Status: s.list.NoGet}
	}
	from := s.opper
	if s.strangers {
		s.spoiled = true
		from = s.other
	}
	tr, ok := from.Show(id)
	s.tell("trace %s: %v", id, ok)
	s.tick()
	s.point()
	if !ok {
		return opper.Trace{}, &opper.Error{Status: http.StatusNotFound}
	}
	return readBy(&tr), nil
}

// request is what happens before an answer, and in its place.
func (s *simulation) request(limit int, list bool) error {
	if s.requests++; s.requests > 5000 {
		s.fail("a sync or a page of a sweep does not end")
	}
	s.tick()
	s.point()
	for s.chance(s.change) {
		s.changeList()
	}
	if s.badness == 0 && s.chance(s.fault) {
		s.badness = 1 + s.pick(3)*s.pick(6)
		answers := []error{
			&opper.Error{Status: 500}, &opper.Error{Status: 503}, opper.ErrTooLarge, &opper.Error{Status: 429},
			&opper.Error{Status: 401}, errors.New("connection refused"), context.DeadlineExceeded,
			&opper.Error{Status: 404}, &opper.Error{Status: 422},
		}
		s.badAnswer = answers[s.pick(len(answers))]
	}
	if s.badness > 0 {
		s.badness--
		if opper.OutOfRange(s.badAnswer) {
			// That one trace is gone could only be believed.
			s.unanswered = true
			if !list {
				return &opper.Error{Status: 500}
			}
			s.spoiled = true
		}
		if limit == 1 && opper.Unreadable(s.badAnswer) {
			s.blind = s.at
		}
		s.unanswered = s.unanswered || !list
		s.tell("answer: %v", s.badAnswer)
		return s.badAnswer
	}
	if !s.strangers && s.recognizable() && s.chance(s.foreign) {
		s.strangers = true
		s.tell("another project's list")
	}
	return nil
}

// recognizable reports whether the list can be told from another one: some of
// it must be known, and expiry must not explain that all of it is gone.
func (s *simulation) recognizable() bool {
	w := s.walked()
	return !s.project.led.Baseline() && s.project.led.Listed() > 20 &&
		!w.Newest.IsZero() && s.now().Sub(w.Newest) < max(w.LastGood.Sub(w.Oldest), time.Hour)-10*time.Minute
}

// readBy is what a client makes of a row.
func readBy(tr *oppertest.Trace) opper.Trace {
	out := opper.Trace{ID: tr.ID}
	if tr.Name != nil {
		out.Name = *tr.Name
	}
	if tr.Status != nil {
		out.Status, out.HasStatus = *tr.Status, true
	}
	if tr.Start != nil {
		out.Start = *tr.Start
	}
	if tr.End != nil {
		out.End = *tr.End
	}
	switch {
	case tr.DurationMS != nil:
		out.Duration, out.HasDuration = time.Duration(math.Round(*tr.DurationMS*1000))*time.Microsecond, true
	case tr.Start != nil && tr.End != nil:
		out.Duration, out.HasDuration = out.End.Sub(out.Start), true
	}
	if tr.Tokens != nil {
		out.Tokens, out.HasTokens = *tr.Tokens, true
	}
	return out
}

// disk is the store as the project sees it: it can be full, and the program can
// be killed before and after a commit.
type disk struct{ *simulation }

var errFull = errors.New("no space left on device")

func (d disk) Load(project string) (store.State, bool, error) { return d.inner.Load(project) }

func (d disk) Commit(project string, changes store.State, fresh bool) error {
	d.point()
	refused := d.full > 0
	if refused {
		d.full--
		// What could not be synced may be on the disk all the same.
		if d.pick(3) > 0 {
			d.tell("the disk is full")
			return errFull
		}
	}
	if err := d.inner.Commit(project, changes, fresh); err != nil {
		return err
	}
	d.tell("commit, refused: %v", refused)
	d.lasts(!changes.Ledger.Baseline)
	d.point()
	if refused {
		return errFull
	}
	return nil
}

// lasts notes that all that was counted so far is durable.
func (s *simulation) lasts(baselineDone bool) {
	s.sweepLasts = s.sweepBegan
	for _, z := range s.zero {
		z.released = z.released || z.read || s.at.Sub(z.since) >= holdAtMost || s.clockSet.After(z.since)
	}
	if baselineDone && s.lasted.IsZero() {
		s.lasted = s.at
		if !s.ended.IsZero() {
			s.lasted = s.ended
		}
	}
	for _, c := range s.counting.Counted {
		v := versionOf(c)
		if s.judged[v.ID] {
			s.fail("trace %s is counted twice", v.ID)
		}
		s.judged[v.ID] = true
		s.tell("counted: %+v", v)
		s.durable = append(s.durable, v)
		s.total(v)
	}
	s.totals["opper_exporter_gaps_total{}"] += s.counting.Gaps
	s.totals["opper_exporter_traces_skipped_total{no_id}"] += s.counting.Nameless
	s.totals["opper_exporter_traces_skipped_total{vanished_open}"] += uint64(len(s.counting.Vanished))
	s.totals["opper_exporter_late_ends_total{}"] += uint64(len(s.counting.LateEnds))
	for _, r := range s.counting.LateEnds {
		s.lateEnds[versionOf(ledger.Counted{Row: r}).ID] = true
	}
	s.counting = ledger.Events{}
}

// total adds a counted trace to what has to be published.
func (s *simulation) total(v oppertest.Counted) {
	name := s.label(v.Name)
	labels := "{" + v.Outcome + "," + name + "}"
	s.totals["opper_traces_total"+labels]++
	if v.Tokens >= 0 {
		s.totals["opper_trace_tokens_total"+labels] += uint64(v.Tokens)
		s.totals["opper_tokens_per_trace_count{"+name+"}"]++
		s.totals["opper_tokens_per_trace_sum{"+name+"}"] += uint64(v.Tokens)
	}
	switch {
	case v.Outcome == "abandoned":
	case v.Unusable != "":
		s.totals["opper_exporter_durations_unusable_total{"+v.Unusable+"}"]++
	default:
		s.totals["opper_trace_duration_seconds_count"+labels]++
		s.totals["opper_trace_duration_seconds_sum"+labels] += uint64(v.Micros)
	}
}

// label is a name, or what stands for all of them if they share too few places.
func (s *simulation) label(name string) string {
	if s.names < 10 {
		return "any"
	}
	return name
}

func versionOf(c ledger.Counted) oppertest.Counted {
	v := oppertest.Counted{ID: c.Ref}
	if v.ID == "" {
		v.ID = c.ID.String()
	}
	v.Name, v.Tokens, v.Outcome = c.Name, -1, "unknown"
	if v.Name == "" {
		v.Name = "(unnamed)"
	}
	if c.HasTokens {
		v.Tokens = c.Tokens
	}
	if c.Abandoned {
		v.Outcome = "abandoned"
		return v
	}
	switch strings.ToLower(c.Status) {
	case "success", "ok", "completed":
		v.Outcome = "success"
	case "error", "failed", "failure":
		v.Outcome = "failure"
	}
	switch {
	case !c.HasDuration:
		v.Unusable = "missing"
	case c.Duration < 0:
		v.Unusable = "negative"
	default:
		v.Micros = c.Duration.Microseconds()
	}
	return v
}

// watch looks at what is published: nothing may be lower than it ever was, and
// all of it must be what was counted and made durable.
func (s *simulation) watch() {
	shot := s.project.published.Load()
	if shot == s.last || len(*shot) == 0 && len(s.shown) == 0 {
		return
	}
	s.last = shot
	before := s.before
	s.before = make(map[*metric]string, len(*shot))
	present := make(map[string]bool, len(*shot))
	baseline := len(s.shown) == 0
	for _, each := range *shot {
		m := each.(*metric)
		if m.gauge != nil {
			continue
		}
		key, same := before[m]
		if !same {
			key = nameOf(m)
			was := s.shown[key]
			if was != nil {
				if err := fallen(was, m); err != nil {
					s.fail("%s: %v", key, err)
				}
			}
			s.shown[key] = m
			if was == nil {
				s.appears(key, baseline)
			}
		}
		s.before[m] = key
		present[key] = true
	}
	s.leaveZero()
	for key := range s.shown {
		if !present[key] {
			s.fail("%s has vanished", key)
		}
	}
	s.compare()
	s.shadow()
}

// appears notes a series that is shown for the first time. With the baseline,
// only names that were met after it are held.
func (s *simulation) appears(key string, baseline bool) {
	if group := groupOf(key); group != "" && s.zero[group] == nil {
		s.zero[group] = &zeros{since: s.at, released: baseline}
	}
}

// leaveZero looks which groups are no longer at 0: they must have been read so.
func (s *simulation) leaveZero() {
	risen := map[string]string{}
	for key, m := range s.shown {
		if m.counter.GetValue() > 0 || m.histogram.GetSampleCount() > 0 {
			risen[groupOf(key)] = key
		}
	}
	for group, z := range s.zero {
		if key, ok := risen[group]; ok {
			if !z.released {
				s.fail("%s rises before anybody has read the zeros", key)
			}
			delete(s.zero, group)
		}
	}
}

// groupOf returns which group a series is part of, if any.
func groupOf(key string) string {
	family, labels, _ := strings.Cut(key, "{")
	outcome, name, both := strings.Cut(strings.TrimSuffix(labels, "}"), ",")
	switch family {
	case "opper_traces_total", "opper_trace_tokens_total":
		return "counters of " + name
	case "opper_trace_duration_seconds", "opper_trace_duration_seconds_count", "opper_trace_duration_seconds_sum":
		return "durations of " + name
	case "opper_tokens_per_trace", "opper_tokens_per_trace_count", "opper_tokens_per_trace_sum":
		if !both {
			name = outcome
		}
		return "tokens of " + name
	}
	return ""
}

// compare holds what is published against what was counted and made durable.
func (s *simulation) compare() {
	got := make(map[string]uint64, len(s.totals))
	for key, m := range s.shown {
		s.addShown(got, key, m)
	}
	for _, keys := range []map[string]uint64{s.totals, got} {
		for key := range keys {
			less := got[key] < s.totals[key] && s.held(key, got[key])
			if got[key] != s.totals[key] && !less {
				s.fail("%s is %d, and what is durable says %d", key, got[key], s.totals[key])
			}
		}
	}
}

// held reports whether a sum may be lower than what was counted.
func (s *simulation) held(key string, shown uint64) bool {
	group := groupOf(key)
	switch {
	case s.strict || group == "":
		return false
	case strings.HasSuffix(group, " any"):
		return len(s.zero) > 0
	}
	return s.zero[group] != nil && shown == 0
}

// addShown adds up what was published by the keys of what was counted.
func (s *simulation) addShown(got map[string]uint64, key string, m *metric) {
	family, labels, _ := strings.Cut(key, "{")
	if outcome, name, both := strings.Cut(strings.TrimSuffix(labels, "}"), ","); both {
		labels = outcome + "," + s.label(name) + "}"
	} else if family == "opper_tokens_per_trace" {
		labels = s.label(outcome) + "}"
	}
	switch family {
	case "opper_exporter_overflow_traces_total", "opper_exporter_unmapped_status_total":
	case "opper_trace_duration_seconds":
		got[family+"_count{"+labels] += m.histogram.GetSampleCount()
		got[family+"_sum{"+labels] += uint64(math.Round(1e6 * m.histogram.GetSampleSum()))
	case "opper_tokens_per_trace":
		got[family+"_count{"+labels] += m.histogram.GetSampleCount()
		got[family+"_sum{"+labels] += uint64(m.histogram.GetSampleSum())
	default:
		got[family+"{"+labels] += uint64(m.counter.GetValue())
	}
}

// shadow starts another project of a copy of what is stored, now and then: it
// would publish what is published.
func (s *simulation) shadow() {
	stored, ok := s.inner.(*memory)
	if !ok || len(*s.last) == 0 || s.made%8 != 0 {
		return
	}
	cfg := s.cfg
	cfg.Store, cfg.Logger = stored.clone(), log.NewNopLogger()
	other := newTestProject(s.t, cfg)
	n := s.project.led.Listed()
	if was, is := s.project.led.IDs(0, n), other.led.IDs(0, other.led.Listed()); !slices.Equal(was, is) {
		s.fail("%d are believed listed, and %d would be after a crash", len(was), len(is))
	}
	got := map[string]*metric{}
	for _, each := range *other.published.Load() {
		m := each.(*metric)
		got[nameOf(m)] = m
	}
	for _, each := range *s.last {
		m := each.(*metric)
		key := nameOf(m)
		if m.gauge != nil {
			if key != "opper_exporter_trace_names{}" && got[key].gauge.GetValue() != m.gauge.GetValue() {
				s.fail("%s is %v, and would be %v after a crash", key, m.gauge.GetValue(), got[key].gauge.GetValue())
			}
			continue
		}
		if err := fallen(m, got[key]); err != nil {
			s.fail("%s, after a crash: %v", key, err)
		}
	}
}

var familyNames = func() map[*prometheus.Desc]string {
	names := map[*prometheus.Desc]string{}
	for _, f := range families {
		_, name, _ := strings.Cut(f.desc.String(), `fqName: "`)
		names[f.desc], _, _ = strings.Cut(name, `"`)
	}
	return names
}()

// nameOf names a series by its family and the values of its labels, without
// that of the project.
func nameOf(m *metric) string {
	var labels []string
	for _, l := range m.labels {
		if l.GetName() != "project" {
			labels = append(labels, l.GetValue())
		}
	}
	return familyNames[m.desc] + "{" + strings.Join(labels, ",") + "}"
}

// fallen says what is lower in a counter or histogram than it was.
func fallen(was, is *metric) error {
	if is == nil {
		return errors.New("gone")
	}
	if was.counter != nil {
		if is.counter.GetValue() < was.counter.GetValue() {
			return fmt.Errorf("fell from %v to %v", was.counter.GetValue(), is.counter.GetValue())
		}
		if a, b := was.counter.GetCreatedTimestamp().AsTime(), is.counter.GetCreatedTimestamp().AsTime(); !a.Equal(b) {
			return fmt.Errorf("created %v became %v", a, b)
		}
		return nil
	}
	a, b := was.histogram, is.histogram
	if b.GetSampleCount() < a.GetSampleCount() || b.GetSampleSum() < a.GetSampleSum() {
		return fmt.Errorf("count and sum fell from %v, %v to %v, %v", a.GetSampleCount(), a.GetSampleSum(), b.GetSampleCount(), b.GetSampleSum())
	}
	if x, y := a.GetCreatedTimestamp().AsTime(), b.GetCreatedTimestamp().AsTime(); !x.Equal(y) {
		return fmt.Errorf("created %v became %v", x, y)
	}
	for i, bucket := range a.GetBucket() {
		if i >= len(b.GetBucket()) || b.GetBucket()[i].GetUpperBound() != bucket.GetUpperBound() {
			if math.IsInf(bucket.GetUpperBound(), +1) {
				continue
			}
			return fmt.Errorf("bucket %v is gone", bucket.GetUpperBound())
		}
		if b.GetBucket()[i].GetCumulativeCount() < bucket.GetCumulativeCount() {
			return fmt.Errorf("bucket %v fell", bucket.GetUpperBound())
		}
	}
	var native, delta int64
	for _, d := range b.GetPositiveDelta() {
		delta += d
		native += delta
	}
	if uint64(native)+b.GetZeroCount() != b.GetSampleCount() {
		return fmt.Errorf("native buckets hold %d of %d", uint64(native)+b.GetZeroCount(), b.GetSampleCount())
	}
	return nil
}

// memory is a Store that shares nothing with who uses it.
type memory struct {
	listed, gone map[uint64]ledger.Chunk
	pending      map[ledger.ID]ledger.Pending
	abandoned    map[ledger.ID]bool
	holes        uint64
	baseline     bool
	names, docs  map[string][]byte
	found        bool
}

func newMemory() *memory {
	return &memory{
		listed: map[uint64]ledger.Chunk{}, gone: map[uint64]ledger.Chunk{},
		pending: map[ledger.ID]ledger.Pending{}, abandoned: map[ledger.ID]bool{},
		names: map[string][]byte{}, docs: map[string][]byte{},
	}
}

// clone may share what is never changed: it is replaced as a whole.
func (m *memory) clone() *memory {
	c := *m
	c.listed, c.gone = maps.Clone(m.listed), maps.Clone(m.gone)
	c.pending, c.abandoned = maps.Clone(m.pending), maps.Clone(m.abandoned)
	c.names, c.docs = maps.Clone(m.names), maps.Clone(m.docs)
	return &c
}

func (m *memory) Load(string) (store.State, bool, error) {
	if !m.found {
		return store.State{}, false, nil
	}
	st := store.State{Names: map[string][]byte{}, Docs: map[string][]byte{}}
	st.Ledger = ledger.State{
		Listed: sorted(m.listed), Gone: sorted(m.gone), Pending: map[ledger.ID]*ledger.Pending{},
		Abandoned: maps.Clone(m.abandoned), Holes: m.holes, Baseline: m.baseline,
	}
	for id, p := range m.pending {
		st.Ledger.Pending[id] = &p
	}
	for k, v := range m.names {
		st.Names[k] = slices.Clone(v)
	}
	for k, v := range m.docs {
		st.Docs[k] = slices.Clone(v)
	}
	return st, true, nil
}

func sorted(chunks map[uint64]ledger.Chunk) []ledger.Chunk {
	var out []ledger.Chunk
	for _, key := range slices.Sorted(maps.Keys(chunks)) {
		c := chunks[key]
		c.IDs = slices.Clone(c.IDs)
		out = append(out, c)
	}
	return out
}

func (m *memory) Commit(_ string, changes store.State, fresh bool) error {
	if fresh {
		*m = *newMemory()
	}
	m.found = true
	for _, half := range []struct {
		to   map[uint64]ledger.Chunk
		from []ledger.Chunk
	}{{m.listed, changes.Ledger.Listed}, {m.gone, changes.Ledger.Gone}} {
		for _, c := range half.from {
			if len(c.IDs) == 0 {
				delete(half.to, c.Key)
				continue
			}
			c.IDs = slices.Clone(c.IDs)
			half.to[c.Key] = c
		}
	}
	for id, p := range changes.Ledger.Pending {
		if p == nil {
			delete(m.pending, id)
		} else {
			m.pending[id] = *p
		}
	}
	for id, is := range changes.Ledger.Abandoned {
		if is {
			m.abandoned[id] = true
		} else {
			delete(m.abandoned, id)
		}
	}
	m.holes, m.baseline = changes.Ledger.Holes, changes.Ledger.Baseline
	put(m.names, changes.Names)
	put(m.docs, changes.Docs)
	return nil
}

func put(to, from map[string][]byte) {
	for k, v := range from {
		if v == nil {
			delete(to, k)
		} else {
			to[k] = slices.Clone(v)
		}
	}
}

// randomPlan mixes all troubles.
func randomPlan(pick func(n int) int) plan {
	often := func(kinds ...int) int { return kinds[pick(len(kinds))] }
	p := plan{
		list: oppertest.Config{
			Seed:        int64(pick(1000)),
			SortBy:      oppertest.Sort(pick(4)),
			OldestFirst: pick(3) == 0,
		},
		history: []int{0, 4, 15, 15, 30, 30, 60, 120}[pick(8)],
		steps:   4 + pick(10),
		names:   []int{100, 100, 2}[pick(3)],
		change:  often(0, 2, 2, 4), backdate: often(0, 0, 3), remove: often(0, 0, 4, 10), relist: often(0, 0, 5),
		fault: often(0, 0, 5, 20), foreign: often(0, 0, 0, 20), poison: often(0, 0, 0, 10),
		crash: often(0, 0, 10, 40), unwritable: often(0, 0, 8), restart: often(0, 0, 8),
		clock: often(0, 0, 0, 8),
	}
	if pick(2) == 0 {
		p.list.Retention = time.Duration(10+pick(120)) * time.Minute
		p.list.ExpireByStart = pick(2) == 0
	}
	switch pick(8) {
	case 0:
		p.list.TotalCount = missingTotal
	case 1:
		p.list.TotalCount = cappedTotal(20 + pick(100))
	case 2:
		p.list.TotalCount = lyingTotal(pick(1000) - 500)
	default:
		if pick(3) > 0 {
			p.short = 15 + pick(20)
		}
	}
	if pick(10) == 0 {
		// On a small page, due rows may be missed and have to be asked for.
		p.list.NoGet, p.poison, p.fault, p.short = []int{405, 500}[pick(2)], 0, 0, 0
	}
	if pick(20) == 0 {
		// What was served to who then crashed is not what the truth asks for.
		p.list.MaxOffset, p.crash, p.restart = 20+pick(150), 0, 0
	}
	if p.fault > 0 || p.poison > 0 {
		// Read row by row, a list has nothing that ties one answer to the next.
		p.foreign = 0
	}
	p.clients = []time.Duration{0, 0, 0, 5 * time.Minute, -5 * time.Minute, 2 * time.Hour, -2 * time.Hour}[pick(7)]
	return p
}

func missingTotal(int) *int { return nil }

func cappedTotal(at int) func(int) *int { return func(n int) *int { return new(min(n, at)) } }

func lyingTotal(by int) func(int) *int { return func(n int) *int { return new(max(n+by, 0)) } }

// source of chances that a seed stands for.
func picker(seed int64) func(n int) int {
	return rand.New(rand.NewPCG(uint64(seed), 3)).IntN
}

// The promises hold whatever happens between any two reads and writes.
func TestSimulation(t *testing.T) {
	const ranges = 8
	one := func(t *testing.T, seed int64) {
		t.Helper()
		pick := picker(seed)
		s := newSimulation(t, fmt.Sprintf("seed %d: go test ./collector -run TestSimulation$ -seed %d", seed, seed), pick, randomPlan(pick))
		s.tell("%+v", s.plan)
		s.run()
	}
	if *replay >= 0 {
		one(t, *replay)
		return
	}
	for r := range ranges {
		t.Run(fmt.Sprint(r), func(t *testing.T) {
			t.Parallel()
			for seed := r; seed < *schedules; seed += ranges {
				one(t, int64(seed))
			}
		})
	}
}

// The schedules that the promises name, each with nothing else in its way.
func TestSchedules(t *testing.T) {
	const each = 25
	calm := func(pick func(n int) int) plan {
		return plan{history: []int{10, 60, 130}[pick(3)], steps: 15, short: 15 + pick(20), names: 100, change: 2}
	}
	orders := func(p *plan, pick func(n int) int, sorts ...oppertest.Sort) {
		p.list.SortBy, p.list.OldestFirst = sorts[pick(len(sorts))], pick(2) == 0
	}
	for name, of := range map[string]func(p *plan, pick func(n int) int){
		"retention only": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.Retention, p.list.ExpireByStart, p.quiet = time.Duration(10+pick(30))*time.Minute, pick(2) == 0, true
		},
		"retention and crashes": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.Retention, p.crash, p.quiet = time.Duration(10+pick(30))*time.Minute, 20, true
		},
		"expiry out of order": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByStart, oppertest.ByUpdate, oppertest.ByID)
			p.list.Retention, p.backdate = time.Duration(10+pick(30))*time.Minute, 3
		},
		"hidden arrivals cancel against expiry": func(p *plan, pick func(n int) int) {
			p.list.SortBy, p.list.Retention, p.change, p.cancel = oppertest.ByStart, time.Hour, 0, true
		},
		"capped total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.TotalCount, p.short, p.history = cappedTotal(20+pick(80)), 0, 130
		},
		"lying total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.TotalCount, p.short = lyingTotal(pick(300)-150), 0
		},
		"missing total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart, oppertest.ByID)
			p.list.TotalCount, p.short, p.history = missingTotal, 0, 130
		},
		"clients 5 minutes slow": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = -5 * time.Minute },
		"clients 5 minutes fast": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = 5 * time.Minute },
		"clients 2 hours slow":   func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = -2 * time.Hour },
		"clients 2 hours fast":   func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = 2 * time.Hour },
		"we are 5 minutes slow":  func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = -5 * time.Minute },
		"we are 5 minutes fast":  func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = 5 * time.Minute },
		"we are 2 hours slow":    func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = -2 * time.Hour },
		"we are 2 hours fast":    func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = 2 * time.Hour },
		"our clock is set":       func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clock, p.restart = 5, 4 },
		"deletion between pages": func(p *plan, pick func(n int) int) {
			p.list.OldestFirst, p.history, p.remove = pick(2) == 0, 130, 2
		},
		"another project": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1, 2, 3); p.foreign = 5 },
		"full disk":       func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1, 2, 3); p.unwritable, p.crash = 3, 20 },
		"the real store": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.onDisk, p.crash, p.restart, p.remove, p.relist = true, 20, 6, 6, 6
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range int64(each) {
				if *replay >= 0 && seed != *replay {
					continue
				}
				pick := picker(seed)
				p := calm(pick)
				of(&p, pick)
				replay := fmt.Sprintf("go test ./collector -run '%s' -seed %d", t.Name(), seed)
				newSimulation(t, replay, pick, p).run()
			}
		})
	}
}

// FuzzSimulation plays schedules that its input chooses. At its end, nothing
// more goes wrong.
func FuzzSimulation(f *testing.F) {
	for seed := range int64(8) {
		rng, data := rand.New(rand.NewPCG(uint64(seed), 5)), make([]byte, 600)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pick := func(n int) int {
			if len(data) == 0 {
				return n - 1
			}
			x := 0
			for size := 1; size < n && len(data) > 0; size <<= 8 {
				x, data = x<<8|int(data[0]), data[1:]
			}
			return x % n
		}
		newSimulation(t, "see the input", pick, randomPlan(pick)).run()
	})
}
