package opper

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeTime passes only while a goroutine sleeps.
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
