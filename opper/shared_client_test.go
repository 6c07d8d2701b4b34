package opper

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A token of all projects is taken last: whoever waits for a limit of its own, or
// was asked to wait, keeps none from others.
func TestOwnLimitGoesFirst(t *testing.T) {
	limit := NewSharedLimit(2)
	f := newFixture(t, answer(200, samplePage), func(o *Options) { o.RequestsPerSecond, o.Shared = 1, limit })
	tokens := func() float64 {
		limit.mu.Lock()
		defer limit.mu.Unlock()
		limit.bucket.at = time.Now().Add(time.Hour) // no more come
		return limit.bucket.tokens
	}
	if _, err := f.List(t.Context(), 0, 100); err != nil || tokens() != 1 {
		t.Fatalf("got %v and %v tokens, want 1 left", err, tokens())
	}
	canceled, cancel := context.WithCancel(t.Context())
	f.clock.sleep = func(ctx context.Context, _ time.Duration) error {
		if tokens() != 1 {
			t.Errorf("%v tokens while the project waits for its own, want 1", tokens())
		}
		cancel()
		return canceled.Err()
	}
	if _, err := f.List(canceled, 0, 100); !errors.Is(err, context.Canceled) || tokens() != 1 {
		t.Errorf("got %v and %v tokens, want 1", err, tokens())
	}
	// A request is asked to wait while another one is in the queue.
	f.limit = &limiter{bucket: newBucket(0)}
	p := limit.project("opper.example")
	if err := p.wait(t.Context(), PrioritySync); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := f.List(t.Context(), 0, 100)
		failed <- err
	}()
	queued := func() bool {
		limit.mu.Lock()
		defer limit.mu.Unlock()
		return len(limit.queues[PrioritySync]) > 0
	}
	for !queued() {
		runtime.Gosched()
	}
	f.holdOff(time.Minute)
	p.release()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "opper asked to wait") || tokens() != 1 {
		t.Errorf("got %v and %v tokens, want that the token is given back", err, tokens())
	}
}

// Answers reach the limit of all projects.
func TestSharedLimitLearnsFromAnswers(t *testing.T) {
	limit := NewSharedLimit(100)
	handler := inTurn(answer(429, ""), answer(429, ""), answer(200, samplePage))
	f := newFixture(t, handler, func(o *Options) { o.Shared = limit })
	other := &fixture{time: newFakeTime()}
	other.connect(t, f.server.URL, func(o *Options) { o.Shared = limit })
	rate := func() float64 {
		limit.mu.Lock()
		defer limit.mu.Unlock()
		return f.total.host.rate
	}
	for _, c := range []*Client{f.WithRetries(0), other.WithRetries(0)} {
		if _, err := c.List(t.Context(), 0, 1); status(err) != 429 {
			t.Fatal(err)
		}
	}
	if got := rate(); got != 50 {
		t.Errorf("got a rate of %v after two projects were answered 429, want 50", got)
	}
	if _, err := f.List(t.Context(), 0, 1); err != nil || rate() != 52 {
		t.Errorf("got %v and a rate of %v after a success, want 52", err, rate())
	}
}

func TestWithPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSharedBench(t, 1)
		key, err := FixedKey(testKey)
		if err != nil {
			t.Fatal(err)
		}
		client, err := New(Options{URL: "https://OPPER.example", Key: key, Shared: b.limit})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for priority := range numPriorities {
			c := client.WithPriority(priority).WithRetries(1)
			go func() { _, _ = c.List(ctx, 0, 1) }()
		}
		synctest.Wait()
		for priority, queue := range b.limit.queues {
			if len(queue) != 1 || queue[0] != client.total {
				t.Errorf("priority %d: %d projects wait, want this one", priority, len(queue))
			}
		}
		if b.limit.hosts["opper.example"].Value() != client.total.host {
			t.Error("the host is not that of the URL")
		}
		if c := client.WithRetries(3).WithPriority(PrioritySweep); c.retries.Load() != 3 {
			t.Error("the budget of retries is gone")
		}
		cancel()
		synctest.Wait()
	})
}

// A client with other settings keeps to what Opper asked of the one before.
func TestClientContinues(t *testing.T) {
	limit := NewSharedLimit(100)
	handler := inTurn(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	}, answer(200, samplePage))
	old := newFixture(t, handler, func(o *Options) { o.Shared, o.RequestsPerSecond = limit, 8 })
	if _, err := old.WithRetries(0).List(t.Context(), 0, 1); status(err) != 429 {
		t.Fatal(err)
	}
	for rate, want := range map[float64]float64{8: 4, 16: 16} {
		f := &fixture{time: newFakeTime()}
		f.connect(t, old.server.URL, func(o *Options) { o.Shared, o.RequestsPerSecond = limit, rate })
		f.Continue(old.Client)
		if _, err := f.List(t.Context(), 0, 1); err == nil || old.requests.Load() != 1 {
			t.Errorf("got %v and %d requests, want that none is made before the time is over", err, old.requests.Load())
		}
		if f.limit.bucket.rate != want || f.total != old.total {
			t.Errorf("limit %v: a rate of %v, and of all projects that of another: %t", rate, f.limit.bucket.rate, f.total != old.total)
		}
	}
	f := &fixture{time: newFakeTime()}
	f.connect(t, old.server.URL+"/v3", func(o *Options) { o.Shared, o.RequestsPerSecond = limit, 8 })
	f.Continue(old.Client)
	if !f.notBefore.IsZero() || f.limit == old.limit || f.total == old.total {
		t.Error("a client of another URL continues")
	}
}
