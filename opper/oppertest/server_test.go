package oppertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
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
	r := httptest.NewRequest(http.MethodGet, path, nil)
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

func TestOrders(t *testing.T) {
	for sort, want := range map[Sort]string{ByArrival: "a c b", ByStart: "b a c", ByUpdate: "c a b", ByID: "c b a"} {
		s, _ := three(Config{SortBy: sort})
		if got := list(t, s, "/v2/traces").ids(); got != want {
			t.Errorf("sort %d: got %s, want %s", sort, got, want)
		}
		o, _ := three(Config{SortBy: sort, OldestFirst: true})
		reversed := strings.Fields(want)
		slices.Reverse(reversed)
		if got := list(t, o, "/v2/traces").ids(); got != strings.Join(reversed, " ") {
			t.Errorf("sort %d, oldest first: got %s, want %s", sort, got, reversed)
		}
	}
}

// TestOrderKept compares the list after many changes with one that is sorted anew.
func TestOrderKept(t *testing.T) {
	for _, sort := range []Sort{ByArrival, ByStart, ByUpdate, ByID} {
		c := newClock()
		s := New(Config{SortBy: sort, Now: c.now, Retention: 200 * time.Second, ExpireByStart: true})
		for i := range 400 {
			c.set(i)
			s.Add(Trace{ID: fmt.Sprintf("%03d", i*7%400), Start: new(sec(i - i*13%50))})
			s.Update(fmt.Sprintf("%03d", i*3%400), func(t *Trace) { t.Start = new(sec(i - i*11%60)) })
			if i%5 == 0 {
				s.Delete(fmt.Sprintf("%03d", i*7*3%400))
			}
			if !slices.IsSortedFunc(s.rows, func(a, b *life) int { return s.compare(a.place, b.place) }) {
				t.Fatalf("sort %d: out of order after %d", sort, i)
			}
			listed := 0
			for _, l := range s.byID {
				if l.listed() {
					listed++
				}
			}
			if listed != len(s.rows) {
				t.Fatalf("sort %d: %d rows, but %d traces say that they are listed", sort, len(s.rows), listed)
			}
		}
		if s.Len() < 100 || s.Len() > 250 {
			t.Errorf("sort %d: %d rows left", sort, s.Len())
		}
	}
}

func TestPages(t *testing.T) {
	s := New(Config{MaxOffset: 240})
	s.FillHistory(250, 5, sec(-1000), sec(0))
	if got := len(list(t, s, "/v2/traces").Data); got != 100 {
		t.Errorf("%d rows without a limit, want 100", got)
	}
	var ids []string
	for _, tr := range s.Snapshot() {
		ids = append(ids, tr.ID)
	}
	for _, p := range []struct{ offset, limit, rows int }{{0, 1, 1}, {99, 100, 100}, {200, 100, 50}, {240, 10, 10}} {
		got := list(t, s, fmt.Sprintf("/v3/traces?offset=%d&limit=%d", p.offset, p.limit))
		if want := strings.Join(ids[p.offset:p.offset+p.rows], " "); got.ids() != want || *got.Meta.Total != 250 {
			t.Errorf("offset %d, limit %d: got %d rows of %d", p.offset, p.limit, len(got.Data), *got.Meta.Total)
		}
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "offset=-1", "offset=241", "limit=", "offset=%zz"} {
		if w := get(t, s, "/v2/traces?"+query); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: status %d", query, w.Code)
		}
	}
	end := New(Config{})
	if got := get(t, end, "/v2/traces?offset=7").Body.String(); got != `{"meta":{"total_count":0},"data":[]}` {
		t.Errorf("empty list: %s", got)
	}
	if w := get(t, New(Config{MaxLimit: 10}), "/v2/traces?limit=11"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("limit above the cap: status %d", w.Code)
	}
}

func TestNameFilter(t *testing.T) {
	s, _ := three(Config{})
	s.Add(Trace{ID: "d"})
	got := list(t, s, "/v2/traces?name=SUPPORT&offset=1")
	if got.ids() != "b" || *got.Meta.Total != 2 {
		t.Errorf("got %s of %d", got.ids(), *got.Meta.Total)
	}
}

