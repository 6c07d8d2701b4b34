package syncer

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/ledgertest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

const (
	settle  = 30 * time.Second
	abandon = time.Hour
	// Long tests see several sweeps, short ones none that nothing asked for.
	sweepEvery = 20 * time.Minute
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// bench is a Syncer against an Opper in memory, with one fake clock for both.
type bench struct {
	t       testing.TB
	mu      sync.Mutex // pages that are read at once share the clock
	at      time.Time
	opper   *oppertest.Server
	key     string // says whose list is asked for
	client  *opper.Client
	ledger  *ledger.Ledger
	syncer  *Syncer
	log     strings.Builder
	counted []oracle.Counted
	events  ledger.Events
	syncs   []oracle.Sync
	began   time.Time
	done    time.Time

	sweepBegan time.Time
	stored     map[string][]byte // of the ledger, at the last restart
}

func newBench(t testing.TB, cfg oppertest.Config) *bench {
	t.Helper()
	b := &bench{t: t, at: epoch, key: "ours"}
	cfg.Now = b.now
	b.opper = oppertest.New(cfg)
	server := httptest.NewServer(b.opper)
	t.Cleanup(server.Close)
	key, err := opper.FixedKey("key")
	if err != nil {
		t.Fatal(err)
	}
	b.client, err = opper.New(opper.Options{URL: server.URL, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	b.ledger = ledger.New(ledger.Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: time.Second})
	b.syncer = New(Config{
		Now: b.now, Interval: 30 * time.Second, SweepInterval: sweepEvery, Concurrency: 1,
		Key: func() string { return b.key }, Logger: log.NewLogfmtLogger(&b.log),
	}, b.ledger)
	return b
}

// sync does one sync, in no time.
func (b *bench) sync() error {
	initialSync := b.ledger.IsInitialSync()
	start := b.now()
	for isBehind := true; isBehind; isBehind = b.syncer.IsBehind() {
		ev, err := syncAll(context.Background(), b.syncer, b.client.WithRetries(0))
		b.take(ev)
		if err != nil {
			return err
		}
	}
	if initialSync {
		b.began, b.done = start, b.now()
	} else {
		b.syncs = append(b.syncs, oracle.Sync{Start: start, End: b.now()})
		if end := b.syncer.known.LastFullScan; end.Equal(b.now()) && !b.sweepBegan.IsZero() {
			b.syncs = append(b.syncs, oracle.Sync{Start: b.sweepBegan, End: end, Full: true})
		}
	}
	return nil
}

func (b *bench) take(ev ledger.Events) {
	b.events.Gaps += ev.Gaps
	b.events.NoID += ev.NoID
	for _, c := range ev.Counted {
		b.counted = append(b.counted, ledgertest.Version(c))
	}
}

// sweep reads up to n pages of a sweep, if one is due.
func (b *bench) sweep(n int) {
	b.t.Helper()
	for ; n > 0 && b.syncer.IsSweepDue(); n-- {
		if b.syncer.known.Sweep == nil {
			b.sweepBegan = b.now()
		}
		ev, err := b.syncer.Sweep(context.Background(), b.client.WithRetries(0))
		b.take(ev)
		if err != nil {
			b.t.Fatalf("sweep: %v", err)
		}
	}
}

// restart continues from what is stored.
func (b *bench) restart() {
	b.t.Helper()
	state, err := b.syncer.State()
	if err != nil {
		b.t.Fatal(err)
	}
	before := b.ledger
	b.ledger = ledger.New(ledger.Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: time.Second})
	stored := map[string][]byte{}
	maps.Copy(stored, b.stored)
	before.Changes(func(key string, body []byte) { stored[key] = body })
	before.Committed()
	maps.DeleteFunc(stored, func(_ string, body []byte) bool { return body == nil })
	b.stored = stored
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		if err := b.ledger.Restore(key, stored[key]); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.ledger.EndRestore(b.now()); err != nil {
		b.t.Fatal(err)
	}
	b.syncer = New(b.syncer.cfg, b.ledger)
	if err := b.syncer.Restore(state); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) mustSync() {
	b.t.Helper()
	if err := b.sync(); err != nil {
		b.t.Fatalf("sync: %v\n%s", err, b.log.String())
	}
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) step(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *bench) truth() oracle.Truth {
	return oracle.NewTruth(b.opper, oracle.Rules{Settle: settle, Abandon: abandon, InitialSync: b.began, InitialSyncDone: b.done, Syncs: b.syncs})
}

func (b *bench) check() {
	b.t.Helper()
	if err := b.truth().Check(b.counted); err != nil {
		b.t.Fatalf("%v\n%s", err, b.log.String())
	}
}

var lists = map[string]oppertest.Config{
	"newest first by arrival": {},
	"oldest first by arrival": {OldestFirst: true},
	"newest first by start":   {SortBy: oppertest.ByStart},
	"oldest first by start":   {SortBy: oppertest.ByStart, OldestFirst: true},
	"newest first by update":  {SortBy: oppertest.ByUpdate},
	"by id":                   {SortBy: oppertest.ByID},
}

// A history is counted once and whole; after that, an idle sync costs two
// requests however long the list is, and new traces cost their pages.
func TestRequestsFollowNewTraces(t *testing.T) {
	for name, cfg := range lists {
		if cfg.SortBy == oppertest.ByID {
			continue
		}
		t.Run(name, func(t *testing.T) {
			history := 5_000
			if cfg.SortBy == oppertest.ByArrival {
				history = 100_000
			}
			b := newBench(t, cfg)
			b.opper.FillHistory(history, 40, epoch.Add(-20*24*time.Hour), epoch.Add(-time.Hour))
			b.mustSync()
			b.check()
			if len(b.counted) != history {
				t.Fatalf("the initial sync counted %d", len(b.counted))
			}
			for range 3 {
				b.step(30 * time.Second)
				b.opper.ResetRequests()
				b.mustSync()
				if n := b.opper.RequestCount(); n > 2 {
					t.Errorf("an idle sync made %d requests: %v", n, b.opper.Requests())
				}
			}
			const arrivals = 500
			for i := range arrivals {
				b.opper.Add(endedTrace(fmt.Sprintf("new %d", i), b.now()))
			}
			// Besides the pages: a small one at first, the tail, and the lookup of a known id.
			for _, what := range []string{"arrive", "settle"} {
				b.step(settle + time.Second)
				b.opper.ResetRequests()
				b.mustSync()
				if n, maximum := b.opper.RequestCount(), int(math.Ceil(arrivals/float64(maxLimit-overlap)))+3; n > maximum {
					t.Errorf("%d requests as %d traces %s, want at most %d", n, arrivals, what, maximum)
				}
			}
			b.check()
			if len(b.counted) != history+arrivals {
				t.Errorf("counted %d", len(b.counted))
			}
		})
	}
}

func endedTrace(name string, at time.Time) oppertest.Trace {
	start, status, tokens, ms := at.Add(-time.Second), "success", int64(7), 1000.0
	return oppertest.Trace{
		ID: ledger.KeyOf(name).String(), Name: &name, Status: &status, Start: &start, End: &at, DurationMS: &ms, Tokens: &tokens,
	}
}

var (
	seed  = flag.Int64("seed", -1, "run only this schedule of a moving list")
	seeds = flag.Int64("seeds", 1, "run this many schedules of each moving list")
)

// Whatever happens to the list between any two page reads, no trace is counted
// twice or wrongly, and none that must be is missing.
func TestMovingList(t *testing.T) {
	for name, cfg := range lists {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if *seed >= 0 {
				movingList(t, cfg, *seed)
				return
			}
			for seed := range *seeds {
				movingList(t, cfg, seed)
			}
		})
	}
}

