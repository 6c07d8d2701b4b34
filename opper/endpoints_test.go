package opper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// endpoint is what reads something else than traces.
type endpoint struct {
	name, path, sample string
	read               func(context.Context, *Client) error
}

var endpoints = []endpoint{
	{"usage", "/v2/analytics/usage", sampleUsage, func(ctx context.Context, c *Client) error {
		page, err := c.Usage(ctx, UsageQuery{GroupBy: byModel})
		if (err == nil) != (len(page.Rows) == 2) {
			return fmt.Errorf("%d rows and %w", len(page.Rows), err)
		}
		return err
	}},
	{"budget", "/v3/me", sampleBudget, func(ctx context.Context, c *Client) error {
		budget, err := c.Budget(ctx)
		if (err == nil) != (budget != Budget{}) {
			return fmt.Errorf("%+v and %w", budget, err)
		}
		return err
	}},
}

func TestEndpointErrors(t *testing.T) {
	v2 := `{"type":"NotFound","message":"` + private + `","detail":[{"msg":"` + private + `"}]}`
	v3 := `{"error":{"code":"x","message":"` + private + `"}}`
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			for _, test := range []struct {
				status    int
				body      string
				want      string
				requests  int64
				permanent bool
			}{
				{400, v2, "opper answered 400 Bad Request: parameter refused", 1, true},
				{401, "", "opper answered 401 Unauthorized: invalid key", 1, false},
				{403, v3, "opper answered 403 Forbidden: key has no access, or the account is suspended", 1, true},
				{404, v2, "§: opper answered 404 Not Found", 1, true},
				{404, "<html>" + private, "§: opper answered 404 Not Found: HTML page", 1, true},
				{405, private, "opper answered 405 Method Not Allowed: not JSON", 1, true},
				{422, v2, "opper answered 422 Unprocessable Entity: parameter refused", 1, true},
				{429, v3, "opper answered 429 Too Many Requests: rate limited", 4, false},
				{500, v3, "opper answered 500 Internal Server Error", 4, false},
				{503, "", "opper answered 503 Service Unavailable: empty body", 4, false},
				{200, "<html>" + private, "an HTML page instead of JSON", 4, false},
				{200, e.sample[:len(e.sample)-1], "incomplete JSON: unexpected EOF", 4, false},
				{200, "", "incomplete JSON: unexpected EOF", 4, false},
				{204, "", "incomplete JSON: unexpected EOF", 4, false},
			} {
				f := newFixture(t, answer(test.status, test.body))
				err := e.read(t.Context(), f.Client)
				want := "read " + e.name + ": " + strings.Replace(test.want, "§", f.server.URL+e.path, 1)
				if err == nil || err.Error() != want || f.requests.Load() != test.requests || Permanent(err) != test.permanent {
					t.Errorf("%d with %.20q: got %v after %d requests, permanent %t, want %s after %d", test.status, test.body, err, f.requests.Load(), Permanent(err), want, test.requests)
				}
			}
			f := newFixture(t, cut("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"+e.sample))
			if err := e.read(t.Context(), f.WithRetries(2)); !Unreadable(err) || Permanent(err) || f.requests.Load() != 3 {
				t.Errorf("cut connection: got %v after %d requests, want it unreadable after the retries of the budget", err, f.requests.Load())
			}
			if err := e.read(t.Context(), newFixture(t, inTurn(answer(500, ""), answer(200, e.sample))).Client); err != nil {
				t.Errorf("a success after a 500: got %v", err)
			}
			f = newFixture(t, answer(200, e.sample), func(o *Options) { o.MaxBody = 100 })
			if err := e.read(t.Context(), f.Client); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "more than 100 bytes") || f.requests.Load() != 1 {
				t.Errorf("large answer: got %v after %d requests", err, f.requests.Load())
			}
		})
	}
}

func TestEndpointsKeepToRetryAfter(t *testing.T) {
	after := func(value string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", value)
			answer(429, "")(w, r)
		}
	}
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			f := newFixture(t, inTurn(after("7"), answer(200, e.sample)))
			if err := e.read(t.Context(), f.Client); err != nil || !slices.Equal(f.time.slept(), []time.Duration{7 * time.Second}) {
				t.Errorf("got %v after waits of %v, want success after 7s", err, f.time.slept())
			}
			f = newFixture(t, after("600"))
			if err := e.read(t.Context(), f.Client); status(err) != 429 || f.requests.Load() != 1 {
				t.Errorf("got %v after %d requests, want the 429 at once", err, f.requests.Load())
			}
			_, errList := f.List(t.Context(), 0, 100)
			for _, err := range []error{errList, e.read(t.Context(), f.Client)} {
				if err == nil || !strings.Contains(err.Error(), "opper asked to wait until") || Permanent(err) || f.requests.Load() != 1 {
					t.Errorf("got %v after %d requests, want that none follows", err, f.requests.Load())
				}
			}
		})
	}
}