func TestShuffle(t *testing.T) {
	s := New(Config{Shuffle: true, Seed: 3})
	s.FillHistory(50, 5, sec(-1000), sec(0))
	one, two := list(t, s, "/v2/traces"), list(t, s, "/v2/traces")
	if one.ids() == two.ids() {
		t.Error("two requests have the same order")
	}
	a, b := strings.Fields(one.ids()), strings.Fields(two.ids())
	slices.Sort(a)
	slices.Sort(b)
	if len(slices.Compact(a)) != 50 || !slices.Equal(a, b) {
		t.Error("a page of the whole list does not hold each trace once")
	}
}

func TestShapes(t *testing.T) {
	s := New(Config{BodyBytes: 1000})
	s.Add(
		Trace{ID: "full", Name: new("n"), Status: new("ok"), Start: new(sec(1)), End: new(sec(2).Add(1500 * time.Microsecond)), DurationMS: new(1.5), Tokens: new(int64(7))},
		Trace{ID: "bare"},
		Trace{Name: new("no id")},
		Sample(),
	)
	p := list(t, s, "/v2/traces")
	if p.Data[0].ID != "3c90c3cc-0d44-4b50-8888-8dd25736052a" || *p.Data[0].Input != "<string>" {
		t.Errorf("the sample is not served as it stands: %+v", p.Data[0])
	}
	if p.Data[1].ID != "" || *p.Data[1].Name != "no id" {
		t.Errorf("row without an id: %+v", p.Data[1])
	}
	bare, full := p.Data[2], p.Data[3]
	bare.Input, bare.Output = nil, nil
	if !reflect.DeepEqual(bare, row{ID: "bare"}) {
		t.Errorf("bare row: %+v", bare)
	}
	if len(*full.Input) < 1000 || !strings.Contains(*full.Output, Secret) {
		t.Errorf("input of %d bytes", len(*full.Input))
	}
	full.Input, full.Output = nil, nil
	want := row{
		ID: "full", Name: new("n"), Status: new("ok"), Start: new("2026-01-01T00:00:01+00:00"),
		End: new("2026-01-01T00:00:02.0015+00:00"), Duration: new(1.5), Tokens: new(int64(7)),
	}
	if !reflect.DeepEqual(full, want) {
		t.Errorf("full row: %+v", full)
	}

	v3 := get(t, s, "/v3/traces?limit=2&offset=2").Body.String()
	if want := `{"meta":{"total_count":4},"data":[{"id":"bare","span_count":1},` +
		`{"id":"full","start_time":"2026-01-01T00:00:01+00:00","end_time":"2026-01-01T00:00:02.0015+00:00",` +
		`"duration_ms":1.5,"status":"ok","name":"n","span_count":1}]}`; v3 != want {
		t.Errorf("v3 page: %s", v3)
	}
	one := get(t, s, "/v2/traces/full").Body.String()
	if !strings.Contains(one, `"total_tokens":7`) || !strings.Contains(one, `"spans":[{`) ||
		!strings.Contains(one[strings.Index(one, `"spans"`):], Secret) || !json.Valid([]byte(one)) {
		t.Errorf("one trace: %s", one)
	}
	if w := get(t, s, "/v2/traces/other"); w.Code != http.StatusNotFound {
		t.Errorf("unknown trace: %d", w.Code)
	}
	if w := get(t, New(Config{NoGet: http.StatusMethodNotAllowed}), "/v2/traces/full"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("refused GET: %d", w.Code)
	}
}

func TestTotalCount(t *testing.T) {
	var total *int
	var asked int
	s := New(Config{TotalCount: func(real int) *int { asked = real; return total }})
	s.Add(Trace{ID: "a"})
	if got := list(t, s, "/v2/traces").Meta.Total; got != nil || asked != 1 {
		t.Errorf("total %v, asked with %d", got, asked)
	}
	total = new(7)
	if got := list(t, s, "/v2/traces").Meta.Total; *got != 7 {
		t.Errorf("total %d", *got)
	}
}

