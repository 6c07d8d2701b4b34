package oppertest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

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
	u := NewUsage(UsageConfig{Keep: time.Minute})
	s := New(Config{Retention: time.Minute, Usage: u})
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
				s.ReadUsage(time.Now().Add(-time.Hour), time.Now(), "model", "project.uuid")
				s.ReadBudget()
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
			u.SetTroubles(UsageTroubles{Shuffle: true})
			u.ByHour()
			s.HighestUsage()
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
