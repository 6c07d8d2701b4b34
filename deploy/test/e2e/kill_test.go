package e2e_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

var kills = flag.Int("kills", 16, "how often TestCountsSurviveSIGKILL and TestCostsSurviveSIGKILL kill each of their exporters")

const (
	// early kills come within the first requests, before a long initial sync ends.
	early = 6
	// scrapeEvery is short, so that what is shown too early is seen.
	scrapeEvery = 5 * time.Millisecond
	// patience is far above what any awaited condition needs.
	patience = 2 * time.Minute
)

// However often and whenever it is killed, an exporter never exposes a number that
// falls later, and in the end each trace is counted once.
func TestCountsSurviveSIGKILL(t *testing.T) {
	t.Parallel()
	agents := []oppertest.Agent{
		{Name: "quick", Rate: 25, Median: 60 * time.Millisecond, Spread: 0.6, Failure: 0.1, Tokens: 300},
		{Name: "steady", Rate: 15, Median: 250 * time.Millisecond, Spread: 0.5, Failure: 0.02, Tokens: 2000},
		{Name: "slow", Rate: 5, Median: 1500 * time.Millisecond, Spread: 0.8, Failure: 0.3, Tokens: 50000},
		{Name: "rare", Rate: 0.5, Median: 100 * time.Millisecond, Spread: 0.3},
	}
	for i := range agents {
		a := &agents[i]
		a.Running, a.Rename = 0.7, 0.05
		a.LateTokens, a.LateTokensRatio = 80*time.Millisecond, 0.3
		a.LateStatus, a.LateStatusRatio = 50*time.Millisecond, 0.1
		a.BackDate = 100 * time.Millisecond
	}

	t.Run("without retention", func(t *testing.T) {
		t.Parallel()
		s := oppertest.New(oppertest.Config{Seed: 11, Latency: 2 * time.Millisecond})
		s.FillHistory(2500, 8, time.Now().Add(-5*time.Hour), time.Now().Add(-2*time.Hour))
		k := newKiller(t, s, oracle.Rules{Settle: 200 * time.Millisecond, Abandon: time.Hour})
		k.killAll(oppertest.NewTraffic(s, agents, 11))

		ended := 0
		for _, tr := range s.Snapshot() {
			if tr.End != nil {
				ended++
			}
		}
		last := k.settled(func(r *exportertest.Reading) error {
			if counted := r.Lasting.Total("opper_traces_total", ""); counted != float64(ended) {
				return fmt.Errorf("%v traces are counted, want %d", counted, ended)
			}
			return nil
		})
		if n := last.Lasting.Total("opper_traces_total", `outcome="abandoned"`) + last.Lasting.Total("opper_exporter_traces_skipped_total", ""); n != 0 {
			t.Errorf("%v traces are abandoned or never counted", n)
		}
	})

	t.Run("expiring", func(t *testing.T) {
		t.Parallel()
		agents := append([]oppertest.Agent{
			{Name: "hanging", Rate: 2, Median: 200 * time.Millisecond, Spread: 0.5, NeverEnds: 0.5},
		}, agents...)
		s := oppertest.New(oppertest.Config{Seed: 12, Latency: 2 * time.Millisecond, Retention: 6 * time.Second})
		traffic := oppertest.NewTraffic(s, agents, 12)
		traffic.Backfill(time.Now().Add(-6*time.Second), time.Now())
		k := newKiller(t, s, oracle.Rules{Settle: 200 * time.Millisecond, Abandon: time.Second})
		k.killAll(traffic)

		last := k.settled(func(r *exportertest.Reading) error {
			if n := r.Rest.Total("opper_traces_listed", "") + r.Rest.Total("opper_traces_open", ""); n > 0 {
				return fmt.Errorf("%v traces are listed or open still", n)
			}
			return nil
		})
		if last.Lasting.Total("opper_traces_total", `outcome="abandoned"`) == 0 {
			t.Error("no trace is abandoned")
		}
	})
}

// killer kills an exporter under a watcher, and starts it again with the same
// state.
type killer struct {
	*watcher
	s       *oppertest.Server
	rules   oracle.Rules
	command func() *exportertest.Process
}