func TestKey(t *testing.T) {
	s := New(Config{Key: "right"})
	const refused = `{"type":"Unauthorized","message":"Invalid API key","detail":"Invalid API key"}`
	for _, c := range []struct {
		path, header string
		status       int
		body         string
	}{
		{"/v2/traces", "Bearer right", 200, `{"meta":{"total_count":0},"data":[]}`},
		{"/v2/traces", "Bearer wrong", 401, refused},
		{"/v2/traces", "", 401, refused},
		{"/v3/traces", "right", 401, ""},
		{"/v4/traces", "Bearer right", 404, `{"type":"Not Found","message":"Not Found","detail":"Not Found"}`},
		{"/v3/trace", "Bearer right", 404, `{"error":{"code":"Not Found","message":"Not Found"}}`},
	} {
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		r.Header.Set("Authorization", c.header)
		r.Header.Set("X-Opper-Project", "p")
		r.Header.Set("User-Agent", "test/1")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s %q: %d %s", c.path, c.header, w.Code, w.Body)
		}
	}
	if w := get(t, New(Config{}), "/v2/traces"); w.Code != http.StatusOK {
		t.Errorf("any key: %d", w.Code)
	}
	all := s.Requests()
	if len(all) != 6 || s.RequestCount() != 6 {
		t.Fatalf("%d requests", len(all))
	}
	r := all[1]
	if r.N != 2 || r.Authorized || r.Status != 401 || r.UserAgent != "test/1" || r.Limit != 100 ||
		r.Header.Get("X-Opper-Project") != "p" || r.Header.Get("Authorization") != "" || !all[0].Authorized {
		t.Errorf("recorded %+v", r)
	}
	s.ResetRequests()
	if s.RequestCount() != 0 || len(s.Requests()) != 0 {
		t.Error("requests survive a reset")
	}
}

func TestExpiry(t *testing.T) {
	c := newClock()
	s := New(Config{Now: c.now, Retention: 100 * time.Second})
	s.Add(Trace{ID: "a", Start: new(sec(-90))})
	c.set(50)
	s.Add(Trace{ID: "b", Start: new(sec(40))})
	c.set(99)
	if s.Len() != 2 {
		t.Errorf("%d listed at 99", s.Len())
	}
	c.set(100)
	if got := list(t, s, "/v2/traces"); got.ids() != "b" || *got.Meta.Total != 1 {
		t.Errorf("listed at 100: %s", got.ids())
	}
	if w := get(t, s, "/v2/traces/a"); w.Code != http.StatusNotFound {
		t.Errorf("expired trace: %d", w.Code)
	}

	c.set(0)
	s = New(Config{Now: c.now, Retention: 100 * time.Second, ExpireByStart: true})
	s.Add(Trace{ID: "a", Start: new(sec(-90))}, Trace{ID: "b"}, Trace{ID: "c", Start: new(sec(-90))})
	c.set(5)
	s.Update("c", func(t *Trace) { t.Start = new(sec(-50)) })
	s.Add(Trace{ID: "d", Start: new(sec(0))})
	s.Update("d", func(t *Trace) { t.Start = new(sec(-91)) })
	c.set(10)
	if got := list(t, s, "/v2/traces").ids(); got != "c b" {
		t.Errorf("by start, listed at 10: %s", got)
	}
	c.set(50)
	if got := list(t, s, "/v2/traces").ids(); got != "b" {
		t.Errorf("by start, listed at 50: %s", got)
	}
}

func TestChanges(t *testing.T) {
	s, _ := three(Config{})
	tr, ok := s.Get("c")
	if !ok || !tr.End.Equal(sec(9)) || *tr.Name != "support ticket" {
		t.Fatalf("got %+v, %t", tr, ok)
	}
	*tr.Name = "mine"
	if again, _ := s.Get("c"); *again.Name != "support ticket" {
		t.Error("a trace that was handed out shares memory with the server")
	}
	if n := s.Delete("a", "a", "x"); n != 1 || s.Len() != 2 {
		t.Errorf("deleted %d, left %d", n, s.Len())
	}
	if s.Update("a", func(*Trace) {}) {
		t.Error("a deleted trace was updated")
	}
	s.Add(Trace{ID: "a"})
	if got := list(t, s, "/v2/traces").ids(); got != "a c b" {
		t.Errorf("after it came back: %s", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a listed id was added again")
		}
	}()
	s.Add(Trace{ID: "a"})
}

