package oppertest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is set by hand, in seconds after the epoch.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: epoch} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(seconds int) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = sec(seconds)
	return c.t
}

func sec(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

func get(t testing.TB, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	return getWith(t.Context(), h, path)
}

func getWith(ctx context.Context, h http.Handler, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
	r.Header.Set("Authorization", "Bearer key")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

type row struct {
	ID        string   `json:"id"`
	Name      *string  `json:"name"`
	Start     *string  `json:"start_time"`
	End       *string  `json:"end_time"`
	Duration  *float64 `json:"duration_ms"`
	Status    *string  `json:"status"`
	Input     *string  `json:"input"`
	Output    *string  `json:"output"`
	Tokens    *int64   `json:"total_tokens"`
	SpanCount *int     `json:"span_count"`
}

type page struct {
	Meta struct {
		Total *int `json:"total_count"`
	} `json:"meta"`
	Data []row `json:"data"`
}

func list(t testing.TB, h http.Handler, path string) page {
	t.Helper()
	w := get(t, h, path)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	var p page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return p
}

func (p page) ids() string {
	var ids []string
	for _, r := range p.Data {
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

// three are added a, b, c; started b, c, a; then b is updated.
func three(cfg Config) (*Server, *clock) {
	c := newClock()
	cfg.Now = c.now
	s := New(cfg)
	for i, tr := range []Trace{
		{ID: "b", Start: new(sec(-10)), Name: new("Support Bot")},
		{ID: "c", Start: new(sec(-30)), Name: new("support ticket")},
		{ID: "a", Start: new(sec(-20)), Name: new("other")},
	} {
		c.set(i + 1)
		s.Add(tr)
	}
	c.set(10)
	s.Update("c", func(t *Trace) { t.End = new(sec(9)) })
	return s, c
}
