package oppertest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

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
