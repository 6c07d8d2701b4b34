package opper

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"
)

func TestLimiterSpacesRequests(t *testing.T) {
	time0 := newFakeTime()
	l := &limiter{bucket: newBucket(2.5)}
	for range 3 {
		if err := l.wait(t.Context(), time0.clock()); err != nil || len(time0.slept()) != 0 {
			t.Fatalf("got %v after waits of %v, want a burst of 3", err, time0.slept())
		}
	}
	for range 2 {
		if err := l.wait(t.Context(), time0.clock()); err != nil {
			t.Fatal(err)
		}
	}
	if got := time0.slept(); len(got) != 2 || got[0] != 400*time.Millisecond || got[1] != 400*time.Millisecond {
		t.Errorf("got waits of %v, want 400ms twice", got)
	}
}

func TestLimiterBelowOnePerSecond(t *testing.T) {
	time0 := newFakeTime()
	l := &limiter{bucket: newBucket(0.5)}
	for range 2 {
		if err := l.wait(t.Context(), time0.clock()); err != nil {
			t.Fatal(err)
		}
	}
	if got := time0.slept(); len(got) != 1 || got[0] != 2*time.Second {
		t.Errorf("got waits of %v, want one of 2s", got)
	}
}

func TestNoLimit(t *testing.T) {
	time0 := newFakeTime()
	l := &limiter{bucket: newBucket(0)}
	for range 1000 {
		if err := l.wait(t.Context(), time0.clock()); err != nil {
			t.Fatal(err)
		}
	}
	l.throttled(time0.clock())
	l.succeeded(time0.clock())
	if got := time0.slept(); len(got) != 0 {
		t.Errorf("got waits of %v, want none", got)
	}
}

func TestLimiterYieldsAndRecovers(t *testing.T) {
	clock := newFakeTime().clock()
	l := &limiter{bucket: newBucket(8)}
	check := func(what string, want float64) {
		t.Helper()
		if got := l.bucket.rate; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: got a rate of %v, want %v", what, got, want)
		}
	}
	l.succeeded(clock)
	check("a success at the full rate", 8)
	l.throttled(clock)
	check("one 429", 4)
	l.succeeded(clock)
	check("a success", 4.16)
	for range 10 {
		l.throttled(clock)
	}
	check("many 429s", 0.5)
	for range 46 {
		l.succeeded(clock)
	}
	check("46 successes", 7.86)
	l.succeeded(clock)
	check("one more", 8)
}

func TestLimiterDoesNotWaitPastTheContext(t *testing.T) {
	time0 := newFakeTime()
	l := &limiter{bucket: newBucket(0.01)}
	if err := l.wait(t.Context(), time0.clock()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		if err := l.wait(ctx, time0.clock()); !errors.Is(err, context.DeadlineExceeded) || len(time0.slept()) != 0 {
			t.Fatalf("got %v after waits of %v, want the deadline at once", err, time0.slept())
		}
	}
	if err := l.wait(t.Context(), time0.clock()); err != nil {
		t.Fatal(err)
	}
	if got := time0.slept(); len(got) != 1 || got[0] != 100*time.Second {
		t.Errorf("got waits of %v, want 100s: what was not used is given back", got)
	}
}
