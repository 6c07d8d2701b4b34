package opper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sharedBench makes requests that wait for a limit, and records their order.
type sharedBench struct {
	t     *testing.T
	limit *SharedLimit
	began time.Time

	mu    sync.Mutex
	turns []string // what was served, with the time
}

// newSharedBench returns one whose limit has no tokens left. It must be called in
// a bubble of synctest.
func newSharedBench(t *testing.T, perSecond float64) *sharedBench {
	t.Helper()
	b := &sharedBench{t: t, limit: NewSharedLimit(perSecond), began: time.Now()}
	other := b.limit.project("other.example")
	for range int(b.limit.bucket.burst) {
		if err := other.wait(t.Context(), PrioritySync); err != nil {
			t.Fatal(err)
		}
	}
	if time.Since(b.began) != 0 {
		t.Fatal("the bucket was not full")
	}
	return b
}

// ask makes a request that waits, behind those that wait already.
func (b *sharedBench) ask(ctx context.Context, p *sharedProject, priority Priority, name string) {
	go func() {
		if err := p.wait(ctx, priority); err != nil {
			name += " failed"
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.turns = append(b.turns, fmt.Sprintf("%s %v", name, time.Since(b.began)))
	}()
	synctest.Wait()
}

func (b *sharedBench) check(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.turns, want) {
		b.t.Errorf("served\n%s\nwant\n%s", strings.Join(b.turns, "\n"), strings.Join(want, "\n"))
	}
}

// pass lets time pass in a bubble of synctest.
func pass(d time.Duration) { <-time.After(d) }

func TestSharedLimitServesByPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 2)
		first, second := b.limit.project("opper.example"), b.limit.project("opper.example")
		b.ask(t.Context(), first, PriorityInitialSync, "initial sync")
		b.ask(t.Context(), second, PrioritySweep, "sweep")
		b.ask(t.Context(), first, PriorityUsage, "usage")
		b.ask(t.Context(), second, PrioritySync, "sync")
		pass(600 * time.Millisecond)
		b.ask(t.Context(), first, PrioritySync, "later sync")
		pass(time.Hour)
		b.check("sync 500ms", "later sync 1s", "usage 1.5s", "sweep 2s", "initial sync 2.5s")
	})
}

func TestSharedLimitServesProjectsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 10)
		busy, busier := b.limit.project("opper.example"), b.limit.project("opper.example")
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			go func() { _ = busier.wait(ctx, PrioritySync) }()
		}
		synctest.Wait()
		for i := range 3 {
			b.ask(t.Context(), busy, PrioritySync, fmt.Sprint("busy ", i))
		}
		b.ask(t.Context(), b.limit.project("opper.example"), PrioritySync, "single")
		pass(time.Second)
		cancel()
		b.check("busy 0 200ms", "single 300ms", "busy 1 500ms", "busy 2 700ms")
		synctest.Wait()
		if b.limit.timer != nil {
			t.Error("a timer runs, and nothing waits")
		}
	})
}

// Syncs alone ask for more than the limit.
func TestSharedLimitStarvesNoPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 10)
		ctx, cancel := context.WithTimeout(t.Context(), 160*time.Second)
		defer cancel()
		var served [numPriorities]int
		for range 20 {
			p := b.limit.project("opper.example")
			for priority := range numPriorities {
				go func() {
					for p.wait(ctx, priority) == nil {
						b.mu.Lock()
						served[priority]++
						b.mu.Unlock()
					}
				}()
			}
		}
		<-ctx.Done()
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		for priority, n := range served {
			if Priority(priority) != PrioritySync && (n < 25 || n > 26) || Priority(priority) == PrioritySync && n < 1520 {
				t.Errorf("served %v of 1600, want one in 64 for each priority but that of syncs", served)
			}
		}
	})
}

func TestSharedLimitLosesNoTokenOfTheCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 1)
		p, other := b.limit.project("opper.example"), b.limit.project("opper.example")
		ctx, cancel := context.WithCancel(t.Context())
		b.ask(ctx, p, PrioritySync, "first")
		b.ask(t.Context(), p, PrioritySync, "second")
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		b.ask(ctx, other, PrioritySync, "third")
		cancel()
		pass(time.Minute)
		b.check("first failed 0s", "third failed 0s", "second 1s")

		// Canceled when it is its turn already.
		b = newSharedBench(t, 1)
		p = b.limit.project("opper.example")
		turn, err := p.join(t.Context(), PrioritySweep)
		if err != nil {
			t.Fatal(err)
		}
		b.ask(t.Context(), p, PrioritySweep, "next")
		<-turn
		p.leave(PrioritySweep, turn)
		synctest.Wait()
		b.check("next 1s")
	})
}