func TestOnRequestMayChangeTheList(t *testing.T) {
	s, _ := three(Config{})
	s.OnRequest(func(r Request) {
		if r.Offset == 1 {
			s.Delete("a")
		}
	})
	first, second := list(t, s, "/v2/traces?limit=1"), list(t, s, "/v2/traces?limit=1&offset=1")
	if first.ids() != "a" || second.ids() != "b" {
		t.Errorf("got %s, then %s", first.ids(), second.ids())
	}
	s.OnRequest(nil)
	list(t, s, "/v2/traces?offset=1")
}

func TestLatencyEndsWithTheClient(t *testing.T) {
	s := New(Config{Latency: time.Hour})
	arrived := make(chan struct{})
	s.OnRequest(func(Request) { close(arrived) })
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/traces", nil)
		r.Header.Set("Authorization", "Bearer key")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		done <- w.Body.Len()
	}()
	<-arrived
	select {
	case <-done:
		t.Fatal("an answer came before its time")
	default:
	}
	leave()
	if n := <-done; n != 0 {
		t.Errorf("%d bytes for a client that went away", n)
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	run := func(seed int64, steps int) string {
		c := newClock()
		s := New(Config{Now: c.now, Seed: seed, BodyBytes: 10, Retention: 2 * time.Hour})
		s.FillHistory(300, 12, sec(-7200), sec(-3600))
		traffic := NewTraffic(s, DefaultAgents(), seed)
		traffic.Backfill(sec(-3600), sec(0))
		for i := range steps {
			traffic.Step(c.set((i + 1) * 600 / steps))
		}
		var all strings.Builder
		for offset := 0; offset < s.Len(); offset += 100 {
			all.WriteString(get(t, s, fmt.Sprintf("/v2/traces?offset=%d", offset)).Body.String())
		}
		return all.String()
	}
	a := run(1, 600)
	if a != run(1, 600) {
		t.Error("the same seed served different bytes")
	}
	if a != run(1, 7) {
		t.Error("the size of the steps changed what was served")
	}
	if a == run(2, 600) {
		t.Error("another seed served the same bytes")
	}
}

func TestConcurrentUse(t *testing.T) {
	s := New(Config{Retention: time.Minute})
	s.FillHistory(1000, 10, time.Now().Add(-time.Minute), time.Now())
	traffic := NewTraffic(s, DefaultAgents(), 1)
	server := httptest.NewServer(s)
	defer server.Close()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 20 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("%s/v2/traces?offset=%d", server.URL, i*j), nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer key")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Error(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
	all.Go(func() {
		at := time.Now()
		for i := range 100 {
			traffic.Step(at.Add(time.Duration(i) * time.Second))
			s.Lives(func(int64, Life) {})
			s.Fail(Fault{Answer: EmptyObject})
			s.Clear()
			s.Requests()
			s.Snapshot()
		}
	})
	all.Wait()
	if s.RequestCount() != 80 {
		t.Errorf("%d requests", s.RequestCount())
	}
}

// BenchmarkPage reads one page in the middle of a million traces, without a
// network or a client's decoding.
func BenchmarkPage(b *testing.B) {
	for _, sort := range []Sort{ByArrival, ByStart} {
		b.Run(fmt.Sprintf("sort=%d", sort), func(b *testing.B) {
			s := New(Config{SortBy: sort, NoRecord: true})
			s.FillHistory(1_000_000, 40, sec(-86400), sec(0))
			r := httptest.NewRequest(http.MethodGet, "/v2/traces?offset=500000", nil)
			r.Header.Set("Authorization", "Bearer key")
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// BenchmarkFillHistory shows the time and the memory of a million traces.
func BenchmarkFillHistory(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		New(Config{NoRecord: true}).FillHistory(1_000_000, 40, sec(-86400), sec(0))
	}
}
