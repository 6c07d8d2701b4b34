package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
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

	every      time.Duration // between two arrivals; 0 means that there are only those of changes
	idle       bool          // nothing else happens to the list
	old        time.Duration // how long ago the history arrived
	sweepEvery time.Duration

	change, backdate, remove, relist int // of the list, before each page
	fault, foreign, poison           int
	crash, unwritable, restart       int
	clock                            int // steps of our clock
	burst                            int // more arrive at once than are listed
	pause, stall                     int // the process stands still, between two syncs and between two requests
	outage                           int // every request fails for some syncs
	moved                            int // the key belongs to another project for some syncs
	dim                              int // rows can't be read for some time
	stuck, endless                   int // offset is ignored, or the list has no end, for some syncs
}

// What the exporter is held to, beyond what a sync that ended well has seen.
const (
	// rereadSoon after rows can be read again, and so many good syncs later, they
	// have been: a retry with backoff comes about as long after the end of the
	// trouble as the trouble lasted.
	rereadSoon  = 15 * time.Minute
	rereadSyncs = 5
	longestDim  = 3 * time.Minute
	// maxRefusals is how many syncs in a row may fail of which no answer was
	// wrong. One may meet a list that moves too fast; close to rows that can't be
	// read, pages are so small that some may.
	maxRefusals, maxRefusalsByRow = 1, 5
	// A list without anything known must be believed if all that was known at the
	// last good sync has expired surely, and must not if that can't be. Between
	// the two it is up to the exporter, as it can only guess the retention.
	turnoverMargin = 10 * time.Minute
	longestMoved   = 20 * time.Minute
)

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
	cfg          setup
	project      *project
	inner        Store
	reopen       func() Store // what a start finds

	// Of the list.
	ids, open []string
	left      map[string]time.Time // deleted by hand, and when
	poisoned  map[string]bool      // rows that can't be read
	denied    map[string]bool      // traces that an empty project does not have: that can only be believed
	made      int
	listed    int // at the last step

	next      time.Time            // when the next of the traces arrives that come at an interval
	arrived   map[string]time.Time // the latest of each
	dims      map[string]time.Time // rows that can't be read, and until when
	badness   int                  // requests that fail from now on, as the last one did
	badAnswer error
	down      int  // syncs of which every request fails
	strangers bool // another project's list answers
	away      int  // for so many syncs
	wrong     int  // syncs in which lists are not what was asked for
	wrongBy   lie
	salt      int // of the rows that an endless list makes up
	full      int // commits that fail

	// What is durable of what the project counted.
	counting ledger.Events // since the last commit
	durable  []oracle.Counted
	judged   map[string]bool   // ids of these
	lateEnds map[string]bool   // ids of abandoned traces that ended after all
	totals   map[string]uint64 // sums by published name

	// What is published.
	last   *snapshot
	before map[prometheus.Metric]string // its metrics, and the names of their series
	shown  map[string]*dto.Metric       // counters and histograms ever published, as last seen
	zero   map[string]*zeros            // what began at 0 after the first walk and is still there, by group
	strict bool                         // nothing may be held any more

	// When the project looked.
	baseline, ended, lasted time.Time // the first walk began, ended, was durable
	sweepBegan, sweepLasts  time.Time // the complete walk under way, and the durable one
	looks                   []oracle.Sync
	syncs                   int
	requests                int           // since the sync, or the page of the sweep, began
	spoiled                 bool          // an answer in this sync was a lie
	disturbed               bool          // it was, or a request failed
	gotOurs, gotOther       bool          // some list in this sync was ours, or another one
	saidNo                  bool          // another project was asked for a trace in it
	committed               bool          // the last commit in it is durable, and known to be
	refusals                int           // syncs in a row that failed for no reason
	trouble                 error         // the last one that was logged
	goodAt, savedAt         time.Time     // the last good sync began, the last commit
	watching                time.Time     // good syncs have followed each other closely since then
	sawExpiry               bool          // for long enough to see how long traces stay
	lied                    time.Time     // the last answer that was a lie
	unanswered              bool          // Opper did not say what became of a trace
	longest                 time.Duration // of a sync
	blind, blindSince       time.Time     // rows may have been taken for unreadable then, and at first
	seeing                  int           // good syncs since
	gaps                    uint64        // counted until the last look
	partial                 bool          // the first walk could not read all
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
		arrived: map[string]time.Time{}, dims: map[string]time.Time{}, denied: map[string]bool{},
		lateEnds: map[string]bool{}, totals: map[string]uint64{}, shown: map[string]*dto.Metric{}, zero: map[string]*zeros{},
	}
	p.list.Now = func() time.Time { return s.at }
	s.opper = oppertest.New(p.list)
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
	s.cfg.Interval, s.cfg.SweepInterval = 30*time.Second, cmp.Or(p.sweepEvery, 20*time.Minute)
	s.cfg.now = s.now
	told := log.NewLogfmtLogger(&s.told)
	s.cfg.Logger = log.LoggerFunc(func(keyvals ...any) error {
		for i := 1; i < len(keyvals); i += 2 {
			if err, ok := keyvals[i].(error); ok {
				s.trouble = err
			}
		}
		if !s.tells {
			return nil
		}
		return told.Log(keyvals...)
	})
	s.cfg.source = func() syncer.Source { return simulatedSource{s} }
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
	s.cfg.Aggregate.MaxNames = p.names
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

