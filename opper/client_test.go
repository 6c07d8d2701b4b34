package opper

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeTime passes only while somebody sleeps.
type fakeTime struct {
	mu    sync.Mutex
	at    time.Time
	waits []time.Duration
}

func newFakeTime() *fakeTime { return &fakeTime{at: time.Now()} }

func (f *fakeTime) clock() clock {
	return clock{
		now: func() time.Time {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.at
		},
		sleep: func(ctx context.Context, d time.Duration) error {
			f.pass(d)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.waits = append(f.waits, d)
			return ctx.Err()
		},
		jitter: func(limit time.Duration) time.Duration { return limit },
	}
}

func (f *fakeTime) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = f.at.Add(d)
}

func (f *fakeTime) slept() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.waits)
}

// fixture is a client of a server that counts its requests.
type fixture struct {
	*Client
	time     *fakeTime
	server   *httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	codes    []string
}

func newFixture(t *testing.T, handler http.HandlerFunc, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{time: newFakeTime()}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		handler(w, r)
	}))
	t.Cleanup(f.server.Close)
	f.connect(t, f.server.URL, change...)
	return f
}

func (f *fixture) connect(t *testing.T, url string, change ...func(*Options)) {
	t.Helper()
	key, err := FixedKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{URL: url, Key: key, Observe: func(code string, took time.Duration) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.codes = append(f.codes, code)
	}}
	for _, change := range change {
		change(&opts)
	}
	if f.Client, err = New(opts); err != nil {
		t.Fatal(err)
	}
	f.clock = f.time.clock()
	t.Cleanup(f.httpTransport().CloseIdleConnections)
}

func (f *fixture) httpTransport() *http.Transport { return f.transport.(*http.Transport) }

func (f *fixture) observed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.codes, " ")
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// inTurn answers each request with the next handler, and then with the last.
func inTurn(handlers ...http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		handlers[min(int(n.Add(1)), len(handlers))-1](w, r)
	}
}

// cut breaks the connection after a part of the response.
func cut(part string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, part)
		_ = conn.Close()
	}
}

func TestNewRejects(t *testing.T) {
	key, err := FixedKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		field  string
		change func(*Options)
	}{
		"no URL":            {"url", func(o *Options) { o.URL = "" }},
		"no scheme":         {"url", func(o *Options) { o.URL = "api.opper.ai" }},
		"another scheme":    {"url", func(o *Options) { o.URL = "ftp://api.opper.ai" }},
		"no host":           {"url", func(o *Options) { o.URL = "https:///v2" }},
		"only a port":       {"url", func(o *Options) { o.URL = "https://:80" }},
		"bad URL":           {"url", func(o *Options) { o.URL = "https://user:hunter2@host:port" }},
		"password":          {"url", func(o *Options) { o.URL = "https://user:hunter2@host" }},
		"query":             {"url", func(o *Options) { o.URL = "https://host?a=b" }},
		"fragment":          {"url", func(o *Options) { o.URL = "https://host#a" }},
		"no key":            {"key", func(o *Options) { o.Key = KeySource{} }},
		"timeout":           {"timeout", func(o *Options) { o.Timeout = -1 }},
		"rate":              {"requests per second", func(o *Options) { o.RequestsPerSecond = -1 }},
		"rate NaN":          {"requests per second", func(o *Options) { o.RequestsPerSecond = math.NaN() }},
		"rate Inf":          {"requests per second", func(o *Options) { o.RequestsPerSecond = math.Inf(1) }},
		"connections":       {"max connections", func(o *Options) { o.MaxConnections = -1 }},
		"body":              {"max body", func(o *Options) { o.MaxBody = -1 }},
		"user agent":        {"user agent", func(o *Options) { o.UserAgent = "a\nb" }},
		"authorization":     {"header", func(o *Options) { o.Header = http.Header{"authorization": {"hunter2"}} }},
		"host":              {"header", func(o *Options) { o.Header = http.Header{"Host": {"x"}} }},
		"encoding":          {"header", func(o *Options) { o.Header = http.Header{"Accept-Encoding": {"br"}} }},
		"header name":       {"header", func(o *Options) { o.Header = http.Header{"A B": {"x"}} }},
		"empty header name": {"header", func(o *Options) { o.Header = http.Header{"": {"x"}} }},
		"header value":      {"header", func(o *Options) { o.Header = http.Header{"A": {"hunter2\r\nB: c"}} }},
	} {
		opts := Options{URL: "https://api.opper.ai", Key: key}
		if _, err := New(opts); err != nil {
			t.Fatal(err)
		}
		test.change(&opts)
		_, err := New(opts)
		if err == nil || !strings.HasPrefix(err.Error(), test.field+": ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error of %s", name, err, test.field)
		}
	}
}