func newKiller(t *testing.T, s *oppertest.Server, rules oracle.Rules) *killer {
	t.Helper()
	url, dir := opper(t, s), t.TempDir()
	rules.InitialSync = time.Now()
	// The server and the exporter may round to different sides.
	rules.Slack = time.Millisecond
	return &killer{s: s, rules: rules, watcher: newWatcher(t), command: func() *exportertest.Process {
		return start(t, url, "--storage.path="+dir, "--collector.interval=50ms",
			"--collector.settle-delay="+rules.Settle.String(), "--collector.abandon-after="+rules.Abandon.String())
	}}
}

// killAll kills one exporter after the other while traffic goes on. When it
// returns, the traffic has stopped, and a last exporter runs.
func (k *killer) killAll(traffic *oppertest.Traffic) {
	ctx, stop := context.WithCancel(k.t.Context())
	var stepping sync.WaitGroup
	stepping.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			traffic.Step(time.Now())
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	defer stepping.Wait()
	defer stop()

	var left atomic.Int64
	k.s.OnRequest(func(oppertest.Request) { left.Add(-1) })
	rng := rand.New(rand.NewPCG(uint64(*kills), 1))
	soon := func(maximum time.Duration) { <-time.After(time.Duration(rng.Int64N(int64(maximum)))) }
	asked := func(n int64) {
		left.Store(1 + rng.Int64N(n))
		k.await(func() bool { return left.Load() <= 0 })
	}
	for i := range *kills {
		p := k.command()
		k.watch(p)
		switch kind := i % 4; {
		case i < early:
			asked(16)
		case kind == 0: // while it starts, and in its first syncs
			soon(100 * time.Millisecond)
		case kind == 1: // when a scrape has just shown more than any before
			k.await(func() bool { return k.rises > 0 })
		default: // in the middle of a sync, or at its end
			k.await(func() bool { return k.scrapes > 0 })
			asked(40)
			if kind == 3 {
				soon(8 * time.Millisecond)
			}
		}
		p.MustRun(k.t)
		if err := p.Cmd.Process.Kill(); err != nil {
			k.t.Error(err)
		}
		<-p.Ended()
		if status, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			k.t.Fatalf("exporter %d ended by itself: %v", i, p.Cmd.ProcessState)
		}
	}
	k.watch(k.command())
	k.await(func() bool { return k.rises > 0 })
}

// settled waits until all that has to be counted is, and done says that the
// exporter has nothing left to count. It returns the last scrape.
func (k *killer) settled(done func(*exportertest.Reading) error) *exportertest.Reading {
	k.t.Helper()
	var last *exportertest.Reading
	promtest.Eventually(k.t, func() error {
		k.mu.Lock()
		last = k.last
		syncEnds := k.syncEnds
		k.mu.Unlock()
		k.sound()
		return errors.Join(done(last), k.check(last, syncEnds))
	})
	return last
}

// check compares a scrape with the ground truth. The error is that something is
// not counted yet; what is there must not be more than the truth.
func (k *killer) check(r *exportertest.Reading, syncEnds []time.Time) error {
	k.t.Helper()
	rules := k.rules
	rules.InitialSyncDone, rules.Syncs = syncEnds[0], syncs(syncEnds)
	// Asked after the scrape: what the truth allows only grows.
	minimum, maximum := exportertest.Bounds(oracle.NewTruth(k.s, rules))
	for key, v := range r.Lasting {
		high := maximum[key]
		switch {
		case strings.HasPrefix(key, "opper_exporter_gaps_total"), strings.HasPrefix(key, "opper_exporter_overflow_traces_total"):
			high = 0
		case strings.HasPrefix(key, "opper_exporter_"):
			continue
		}
		if v > high+high*exportertest.Rounding {
			k.t.Fatalf("%s is %v, and may be at most %v", key, v, high)
		}
	}
	for key, low := range minimum {
		if v, ok := r.Lasting[key]; !ok || v < low-low*exportertest.Rounding {
			return fmt.Errorf("%s is %v, and must be at least %v", key, v, low)
		}
	}
	certain, possible := minimum.Total("opper_traces_total", ""), maximum.Total("opper_traces_total", "")
	if certain < possible/2 {
		return fmt.Errorf("only %v of up to %v counts are certain", certain, possible)
	}
	return nil
}