// wait lets time pass, and what arrives in it.
func (s *simulation) wait(d time.Duration) {
	until := s.at.Add(d)
	s.traffic(until)
	s.at = until
	s.brighten()
}

// tick lets up to about a second pass.
func (s *simulation) tick() { s.wait(time.Duration(1+s.pick(1000)) * time.Millisecond) }

func (s *simulation) setBuckets() {
	s.cfg.Aggregate.DurationBuckets = [][]float64{{0.1, 1, 10, 60}, {0.5, 5, 50}}[s.pick(2)]
	s.cfg.Aggregate.TokenBuckets = [][]float64{{10, 1000}, {100}}[s.pick(2)]
}

// run plays the schedule.
func (s *simulation) run() {
	within := 40 * 60
	if s.old > 0 {
		within = 20 // they began together, so a good sync later they are older than the list was long
	}
	for range s.history {
		s.arrive(s.pick(8) == 0, time.Duration(1+s.pick(within))*time.Second)
	}
	s.next = s.at
	switch {
	case s.every == 0:
	case s.list.Retention > 0:
		s.wait(s.list.Retention)
	default:
		s.wait(time.Duration(s.history) * s.every)
	}
	s.wait(s.old)
	s.other = s.otherProject(3)
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
	s.beginTrouble()
	listed := len(s.opper.Snapshot())
	for n := s.pick(4); n > 0 && !s.idle; n-- {
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
			if row := rows[s.pick(len(rows))].ID; row != "" {
				s.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row, Times: -1})
				s.poisoned[row] = true
			}
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
	s.sweep(1 + s.pick(4))
	s.relieve()
}