func movingList(t *testing.T, cfg oppertest.Config, seed int64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(seed), 7))
	cfg.Seed = seed
	if rng.IntN(2) == 0 {
		cfg.Retention = time.Duration(20+rng.IntN(100)) * time.Minute
	}
	b := newBench(t, cfg)
	agents := oppertest.DefaultAgents()
	for i := range agents {
		agents[i].Rate *= rng.Float64() * 2
		agents[i].BackDate = time.Duration(rng.IntN(90)) * time.Second
	}
	traffic := oppertest.NewTraffic(b.opper, agents, seed)
	traffic.Backfill(epoch.Add(-time.Duration(1+rng.IntN(90))*time.Minute), epoch)
	var mu sync.Mutex
	b.opper.OnRequest(func(oppertest.Request) {
		mu.Lock()
		defer mu.Unlock()
		b.step(time.Duration(rng.IntN(400)) * time.Millisecond)
		traffic.Step(b.now())
		if rng.IntN(20) == 0 {
			if rows := b.opper.Snapshot(); len(rows) > 0 {
				i := rng.IntN(len(rows))
				for _, r := range rows[i:min(len(rows), i+rng.IntN(4))] {
					b.opper.Delete(r.ID)
				}
			}
		}
	})
	fail := func(err error) {
		t.Fatalf("seed %d: %v\n%s", seed, err, b.log.String())
	}
	for range 30 + rng.IntN(30) {
		if err := b.sync(); err != nil && !strings.Contains(err.Error(), errMoving.Error()) {
			fail(err)
		}
		if !b.ledger.IsInitialSync() {
			b.sweep(rng.IntN(60))
		}
		b.step(time.Duration(1+rng.IntN(40)) * time.Second)
		traffic.Step(b.now())
	}
	if err := oracle.NewTruth(b.opper, oracle.Rules{
		Settle: settle, Abandon: abandon, InitialSync: b.began, InitialSyncDone: b.done, Syncs: b.syncs, Slack: time.Minute,
	}).Check(b.counted); err != nil {
		fail(err)
	}
}

// syncAll runs a sync and returns the events of all its parts.
func syncAll(ctx context.Context, s *Syncer, src Source) (ev ledger.Events, err error) {
	for part, failure := range s.Sync(ctx, src) {
		ev.FirstSeen = append(ev.FirstSeen, part.Events.FirstSeen...)
		ev.Counted = append(ev.Counted, part.Events.Counted...)
		ev.Vanished = append(ev.Vanished, part.Events.Vanished...)
		ev.LateEnds = append(ev.LateEnds, part.Events.LateEnds...)
		ev.NoID += part.Events.NoID
		ev.Gaps += part.Events.Gaps
		err = failure
	}
	return ev, err
}
