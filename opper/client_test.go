package opper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

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

// A wrong base URL is what a 404 of the list comes from.
func TestListNotFoundNamesURL(t *testing.T) {
	f := newFixture(t, answer(404, ""), func(o *Options) { o.URL += "/elsewhere"; o.Name = "filter" })
	_, err := f.List(t.Context(), 0, 100)
	if want := "list traces: " + f.URL() + "/traces: opper answered 404 Not Found: empty body"; err == nil || err.Error() != want || !strings.Contains(want, "/elsewhere/v2/traces") {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Bodies that are of no use cost as much as the others.
func TestReceivedBytes(t *testing.T) {
	var received atomic.Int64
	f := newFixture(t, inTurn(
		answer(500, "1234567"), answer(200, `{"data":`),
		cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":["),
		answer(200, samplePage),
	), func(o *Options) { o.Received = func(n int) { received.Add(int64(n)) } })
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if want := int64(7 + len(`{"data":`) + len(`{"data":[`) + len(samplePage)); received.Load() != want {
		t.Errorf("received %d bytes, want %d", received.Load(), want)
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