// start makes a project of what is stored, as a start of the program does.
func (s *simulation) start() {
	s.counting, s.sweepBegan = ledger.Events{}, s.sweepLasts
	if s.lasted.IsZero() {
		s.ended = time.Time{}
	}
	s.inner = s.reopen()
	durations, tokens := s.cfg.Aggregate.DurationBuckets, s.cfg.Aggregate.TokenBuckets
	if s.project != nil {
		if was := s.project.cfg.Aggregate; !slices.Equal(durations, was.DurationBuckets) || !slices.Equal(tokens, was.TokenBuckets) {
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
	s.project = newTestProject(s.t, s.cfg, newInstrumentation(s.cfg.Name, s.cfg.NativeHistograms))
	s.project.observe = s.found
	s.strangers = s.away > 0
	if s.isWrongOverall() && !s.recognizable() {
		// What told the lists apart was not durable.
		s.tell("the list is ours again")
		s.strangers, s.away, s.wrong = false, 0, 0
	}
	s.calm, s.full = calm, full
	s.watch()
}

// found takes note of what the project adds up, which uses the memory again.
func (s *simulation) found(ev ledger.Events) {
	c := &s.counting
	c.Counted = append(c.Counted, ev.Counted...)
	c.Vanished = append(c.Vanished, ev.Vanished...)
	c.LateEnds = append(c.LateEnds, ev.LateEnds...)
	c.NoID += ev.NoID
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
	baseline := s.project.ledger.IsInitialSync()
	before := s.walked()
	swept := before.Sweep != nil && before.Sweep.Done
	if baseline && s.baseline.IsZero() {
		s.baseline = start
	}
	s.spoiled, s.disturbed, s.gotOurs, s.gotOther, s.saidNo, s.committed, s.requests = false, false, false, false, false, false, 0
	wasOurs := s.isOurs()
	s.syncs++
	s.tell("sync")
	succeeded, ours := false, s.recognizable()
	alive := s.survive(func() {
		succeeded = s.project.sync(context.Background())
		if !succeeded && s.project.published.Load() != shot {
			s.fail("a failed sync published numbers")
		}
		s.partial = s.partial || baseline && s.spoiled
		if baseline && !s.project.ledger.IsInitialSync() {
			s.ended = s.at
			s.partial = s.partial || s.project.aggregates.Gaps > 0
		}
	})
	s.wait(time.Millisecond)
	s.longest = max(s.longest, s.at.Sub(start))
	s.partial = s.partial || baseline && s.spoiled
	s.watch()
	if !alive {
		return
	}
	s.tell("sync ends: %v", succeeded)
	s.checkRefusal(start, succeeded, wasOurs)
	if succeeded && ours && s.gotOther && !s.gotOurs {
		s.fail("another list is taken for ours")
	}
	// One that changed nothing publishes the same again, and has looked all the same.
	if succeeded && s.committed && !s.lasted.IsZero() {
		s.looked(start, baseline, swept)
	}
	s.wait(time.Millisecond)
}

// walked is what the walk remembers of complete walks.
func (s *simulation) walked() (state struct {
	LastFullScan time.Time `json:"full_at"`
	Sweep        *struct{ Done bool }
},
) {
	b, err := s.project.syncer.State()
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
		s.blinded()
	}
	if baseline || s.spoiled {
		return
	}
	if start.Sub(s.goodAt) > s.list.Retention/8 {
		s.watching = start
	}
	s.sawExpiry = s.sawExpiry || start.Sub(s.watching) > 2*s.list.Retention
	s.goodAt = start
	s.seeing++
	from := start
	if swept {
		from = s.sweepBegan
	}
	if isFull := !s.walked().LastFullScan.Add(-s.ours).Before(start); isFull && from.After(s.lied) && (s.blind.IsZero() || from.After(s.blind)) {
		s.blind = time.Time{}
		s.looks = append(s.looks, oracle.Sync{Start: from, End: s.at, Full: true})
	}
	if s.sees(start) {
		s.looks = append(s.looks, oracle.Sync{Start: start, End: s.at})
	}
	if s.syncs%4 == 0 || len(s.looks) < 4 {
		s.check()
	}
}

func (s *simulation) sweep(pages int) {
	for ; pages > 0 && s.project.syncer.IsSweepDue(); pages-- {
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
	s.calm, s.badness, s.down, s.strangers, s.away, s.wrong, s.full = true, 0, 0, false, 0, 0, 0
	for id := range s.dims {
		s.opper.Heal(id)
	}
	clear(s.dims)
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
	for n := 0; n < rereadSyncs && !s.blind.IsZero(); n++ {
		s.wait(rereadSoon / rereadSyncs)
		s.sync()
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
	rules := oracle.Rules{Settle: settle, Abandon: abandon, Recheck: s.cfg.Interval, InitialSync: s.baseline, InitialSyncDone: s.lasted, Syncs: s.looks, Reread: rereadSoon}
	if s.stall > 0 {
		// Each page has a time of its own, which may be long before the sync ended.
		rules.Slack = s.longest
	}
	if s.partial {
		rules.InitialSync = time.Time{}
	}
	if s.unanswered || s.list.NoGet != 0 || s.list.MaxOffset != 0 {
		// Who can't be asked for is given up as last seen.
		rules.Slack = 9*time.Hour + s.longest
	}
	if s.ours != 0 || !s.clockSet.IsZero() {
		// Ages that began by one clock and end by another are off by what lies
		// between the two; what is late by that is not demanded.
		rules.Slack, rules.InitialSync = 9*time.Hour, time.Time{}
		since := s.clockSet
		if since.Before(s.lasted) {
			since = s.lasted
		}
		rules.Syncs = slices.DeleteFunc(slices.Clone(s.looks), func(k oracle.Sync) bool { return k.Start.Before(since.Add(5 * time.Hour)) })
	}
	truth, durable := oracle.NewTruth(s.opper, rules), s.durable
	if len(s.denied) > 0 {
		maps.DeleteFunc(truth.Traces, func(id string, _ oracle.Verdict) bool { return s.denied[id] })
		durable = slices.DeleteFunc(slices.Clone(durable), func(c oracle.Counted) bool { return s.denied[c.ID] })
	}
	if err := truth.Check(durable); err != nil {
		s.fail("%v", err)
	}
	if want, err := truth.Sums(); err == nil {
		if got := oracle.SumOf(durable); !maps.Equal(got.By, want.By) || !maps.Equal(got.Tokens, want.Tokens) {
			s.fail("the sums are %+v, want %+v", got, want)
		}
	}
}

// checkRefusal fails if syncs keep failing, though Opper answered all that they
// asked for, and the list is to be known as ours: a sync that failed demands
// nothing of what is counted, and what expires meanwhile is lost.
func (s *simulation) checkRefusal(start time.Time, succeeded, wasOurs bool) {
	switch {
	case succeeded:
		s.refusals = 0
	case s.disturbed:
	case wasOurs && s.isOurs() || s.hasTurnedOver(start):
		most := maxRefusals
		if s.poison > 0 {
			most = maxRefusalsByRow
		}
		if s.refusals++; s.refusals > most {
			s.fail("%d syncs in a row failed, though nothing was wrong with what they read: %v", s.refusals, s.trouble)
		}
	}
}

// isOurs reports whether something ties the list to what is known.
func (s *simulation) isOurs() bool {
	rows := s.opper.Snapshot()
	if deepest := s.list.MaxOffset; deepest > 0 && s.list.NoGet != 0 {
		rows = rows[:min(deepest, len(rows))]
	}
	known := s.project.ledger.HasSeen
	if s.relist > 0 {
		// A row that was deleted and comes back may stand where only a complete walk
		// meets it, and nothing else may be left of what was listed: that is like
		// another project's list.
		known = func(id ledger.ID) bool { return s.project.ledger.Index(id) >= 0 }
	}
	return len(rows) == 0 || s.project.ledger.IsInitialSync() || slices.ContainsFunc(rows, func(tr oppertest.Trace) bool {
		return tr.ID != "" && s.isReadable(tr.ID) && known(ledger.KeyOf(tr.ID))
	})
}

func (s *simulation) isReadable(id string) bool {
	_, dim := s.dims[id]
	return !dim && !s.poisoned[id]
}

// hasTurnedOver reports whether the exporter must see that all that it knew has
// expired: for long enough it has seen how long traces stay, where nothing
// misleads it about that.
func (s *simulation) hasTurnedOver(start time.Time) bool {
	stay := s.list.Retention
	byAge := s.list.SortBy == oppertest.ByArrival || s.list.SortBy == oppertest.ByStart
	if stay == 0 || s.every == 0 || !byAge || s.remove+s.backdate+s.clock > 0 || s.clients != 0 || s.ours != 0 || s.ended.IsZero() {
		return false
	}
	return s.sawExpiry && start.Sub(s.savedAt) >= stay+stay/2+turnoverMargin
}

// recognizable reports whether another list can be told from ours for sure: the
// last good sync is so close that no known row has left since, of those that
// arrived last.
func (s *simulation) recognizable() bool {
	if s.project.ledger.IsInitialSync() || s.mayMislead() {
		return false
	}
	stay := s.list.Retention
	if stay > 0 && s.clients != 0 {
		return false
	}
	return slices.ContainsFunc(s.opper.Snapshot(), func(tr oppertest.Trace) bool {
		young := stay == 0 || s.at.Sub(s.arrived[tr.ID]) < stay/2
		return tr.ID != "" && young && s.isReadable(tr.ID) && s.project.ledger.Index(ledger.KeyOf(tr.ID)) >= 0
	})
}

// mayMislead reports whether an exporter may think that what it knew has expired
// since the last good sync, as long as another list answers.
func (s *simulation) mayMislead() bool {
	most := longestMoved
	if stay := s.list.Retention; stay > 0 {
		most = min(most, stay/4)
	}
	if s.remove > 0 {
		// What is deleted by hand at the end looks like what has expired.
		most = time.Minute
	}
	return s.at.Sub(s.goodAt) > most || s.clockSet.After(s.goodAt)
}

// blinded notes that rows may have been taken for unreadable.
func (s *simulation) blinded() {
	if s.blind.IsZero() {
		s.blindSince = s.at
	}
	s.blind, s.seeing = s.at, 0
}

// sees reports whether a sync that began at some time has read all rows, as far
// as they could be.
func (s *simulation) sees(start time.Time) bool {
	if s.list.SortBy == oppertest.ByUpdate && s.project.syncer.IsUnsorted() {
		return false // its rows do not show where news are: only sweeps find them
	}
	if s.poison > 0 {
		return s.blind.IsZero() && s.project.ledger.Hole(0, s.project.ledger.Listed()) < 0
	}
	if s.blind.IsZero() {
		return true
	}
	again := s.blind.Add(max(rereadSoon, 2*s.blind.Sub(s.blindSince)))
	if start.Before(again) || s.seeing < rereadSyncs {
		return false
	}
	s.blind = time.Time{}
	return true
}

// checkLateEnds looks for abandoned traces whose end a complete walk met since
// some time, and that were not noted as ended after all.
func (s *simulation) checkLateEnds(since time.Time) {
	if !slices.ContainsFunc(s.looks, func(k oracle.Sync) bool { return k.Full && k.Start.After(since) }) {
		return
	}
	for _, c := range s.durable {
		if tr, listed := s.opper.Get(c.ID); listed && tr.End != nil && c.Outcome == "abandoned" && !s.lateEnds[c.ID] && !s.poisoned[c.ID] {
			s.fail("the late end of trace %s was not noted", c.ID)
		}
	}
}
