package opper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestFailedRequestsAreRetried(t *testing.T) {
	page := answer(200, `{"data":[{"id":"a"}]}`)
	for name, first := range map[string]http.HandlerFunc{
		"429":            answer(429, ""),
		"500":            answer(500, ""),
		"503":            answer(503, "<html>"),
		"599":            answer(599, ""),
		"no answer":      cut(""),
		"cut head":       cut("HTTP/1.1 200 O"),
		"cut body":       cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":["),
		"cut after JSON": cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[]}"),
		"cut chunk":      cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"data\":["),
		"truncated JSON": answer(200, `{"data":[{"id":"a"}`),
		"garbage":        answer(200, `{"data":[{"id":"a"}]}]`),
		"no list":        answer(200, `{}`),
		"HTML":           answer(200, `<html></html>`),
		"empty":          answer(204, ``),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, inTurn(first, first, page))
			got, err := f.List(t.Context(), 0, 100)
			if err != nil || len(got.Traces) != 1 || f.requests.Load() != 3 {
				t.Errorf("got %+v, %v after %d requests, want a trace after 3", got, err, f.requests.Load())
			}
			if got := f.time.slept(); !slices.Equal(got, []time.Duration{250 * time.Millisecond, 500 * time.Millisecond}) {
				t.Errorf("got waits of %v", got)
			}
			f = newFixture(t, first)
			if got, err := f.List(t.Context(), 0, 100); err == nil || f.requests.Load() != 4 {
				t.Errorf("got %+v, %v after %d requests, want an error after 4", got, err, f.requests.Load())
			}
		})
	}
}

func TestNoRetry(t *testing.T) {
	for _, status := range []int{301, 302, 304, 307, 400, 401, 403, 404, 405, 408, 409, 410, 416, 418, 422, 451} {
		f := newFixture(t, answer(status, ""))
		_, err := f.List(t.Context(), 0, 100)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != status || f.requests.Load() != 1 {
			t.Errorf("%d: got %v after %d requests, want it after 1", status, err, f.requests.Load())
		}
	}
}

func TestBackoffIsJittered(t *testing.T) {
	for range 1000 {
		if d := realClock().jitter(time.Second); d < 0 || d > time.Second {
			t.Fatalf("got %v, want up to 1s", d)
		}
	}
	f := newFixture(t, answer(500, ""))
	var limits []time.Duration
	f.clock.jitter = func(limit time.Duration) time.Duration {
		limits = append(limits, limit)
		return limit / 2
	}
	_, _ = f.List(t.Context(), 0, 100)
	if got := f.time.slept(); len(got) != 3 || got[2] != 500*time.Millisecond || limits[2] != time.Second {
		t.Errorf("got waits of %v, limits of %v", got, limits)
	}
}

func TestRealClockSleeps(t *testing.T) {
	clock := realClock()
	if err := clock.sleep(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := clock.sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func TestBudget(t *testing.T) {
	f := newFixture(t, answer(500, ""))
	budget := f.WithRetries(4)
	for i, want := range []int64{4, 6, 7, 8} { // 3 retries, 1, none, none
		if _, err := budget.List(t.Context(), 0, 100); err == nil || f.requests.Load() != want {
			t.Errorf("call %d: got %v after %d requests, want %d", i, err, f.requests.Load(), want)
		}
	}
	if _, err := f.WithRetries(0).Get(t.Context(), "a"); err == nil || f.requests.Load() != 9 {
		t.Errorf("got %v after %d requests, want one more", err, f.requests.Load())
	}
	for range 3 {
		_, _ = f.List(t.Context(), 0, 100)
	}
	if got := f.requests.Load(); got != 21 {
		t.Errorf("got %d requests, want 4 for each call without a budget", got)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]retryAfter{
		"":                              {},
		"soon":                          {},
		"-5":                            {},
		"0":                             {0, true},
		" 7 ":                           {7 * time.Second, true},
		"3601":                          {time.Hour, true},
		"99999999999999999999999":       {time.Hour, true},
		"Sun, 01 Mar 2026 12:00:20 GMT": {20 * time.Second, true},
		"Sun, 01 Mar 2026 11:00:00 GMT": {0, true},
		"Sun, 01 Mar 2099 12:00:20 GMT": {time.Hour, true},
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	for _, status := range []int{429, 503} {
		for name, header := range map[string]func(time.Time) string{
			"seconds": func(time.Time) string { return "20" },
			"date":    func(now time.Time) string { return now.Add(21 * time.Second).UTC().Format(http.TimeFormat) },
		} {
			var f *fixture
			f = newFixture(t, inTurn(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", header(f.clock.now()))
				w.WriteHeader(status)
			}, answer(200, `{"data":[]}`)))
			if _, err := f.List(t.Context(), 0, 100); err != nil {
				t.Error(err)
			}
			if got := f.time.slept(); len(got) != 1 || got[0] < 20*time.Second || got[0] > 21*time.Second {
				t.Errorf("%d %s: got waits of %v, want about 20s", status, name, got)
			}
		}
	}
}

func TestLongRetryAfterIsNotWaitedFor(t *testing.T) {
	after := func(value string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(429)
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), 19*time.Second)
	defer cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		header string
		held   time.Duration
		budget int
	}{
		"longer than 30s":              {t.Context(), "31", 31 * time.Second, 3},
		"longer than an hour":          {t.Context(), "86400", time.Hour, 3},
		"longer than the context":      {soon, "20", 20 * time.Second, 3},
		"longer than the budget lasts": {t.Context(), "20", 20 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, inTurn(after(test.header), answer(200, `{"data":[]}`)))
			client := f.WithRetries(test.budget)
			_, err := client.List(test.ctx, 0, 100)
			if e, ok := errors.AsType[*Error](err); !ok || e.Status != 429 || len(f.time.slept()) != 0 {
				t.Errorf("got %v after waits of %v, want the 429 at once", err, f.time.slept())
			}
			until := f.clock.now().Add(test.held).UTC().Format(time.RFC3339)
			f.time.pass(test.held - time.Millisecond)
			for _, client := range []*Client{f.Client, client, f.WithRetries(5)} {
				_, err := client.List(t.Context(), 0, 100)
				_, errGet := client.Get(t.Context(), "a")
				for _, err := range []error{err, errGet} {
					if err == nil || !strings.Contains(err.Error(), until) || Unreadable(err) || Refused(err) || OutOfRange(err) || errors.Is(err, ErrNotFound) {
						t.Errorf("got %v, want that it waits until %s", err, until)
					}
				}
			}
			if got := f.requests.Load(); got != 1 {
				t.Errorf("got %d requests, want none while waiting", got)
			}
			f.time.pass(time.Millisecond)
			if _, err := f.List(t.Context(), 0, 100); err != nil {
				t.Errorf("got %v after the wait", err)
			}
		})
	}
}

