package simulation

import (
	"cmp"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// epoch is when schedules begin.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var (
	replay    = flag.Int64("seed", -1, "run only the schedule of this seed, and tell what happens in it")
	schedules = flag.Int("schedules", 1_500, "how many schedules of the simulator to run")
	first     = flag.Int("first", 0, "the seed of the first of them")
)

// plan says what a schedule is made of. Troubles happen once in so many
// chances, and never if that is 0.
type plan struct {
	list    oppertest.Config
	history int           // traces listed at the start
	orderly bool          // they arrived in the order of their starts, so the list is found to be sorted
	steps   int           // syncs and what lies between them
	short   int           // the maximum of rows that a page gives, whatever it is asked for; 0 means that there is no such limit
	clients time.Duration // how far the clients' clocks are ahead at most, behind if negative
	ours    time.Duration // how far our clock is ahead of Opper's
	names   int           // names with aggregates of their own
	expiry  time.Duration // of names; 0 is never
	onDisk  bool          // use the real store
	quiet   bool          // nothing but arrivals, ends and expiry: no gap may be counted
	cancel  bool          // as many traces arrive behind the newest as expire

	every      time.Duration // between two arrivals; 0 means that there are only those of changes
	idle       bool          // nothing else happens to the list
	old        time.Duration // how long ago the history arrived
	sweepEvery time.Duration
	taken      int // see syncer.Config.MaxTaken

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
	empty                            int // nothing seems to be listed for a moment
}

// What is demanded of the exporter, beyond what a sync that ended well has seen.
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
	// last good sync must have expired, and must not if that can't be. Between
	// the two it is up to the exporter, as it can only guess the retention.
	turnoverMargin = 10 * time.Minute
	// longestZero is how long zeros are exposed that no scraper reads.
	longestZero  = 10 * time.Minute
	longestMoved = 20 * time.Minute
	// A list that was never empty for so long need not be believed to be. Trouble that
	// empties a list lasts less than that.
	longestDoubt = 2 * time.Minute
	longestEmpty = time.Minute
)

// simulation drives a project through a schedule, by one goroutine and one fake
// clock, and watches that its promises are kept at each step.
type simulation struct {
	plan
	t     testing.TB
	name  string // of the schedule, for its reader
	pick  func(n int) int
	calm  bool // nothing goes wrong and nothing changes any more
	log   strings.Builder
	tells bool

	at       time.Time // as Opper has it
	clockSet time.Time // when our clock was last set

	subject
	world
	troubles
	durables
	exposed
	uses
	view
	look
}

// subject is the project under test, and what it is made of.
type subject struct {
	cfg        config.Project
	newProject func(config.Project, Deps) Project
	project    Project
	running    aggregate.Config // of the project
	stored     aggregate.Config // of the one that committed last
	failing    bool             // the last sync failed
	goodSince  time.Time        // no sync has failed, at the end
	logger     log.Logger
	trouble    error // the last one that was logged
	inner      Store
	reopen     func() Store // what a start finds
}

// world is what Opper lists.
type world struct {
	opper, other *oppertest.Server
	ids, open    []string
	left         map[string]time.Time // deleted by hand, and when
	arrived      map[string]time.Time // the latest of each
	poisoned     map[string]bool      // rows that can't be read
	denied       map[string]bool      // traces that need not be counted
	made         int
	listed       int       // at the last step
	next         time.Time // when the next of the traces arrives that come at an interval
}

// troubles are under way.
type troubles struct {
	dims      map[string]time.Time // rows that can't be read, and until when
	badness   int                  // requests that fail from now on, as the last one did
	badAnswer error
	down      int  // syncs of which every request fails
	strangers bool // another project's list answers
	away      int  // for so many syncs
	wrong     int  // syncs in which lists are not what was asked for
	wrongBy   lie
	salt      int       // of the rows that an endless list makes up
	emptyTo   time.Time // nothing seems to be listed until then
	emptyAll  bool      // nor is there any single trace
	full      int       // commits that fail
}

// durables are what is durable of what the project counted.
type durables struct {
	counting ledger.Events // since the last commit
	durable  []oracle.Counted
	checked  map[string]bool   // ids of these
	lateEnds map[string]bool   // ids of abandoned traces that ended after all
	totals   map[string]uint64 // traces by published name
}

// exposed is what is published.
type exposed struct {
	last     []prometheus.Metric
	families map[*prometheus.Desc]string
	before   map[prometheus.Metric]string // its metrics, and the names of their series
	shown    map[string]*dto.Metric       // counters and histograms ever published, as last seen
	zero     map[string]*zeros            // what began at 0 after the initial sync and is still there, by group
	past     map[string]uint64            // traces of names that expired, as totals
	strict   bool                         // nothing may be zero-pending any more
}

// uses are of names that may expire: when each was used last, as far as that is durable,
// and since the last commit; the traces that each has had, and when one of them was last
// listed; and from when on one that expired may begin again.
type uses struct {
	used, recent, expired  map[string]time.Time
	named                  map[string]map[ledger.ID]bool
	wasListed              map[string]time.Time
	syncBegan, durableFrom time.Time // by our clock: the sync, and that of the last commit
}