func TestBaseURL(t *testing.T) {
	key, err := FixedKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"https://api.opper.ai":         "https://api.opper.ai/v2",
		"https://api.opper.ai/":        "https://api.opper.ai/v2",
		" https://api.opper.ai// ":     "https://api.opper.ai/v2",
		"https://api.opper.ai/v2":      "https://api.opper.ai/v2",
		"https://api.opper.ai/v2/":     "https://api.opper.ai/v2",
		"https://api.opper.ai/v3//":    "https://api.opper.ai/v3",
		"https://api.opper.ai/v12":     "https://api.opper.ai/v12",
		"https://api.opper.ai/v":       "https://api.opper.ai/v/v2",
		"https://api.opper.ai/v2x":     "https://api.opper.ai/v2x/v2",
		"http://[::1]:8080/a%2Fb/opp/": "http://[::1]:8080/a%2Fb/opp/v2",
	} {
		if got, err := New(Options{URL: in, Key: key}); err != nil || got.URL() != want {
			t.Errorf("%q: got %v, %v, want %q", in, got, err, want)
		}
	}
}

func TestRequest(t *testing.T) {
	var got *http.Request
	header := http.Header{"x-opper-project": {"p"}, "accept": {"application/vnd.opper"}}
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		answer(200, samplePage)(w, r)
	}, func(o *Options) {
		o.URL += "/proxy/v3/"
		o.Header = header
		o.Name = "my agent & co"
		o.UserAgent = "opper_exporter/1.2.3"
	})
	clear(header) // the client has its own copy
	page, err := f.List(t.Context(), 300, 100)
	if want := (Page{[]Trace{sampleTrace}, 1}); err != nil || !reflect.DeepEqual(page, want) {
		t.Errorf("got %+v, %v, want %+v", page, err, want)
	}
	if got.Method != "GET" || got.URL.Path != "/proxy/v3/traces" {
		t.Errorf("got %s %s", got.Method, got.URL.Path)
	}
	if want := (url.Values{"offset": {"300"}, "limit": {"100"}, "name": {"my agent & co"}}); !reflect.DeepEqual(got.URL.Query(), want) {
		t.Errorf("got query %v, want %v", got.URL.Query(), want)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + testKey, "X-Opper-Project": "p", "User-Agent": "opper_exporter/1.2.3", "Accept": "application/vnd.opper", "Accept-Encoding": "gzip",
	} {
		if got := got.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := f.observed(); got != "200" {
		t.Errorf("observed %q, want 200 once", got)
	}
}

func TestRequestWithDefaults(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("name") || r.Header.Get("Accept") != "application/json" {
			t.Errorf("got %s, %v", r.URL, r.Header)
		}
		answer(200, `{"data":[]}`)(w, r)
	})
	if page, err := f.List(t.Context(), 0, 1); err != nil || len(page.Traces) != 0 || page.Total != -1 {
		t.Errorf("got %+v, %v", page, err)
	}
}

func TestGet(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/v2/traces/a":
			answer(200, `{"id":"a","name":"bare","spans":[]}`)(w, r)
		case "/v2/traces/b%2F..%3Fx":
			answer(200, `{"data":{"id":"b/..?x","name":"wrapped"}}`)(w, r)
		case "/v2/traces/nothing":
			answer(200, `{}`)(w, r)
		default:
			answer(404, `{"type":"NotFound","message":"no such trace"}`)(w, r)
		}
	})
	for id, want := range map[string]string{"a": "bare", "b/..?x": "wrapped"} {
		if got, err := f.Get(t.Context(), id); err != nil || got != (Trace{ID: id, Name: want}) {
			t.Errorf("%s: got %+v, %v", id, got, err)
		}
	}
	_, err := f.Get(t.Context(), "c")
	if !errors.Is(err, ErrNotFound) || err.Error() != "get trace: opper answered 404 Not Found" {
		t.Errorf("got %v, want a not found", err)
	}
	if _, err := f.Get(t.Context(), "nothing"); err == nil || errors.Is(err, ErrNotFound) || !Unreadable(err) {
		t.Errorf("got %v, want an unreadable answer", err)
	}
	before := f.requests.Load()
	for _, id := range []string{"", ".", ".."} {
		if _, err := f.Get(t.Context(), id); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v, want another error", id, err)
		}
	}
	if f.requests.Load() != before {
		t.Error("asked for something that is no id")
	}
}