func TestBackoffDoesNotOutlastTheContext(t *testing.T) {
	f := newFixture(t, answer(500, "broken"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f.clock.jitter = func(time.Duration) time.Duration { return 2 * time.Minute }
	_, err := f.List(ctx, 0, 100)
	if status(err) != 500 || len(f.time.slept()) != 0 {
		t.Errorf("got %v after waits of %v, want the 500 at once", err, f.time.slept())
	}
}

func TestRotatedKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	at := time.Unix(1_700_000_000, 0)
	writeKey(t, path, "old-key", at)
	good := "new-key"
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good {
			// Too quick a change to show in the file's time or size.
			writeKey(t, path, "new-key", at)
			answer(401, `{"message":"`+r.Header.Get("Authorization")+` is wrong"}`)(w, r)
			return
		}
		answer(200, samplePage)(w, r)
	}, func(o *Options) {
		var err error
		if o.Key, err = KeyFile(path); err != nil {
			t.Fatal(err)
		}
	})
	client := f.WithRetries(0)
	if _, err := client.List(t.Context(), 0, 100); err != nil || f.requests.Load() != 2 {
		t.Errorf("got %v after %d requests, want success after 2", err, f.requests.Load())
	}
	good = "third-key"
	writeKey(t, path, good, at.Add(time.Second))
	if _, err := client.List(t.Context(), 0, 100); err != nil || f.requests.Load() != 3 {
		t.Errorf("got %v after %d requests, want success after 1 more", err, f.requests.Load())
	}
	good = "none"
	_, err := client.List(t.Context(), 0, 100)
	if !Refused(err) || f.requests.Load() != 5 || !strings.HasSuffix(err.Error(), "401 Unauthorized: invalid key") {
		t.Errorf("got %v after %d requests, want a 401 after 2 more", err, f.requests.Load())
	}
	if _, err := client.List(t.Context(), 0, 100); !Refused(err) || f.requests.Load() != 6 {
		t.Errorf("got %v after %d requests, want a 401 after 1 more", err, f.requests.Load())
	}
}

// A file whose key changes each time must not keep one request going for ever.
func TestKeyIsRenewedOncePerRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	at := time.Unix(1_700_000_000, 0)
	writeKey(t, path, "key-0", at)
	var n atomic.Int64
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		writeKey(t, path, fmt.Sprintf("key-%d", n.Add(1)%10), at)
		answer(401, "")(w, r)
	}, func(o *Options) {
		var err error
		if o.Key, err = KeyFile(path); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := f.List(ctx, 0, 100); !Refused(err) || f.requests.Load() != 2 {
		t.Errorf("got %v after %d requests, want a 401 after 2", err, f.requests.Load())
	}
}

func TestThrottledRate(t *testing.T) {
	var waited []time.Duration
	f := newFixture(t, inTurn(answer(429, ""), answer(200, samplePage)), func(o *Options) {
		o.RequestsPerSecond = 1
		o.Waited = func(d time.Duration) { waited = append(waited, d) }
	})
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if got := float64(f.limit.bucket.rate); math.Abs(got-0.52) > 1e-9 {
		t.Errorf("got a rate of %v, want half and 2%% back", got)
	}
	// The second attempt needs a token too: 250 ms of backoff earned half of a quarter.
	if got := f.time.slept(); len(got) != 2 || got[1] != 1750*time.Millisecond {
		t.Errorf("got waits of %v", got)
	}
	if len(waited) != 2 || waited[0] != 0 || waited[1] != 1750*time.Millisecond {
		t.Errorf("waited %v for the limit, want nothing and 1.75s", waited)
	}
}

// One request waits for the rate limit while another has to wait longer.
func TestHoldOffReachesThoseInTheQueue(t *testing.T) {
	f := newFixture(t, answer(200, samplePage), func(o *Options) { o.RequestsPerSecond = 1 })
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	f.clock.sleep = func(context.Context, time.Duration) error {
		f.holdOff(time.Minute)
		return nil
	}
	if _, err := f.List(t.Context(), 0, 100); err == nil || f.requests.Load() != 1 {
		t.Errorf("got %v after %d requests, want none while waiting", err, f.requests.Load())
	}
}
