package syncer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// However many traces arrive, and whatever happens meanwhile, a sync takes in few at
// once, and those that follow count the rest.
func TestBurstInSteps(t *testing.T) {
	const taken, burst = 250, 2000
	for order, cfg := range orders {
		for name, during := range map[string]func(b *bench, step int){
			"nothing else": func(*bench, int) {},
			"restarts":     func(b *bench, _ int) { b.restart() },
			"more bursts": func(b *bench, step int) {
				b.arrive(fmt.Sprint("more ", b.now()), max(0, 400-100*step), time.Millisecond)
			},
			"single traces": func(b *bench, _ int) { b.arrive(fmt.Sprint("more ", b.now()), 1, time.Second) },
			"deletions": func(b *bench, step int) {
				rows, _, _ := b.opper.List(100*step, 15)
				for _, row := range rows {
					b.opper.Delete(row.ID)
				}
			},
		} {
			for _, noGet := range []int{0, 405} {
				t.Run(fmt.Sprintf("%s/%s/%d", order, name, noGet), func(t *testing.T) {
					cfg.NoGet = noGet
					b := newBench(t, cfg)
					b.syncer.cfg.MaxTaken = taken
					b.arrive("first", 30, time.Second)
					b.mustSync()
					b.quiet()
					b.arrive("burst", burst, 10*time.Millisecond)
					b.step(time.Second)
					for range 3 {
						b.steps(3*(taken+maxLimit), during)
						b.step(settle + time.Second)
					}
					b.check()
				})
			}
		}
	}
}

// steps runs syncs as long as the next one follows at once. It fails the test if one takes
// in more traces than a maximum.
func (b *bench) steps(most int, during func(b *bench, step int)) {
	b.t.Helper()
	const endless = 100
	for step := 0; step == 0 || b.syncer.IsBehind(); step++ {
		start := b.now()
		ev, err := syncAll(context.Background(), b.syncer, b.client.WithRetries(0))
		if b.take(ev); err != nil || step == endless {
			b.t.Fatalf("step %d: %v\n%s", step, err, b.log.String())
		}
		if n := len(ev.FirstSeen) + len(ev.Counted); n > most {
			b.t.Errorf("step %d took in %d traces", step, n)
		}
		if !b.syncer.IsBehind() {
			b.syncs = append(b.syncs, oracle.Sync{Start: start, End: b.now()})
		}
		during(b, step)
	}
}

// A sweep that has ended is completed by the sync that has read all of a burst.
func TestSweepEndsWithinABurst(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.syncer.cfg.MaxTaken = 250
	b.arrive("first", 300, time.Second)
	b.mustSync()
	b.step(sweepEvery)
	b.sweep(100)
	if sweep := b.syncer.known.Sweep; sweep == nil || !sweep.Done {
		t.Fatal("the sweep has not ended")
	}
	b.arrive("burst", 2000, time.Millisecond)
	b.step(time.Minute)
	b.mustSync()
	if b.syncer.known.Sweep != nil || b.syncer.known.LastFullScan.Before(b.now()) {
		t.Errorf("the sweep is %+v, the last full scan was at %v, now is %v", b.syncer.known.Sweep, b.syncer.known.LastFullScan, b.now())
	}
	b.quiet()
	b.check()
}

// Where a list that is not ours, or an empty one, answers for a while, what earlier syncs
// have left is still read, without a sweep.
func TestBurstWhileAnotherListAnswers(t *testing.T) {
	for order, cfg := range orders {
		for _, theirs := range []int{0, 40, 3000} {
			for _, answers := range []int{-1, 4, 5, 6, 7} {
				t.Run(fmt.Sprintf("%s/%d rows/%d answers", order, theirs, answers), func(t *testing.T) {
					b := newBench(t, cfg)
					b.syncer.cfg.MaxTaken = 250
					b.arrive("first", 900, time.Second)
					b.mustSync()
					b.quiet()
					b.arrive("burst", 1000, 10*time.Millisecond)
					b.step(time.Second)
					if _, err := syncAll(t.Context(), b.syncer, b.client.WithRetries(0)); err != nil || !b.syncer.IsBehind() {
						t.Fatalf("error %v, behind %v", err, b.syncer.IsBehind())
					}
					other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
					other.FillHistory(theirs, 3, b.now().Add(-2*time.Hour), b.now())
					b.opper.Fail(oppertest.Fault{After: 2, Times: answers, Answer: oppertest.OtherProject(other)})
					if err := b.sync(); err == nil && answers < 0 {
						t.Error("no error")
					}
					b.opper.Clear()
					b.mustSync()
					if n := b.ledger.Listed(); n != 1900 {
						t.Errorf("%d listed, want 1900", n)
					}
				})
			}
		}
	}
}