// view is what syncs could see of the list, over time.
type view struct {
	initialSync, ended, lasted time.Time // the initial sync began, ended, was durable
	partial                    bool      // the initial sync could not read all
	sweepBegan, sweepLasts     time.Time // the sweep under way, and the durable one
	looks                      []oracle.Sync
	syncs                      int
	refusals                   int           // syncs in a row that failed for no reason
	emptySince                 time.Time     // syncs of which no answer was wrong found nothing listed
	goodAt, savedAt            time.Time     // the last good sync began, the last commit
	watching                   time.Time     // good syncs have followed each other closely since then
	sawExpiry                  bool          // for long enough to see how long traces stay
	lied                       time.Time     // the last answer that was a lie
	unanswered                 bool          // Opper did not say what became of a trace
	longest                    time.Duration // of a sync
	blind, blindSince          time.Time     // rows may have been taken for unreadable then, and at first
	seeing                     int           // good syncs since
	gaps                       uint64        // counted until the last look
}

// look is what happened in one sync.
type look struct {
	requests          int  // also in one page of a sweep
	spoiled           bool // an answer was a lie
	disturbed         bool // it was, or a request failed
	gotOurs, gotOther bool // some list was ours, or another one
	untied            bool // a page had no row that was believed to be listed
	certain           bool // another list can be told from ours, however long it took so far
	wasUnsorted       bool // the list was, when the sync began
	saidNo            bool // another project was asked for a trace
	committed         bool // the last commit is durable, and known to be
}

type crash struct{}

// zeros is a group of series that are exposed at 0. They rise together: the counters, the
// durations or the tokens of a name.
type zeros struct {
	since    time.Time // this process exposes them
	read     bool      // since then
	hasEnded bool      // and that may be durable
}

func newSimulation(t testing.TB, target Target, name string, pick func(n int) int, p plan) *simulation {
	t.Helper()
	s := &simulation{
		plan: p, t: t, name: name, pick: pick, tells: *replay >= 0, at: epoch,
		subject:  subject{cfg: target.Config},
		world:    world{left: map[string]time.Time{}, arrived: map[string]time.Time{}, poisoned: map[string]bool{}, denied: map[string]bool{}},
		troubles: troubles{dims: map[string]time.Time{}},
		durables: durables{checked: map[string]bool{}, lateEnds: map[string]bool{}, totals: map[string]uint64{}},
		exposed:  exposed{families: map[*prometheus.Desc]string{}, shown: map[string]*dto.Metric{}, zero: map[string]*zeros{}, past: map[string]uint64{}},
		uses: uses{
			used: map[string]time.Time{}, recent: map[string]time.Time{}, expired: map[string]time.Time{},
			named: map[string]map[ledger.ID]bool{}, wasListed: map[string]time.Time{},
		},
	}
	key, err := opper.FixedKey("key")
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Opper = opper.Options{Key: key, Header: http.Header{}}
	p.list.Now = func() time.Time { return s.at }
	s.opper = oppertest.New(p.list)
	s.reopen = func() Store { return s.inner }
	s.inner = new(storetest.Memory)
	if p.onDisk {
		dir := t.TempDir()
		s.reopen = func() Store {
			if old, ok := s.inner.(*store.Store); ok {
				if err := old.Close(); err != nil {
					t.Fatal(err)
				}
			}
			next, err := store.Open(dir)
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
	s.newProject = func(cfg config.Project, deps Deps) Project {
		project, err := target.Open(cfg, deps)
		if err != nil {
			t.Fatal(err)
		}
		return project
	}
	s.cfg.Concurrency = 1
	s.cfg.Interval, s.cfg.SweepInterval = 30*time.Second, cmp.Or(p.sweepEvery, 20*time.Minute)
	s.cfg.Aggregate.MaxNames, s.cfg.Aggregate.NameExpiry = p.names, p.expiry
	s.setBuckets()
	logfmt := log.NewLogfmtLogger(&s.log)
	s.logger = log.LoggerFunc(func(keyvals ...any) error {
		for i := 1; i < len(keyvals); i += 2 {
			if err, ok := keyvals[i].(error); ok {
				s.trouble = err
			}
		}
		if !s.tells {
			return nil
		}
		return logfmt.Log(keyvals...)
	})
	return s
}

// deps is the world as a project sees it.
func (s *simulation) deps(observe func(ledger.Events)) Deps {
	return Deps{
		Logger: s.logger, MaxTaken: s.taken, Now: s.now, Source: simulatedSource{s}, Store: disk{s}, Observe: observe,
		AllRead: func(time.Time) bool {
			if !s.calm && s.pick(3) > 0 {
				return false
			}
			for _, z := range s.zero {
				z.read = true
			}
			return true
		},
	}
}

func (s *simulation) now() time.Time { return s.at.Add(s.ours) }

func (s *simulation) tell(format string, args ...any) {
	if s.tells {
		fmt.Fprintf(&s.log, "%v %s\n", s.at.Sub(epoch), fmt.Sprintf(format, args...))
	}
}

func (s *simulation) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nafter %v: %s\n%s", s.name, s.at.Sub(epoch), fmt.Sprintf(format, args...), s.log.String())
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