func TestEndpointsReadTheKeyAgain(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			at := time.Unix(1_700_000_000, 0)
			writeKey(t, path, "old-key", at)
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer new-key" {
					answer(200, e.sample)(w, r)
					return
				}
				writeKey(t, path, "new-key", at)
				answer(401, "")(w, r)
			}, func(o *Options) {
				var err error
				if o.Key, err = KeyFile(path); err != nil {
					t.Fatal(err)
				}
			})
			if err := e.read(t.Context(), f.Client); err != nil || f.observed() != "401 200" {
				t.Errorf("got %v, observed %s, want success with the new key", err, f.observed())
			}
		})
	}
}

func TestEndpointsFollowNoRedirect(t *testing.T) {
	other := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("got a request: %v", r.Header) })
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, other.server.URL+e.path, http.StatusTemporaryRedirect)
			})
			err := e.read(t.Context(), f.Client)
			if want := "read " + e.name + ": opper answered 307 Temporary Redirect: redirect not followed"; err == nil || err.Error() != want || !Permanent(err) || f.requests.Load() != 1 {
				t.Errorf("got %v after %d requests, want %s", err, f.requests.Load(), want)
			}
		})
	}
}

func TestEndpointsAreCounted(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			received := 0
			f := newFixture(t, inTurn(answer(500, "12345"), answer(200, e.sample)), func(o *Options) {
				o.Received = func(bytes int) { received += bytes }
			})
			if err := e.read(t.Context(), f.Client); err != nil || received != 5+len(e.sample) || f.observed() != "500 200" {
				t.Errorf("got %v, %d bytes and %s, want both answers", err, received, f.observed())
			}
		})
	}
}

func TestEndpointsWaitForTheLimits(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			f := newFixture(t, answer(200, e.sample), func(o *Options) { o.RequestsPerSecond = 1 })
			for range 2 {
				if err := e.read(t.Context(), f.Client); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(f.time.slept(), []time.Duration{time.Second}) {
				t.Errorf("got waits of %v, want 1s for the second request", f.time.slept())
			}
			synctest.Test(t, func(t *testing.T) {
				b := newSharedBench(t, 1)
				key, err := FixedKey(testKey)
				if err != nil {
					t.Fatal(err)
				}
				client, err := New(Options{URL: "https://opper.example", Key: key, Shared: b.limit})
				if err != nil {
					t.Fatal(err)
				}
				client.transport = roundTripper(func(*http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(e.sample))}, nil
				})
				client = client.WithPriority(PriorityUsage)
				for name, priority := range map[string]Priority{"initial sync": PriorityInitialSync, "sweep": PrioritySweep, "sync": PrioritySync} {
					b.ask(t.Context(), b.limit.project("opper.example"), priority, name)
				}
				if err := e.read(t.Context(), client.WaitUntil(time.Now().Add(1900*time.Millisecond))); !errors.Is(err, ErrPostponed) || time.Since(b.began) != 0 {
					t.Errorf("got %v after %v, want that it is postponed at once", err, time.Since(b.began))
				}
				if err := e.read(t.Context(), client.WaitUntil(time.Now().Add(2100*time.Millisecond))); err != nil || time.Since(b.began) != 2*time.Second {
					t.Errorf("got %v after %v, want it after the sync", err, time.Since(b.began))
				}
				pass(time.Hour)
				b.check("sync 1s", "sweep 3s", "initial sync 4s")
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestEndpointsEndWithTheContext(t *testing.T) {
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			f := newFixture(t, func(_ http.ResponseWriter, r *http.Request) {
				cancel()
				<-r.Context().Done()
			})
			if err := e.read(ctx, f.Client); !errors.Is(err, context.Canceled) || Permanent(err) || f.observed() != "" {
				t.Errorf("got %v, observed %q, want the end of the context", err, f.observed())
			}
		})
	}
}