func TestRetries(t *testing.T) {
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
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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

func TestContextEnds(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		f := newFixture(t, answer(200, samplePage))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.List(ctx, 0, 100); !errors.Is(err, context.Canceled) || f.requests.Load() != 0 {
			t.Errorf("got %v after %d requests", err, f.requests.Load())
		}
	})
	t.Run("while asking", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFixture(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		if _, err := f.WithRetries(0).List(ctx, 0, 100); !errors.Is(err, context.Canceled) || Unreadable(err) || f.requests.Load() != 1 {
			t.Errorf("got %v after %d requests", err, f.requests.Load())
		}
	})
	t.Run("while reading", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"data":[`)
			_ = http.NewResponseController(w).Flush()
			cancel()
			<-r.Context().Done()
		})
		if _, err := f.WithRetries(0).List(ctx, 0, 100); !errors.Is(err, context.Canceled) || Unreadable(err) || f.requests.Load() != 1 {
			t.Errorf("got %v after %d requests", err, f.requests.Load())
		}
	})
	t.Run("while waiting to retry", func(t *testing.T) {
		f := newFixture(t, answer(500, "broken"))
		ctx, cancel := context.WithCancel(t.Context())
		f.clock.sleep = func(ctx context.Context, _ time.Duration) error {
			cancel()
			return ctx.Err()
		}
		_, err := f.List(ctx, 0, 100)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "opper answered 500") || Unreadable(err) || f.requests.Load() != 1 {
			t.Errorf("got %v after %d requests", err, f.requests.Load())
		}
	})
	t.Run("at its deadline", func(t *testing.T) {
		f := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := f.WithRetries(0).List(ctx, 0, 100); !errors.Is(err, context.DeadlineExceeded) || Unreadable(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRequestTimeout(t *testing.T) {
	for name, begin := range map[string]string{"no answer": "", "half an answer": `{"data":[`} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				if begin != "" {
					_, _ = io.WriteString(w, begin)
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}, func(o *Options) { o.Timeout = 20 * time.Millisecond })
			_, err := f.WithRetries(1).List(t.Context(), 0, 100)
			if err == nil || err.Error() != "list traces: no complete answer within 20ms" || !Unreadable(err) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a timeout of the request", err)
			}
			if got := f.observed(); got != "error error" {
				t.Errorf("observed %q, want two errors", got)
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	limit := func(o *Options) { o.MaxBody = 1000 }
	body := func(size int) string {
		return `{"data":[{"id":"a","input":"` + strings.Repeat("x", size-len(`{"data":[{"id":"a","input":""}]}`)) + `"}]}`
	}
	f := newFixture(t, answer(200, body(1000)), limit)
	if page, err := f.List(t.Context(), 0, 1); err != nil || len(page.Traces) != 1 {
		t.Errorf("got %+v, %v, want a body of just the limit", page, err)
	}
	zipped := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, body(10<<20))
		_ = z.Close()
		_, _ = w.Write(b.Bytes())
	}
	for name, handler := range map[string]http.HandlerFunc{"plain": answer(200, body(1001)), "gzip": zipped} {
		f := newFixture(t, handler, limit)
		_, err := f.List(t.Context(), 0, 100)
		if !errors.Is(err, ErrTooLarge) || !Unreadable(err) || f.requests.Load() != 1 || !strings.Contains(err.Error(), "1000 bytes") {
			t.Errorf("%s: got %v after %d requests, want too large after 1", name, err, f.requests.Load())
		}
	}
}

func TestGzip(t *testing.T) {
	serve := func(end int) *fixture {
		return newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, samplePage)
			_ = z.Close()
			_, _ = w.Write(b.Bytes()[:b.Len()-end])
		})
	}
	if page, err := serve(0).List(t.Context(), 0, 1); err != nil || len(page.Traces) != 1 {
		t.Errorf("got %+v, %v", page, err)
	}
	if _, err := serve(4).List(t.Context(), 0, 1); err == nil || !Unreadable(err) {
		t.Errorf("got %v, want an error for a cut checksum", err)
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := f.List(ctx, 0, 100); !Refused(err) || f.requests.Load() != 2 {
		t.Errorf("got %v after %d requests, want a 401 after 2", err, f.requests.Load())
	}
}

func TestThrottledRate(t *testing.T) {
	f := newFixture(t, inTurn(answer(429, ""), answer(200, samplePage)), func(o *Options) { o.RequestsPerSecond = 1 })
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if got := float64(f.limit.bucket.Limit()); math.Abs(got-0.52) > 1e-9 {
		t.Errorf("got a rate of %v, want half and 2%% back", got)
	}
	// The second attempt needs a token too: 250 ms of backoff earned half of a quarter.
	if got := f.time.slept(); len(got) != 2 || got[1] != 1750*time.Millisecond {
		t.Errorf("got waits of %v", got)
	}
}

// One request waits for the rate limit while another is told to stay away.
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

func TestHTTP2(t *testing.T) {
	f := &fixture{time: newFakeTime()}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("got %s", r.Proto)
		}
		answer(200, samplePage)(w, r)
	}))
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	defer f.server.Close()
	f.connect(t, f.server.URL)
	f.httpTransport().TLSClientConfig = f.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	f.httpTransport().TLSClientConfig.NextProtos = nil
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Error(err)
	}
}

func TestRedirectIsRefused(t *testing.T) {
	other := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("got a request: %v", r.Header) })
	for _, location := range []string{other.server.URL + "/v2/traces?token=hunter2", "//elsewhere.example:99/x", "/v3/traces", "http://user:hunter2@bad host/", ""} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			_, err := f.List(t.Context(), 0, 100)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Status != status || e.Reason != "redirect not followed" || f.requests.Load() != 1 || Unreadable(err) {
				t.Errorf("%d to %q: got %v", status, location, err)
			}
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var connections atomic.Int64
	f := &fixture{time: newFakeTime()}
	f.server = httptest.NewUnstartedServer(inTurn(answer(200, samplePage), answer(404, "gone"), answer(500, strings.Repeat("x", 50_000)), answer(429, ""), answer(200, samplePage+"  ")))
	f.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	f.server.Start()
	defer f.server.Close()
	f.connect(t, f.server.URL)
	for range 10 {
		_, _ = f.List(t.Context(), 0, 100)
	}
	if got := f.observed(); got != "200 404 500 429 200 200 200 200 200 200 200 200" {
		t.Errorf("observed %q", got)
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
	if f.httpTransport().MaxIdleConnsPerHost != 4 {
		t.Errorf("got %d idle connections, want 4", f.httpTransport().MaxIdleConnsPerHost)
	}
}

func TestNotReachedIsNotUnreadable(t *testing.T) {
	quiet := log.New(io.Discard, "", 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + listener.Addr().String()
	_ = listener.Close()
	untrusted := httptest.NewUnstartedServer(answer(200, samplePage))
	untrusted.Config.ErrorLog = quiet
	untrusted.StartTLS()
	defer untrusted.Close()
	// A listener that never accepts: the handshake of TLS hangs.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, url := range map[string]string{
		"refused": refused, "untrusted": untrusted.URL, "silent": "https://" + silent.Addr().String(), "unknown": "https://no-such-host.invalid",
	} {
		f := &fixture{time: newFakeTime()}
		f.connect(t, url, func(o *Options) { o.Timeout = 200 * time.Millisecond })
		_, err := f.WithRetries(1).List(t.Context(), 0, 100)
		if err == nil || Unreadable(err) || Refused(err) || OutOfRange(err) {
			t.Errorf("%s: got %v, want an error of the service", name, err)
		}
		if got := f.observed(); got != "error error" {
			t.Errorf("%s: observed %q, want one retry", name, got)
		}
	}
}

func TestObservedCodes(t *testing.T) {
	f := newFixture(t, inTurn(
		answer(500, ""), answer(200, `{`),
		cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":["),
		answer(200, samplePage),
	))
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if got := f.observed(); got != "500 200 error 200" {
		t.Errorf("observed %q", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		answer(200, fmt.Sprintf(`{"data":[{"id":%q}]}`, r.URL.Query().Get("offset")))(w, r)
	}, func(o *Options) { o.RequestsPerSecond = 1e6 })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				offset := 10*i + j
				page, err := f.List(t.Context(), offset, 1)
				if err != nil || page.Traces[0].ID != fmt.Sprint(offset) {
					t.Errorf("got %+v, %v", page, err)
				}
			}
		})
	}
	wg.Wait()
}