// Whatever is canceled when, the tokens add up, and the order is kept.
func TestSharedLimitAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 50)
		rng := rand.New(rand.NewPCG(1, 2))
		projects := []*sharedProject{b.limit.project("a.example"), b.limit.project("a.example"), b.limit.project("b.example")}
		asked, served := 0, 0
		var wg sync.WaitGroup
		for range 5000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3000))*time.Millisecond)
			p, priority := projects[rng.IntN(len(projects))], Priority(rng.IntN(int(numPriorities)))
			asked++
			wg.Go(func() {
				defer cancel()
				if p.wait(ctx, priority) == nil {
					b.mu.Lock()
					defer b.mu.Unlock()
					served++
				}
			})
			pass(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		wg.Wait()
		took := time.Since(b.began).Seconds()
		if possible := int(took * 50); served < possible-50 || served > possible+1 || asked == served {
			t.Errorf("%d of %d requests served in %vs, want all that 50 a second allow", served, asked, took)
		}
		for priority := range numPriorities {
			if n := len(b.limit.queues[priority]); n > 0 {
				t.Errorf("%d projects still wait at priority %d", n, priority)
			}
		}
		pass(time.Minute)
		for range 50 {
			if err := projects[0].wait(t.Context(), PrioritySync); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(b.began).Seconds() - took - 60; d > 1e-6 {
			t.Errorf("waited %v s for what a full bucket has", d)
		}
	})
}

func TestSharedLimitFailsAtOnceBeforeALateTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 1)
		p, other := b.limit.project("opper.example"), b.limit.project("opper.example")
		for range 3 {
			b.ask(t.Context(), other, PrioritySync, "other")
		}
		b.ask(t.Context(), other, PrioritySweep, "sweep")
		within := func(d time.Duration, priority Priority) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			began := time.Now()
			err := p.wait(ctx, priority)
			if took := time.Since(began); err != nil && took > 0 {
				t.Errorf("failed after %v", took)
			}
			return err
		}
		// The turns are that of the second sync, and behind three syncs and a sweep.
		for _, test := range []struct {
			priority Priority
			late     time.Duration
		}{{PrioritySync, 1900 * time.Millisecond}, {PrioritySweep, 4900 * time.Millisecond}, {PriorityInitialSync, 4900 * time.Millisecond}} {
			if err := within(test.late, test.priority); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("priority %d within %v: got %v, want the deadline", test.priority, test.late, err)
			}
		}
		if err := within(2100*time.Millisecond, PrioritySync); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		b.check("other 1s", "other 3s", "other 4s", "sweep 5s")
	})
}

func TestSharedLimitYieldsForOneHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 8)
		first, second, other := b.limit.project("opper.example"), b.limit.project("opper.example"), b.limit.project("elsewhere.example")
		check := func(what string, want float64) {
			t.Helper()
			if got := first.host.rate; got != want {
				t.Errorf("%s: got a rate of %v, want %v", what, got, want)
			}
			if second.host != first.host || other.host.rate != 8 || b.limit.bucket.rate != 8 {
				t.Errorf("%s: another host has a rate of %v, and all have %v", what, other.host.rate, b.limit.bucket.rate)
			}
		}
		first.throttled()
		first.throttled()
		other.throttled()
		check("429s of one project", 8)
		pass(throttleWindow + time.Second)
		second.throttled()
		check("another one, more than a minute later", 8)
		pass(throttleWindow)
		first.throttled()
		check("two projects within a minute", 4)
		second.throttled()
		check("one more 429", 4)
		first.throttled()
		check("two more projects", 2)
		second.succeeded()
		check("a success", 2.16)

		// What waits for one host does not delay others.
		pass(time.Minute)
		b.began = time.Now()
		for range 9 {
			go func() { _ = first.wait(t.Context(), PrioritySync) }()
		}
		synctest.Wait()
		for i := range 3 {
			b.ask(t.Context(), other, PrioritySync, fmt.Sprint("other ", i))
		}
		b.ask(t.Context(), second, PrioritySync, "second")
		pass(time.Minute)
		b.check("other 0 125ms", "other 1 250ms", "other 2 375ms", "second 925.925925ms")
	})
}

// Projects come and go with reloads, each with a host of its own.
func TestSharedLimitForgetsHostsOfNoProject(t *testing.T) {
	limit := NewSharedLimit(100)
	limit.project("opper.example").throttled()
	other := limit.project("opper.example")
	other.throttled()
	for i := range 100 {
		limit.project(fmt.Sprint("host ", i))
	}
	runtime.GC()
	third := limit.project("last.example")
	if len(limit.hosts) != 2 {
		t.Errorf("%d hosts are known, want the 2 of projects", len(limit.hosts))
	}
	runtime.GC()
	if p := limit.project("opper.example"); p.host != other.host || p.host.rate != 50 {
		t.Errorf("got a rate of %v, want the lowered one of the host, which a project holds", p.host.rate)
	}
	runtime.KeepAlive(third)
}

func TestNoSharedLimit(t *testing.T) {
	p := NewSharedLimit(0).project("opper.example")
	for range 1000 {
		if err := p.wait(t.Context(), PriorityInitialSync); err != nil {
			t.Fatal(err)
		}
	}
	p.throttled()
	p.succeeded()
	p.release()
}
