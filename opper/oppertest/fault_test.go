package oppertest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// mount serves s and returns a fetch that tells how far a plain client got:
// the response (nil without headers), the body so far, and the first error.
func mount(t *testing.T, s *Server) func(ctx context.Context, path string) (*http.Response, string, error) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	// Go's transport tries a request again if a connection that was used
	// before breaks, so each one gets its own.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context, path string) (*http.Response, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer key")
		resp, err := client.Do(req)
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
}

func filled(n int) *Server {
	s := New(Config{BodyBytes: 100})
	s.FillHistory(n, 3, sec(-1000), sec(0))
	return s
}

func TestErrors(t *testing.T) {
	s := filled(3)
	fetch := mount(t, s)
	for shape, answer := range Errors(http.StatusBadGateway) {
		s.Fail(Fault{Answer: answer})
		resp, body, err := fetch(t.Context(), "/v2/traces")
		if err != nil || resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: %v, %v", shape, resp, err)
			continue
		}
		isJSON := strings.HasPrefix(shape, "v")
		if isJSON != json.Valid([]byte(body)) || (body == "") != (shape == "empty") {
			t.Errorf("%s: body %s", shape, body)
		}
		if strings.Contains(body, Secret) {
			t.Errorf("%s holds private content", shape)
		}
		if carries := shape != "html" && shape != "empty"; carries != strings.Contains(body, ErrorMessage) {
			t.Errorf("%s: body %s", shape, body)
		}
		if resp, _, err := fetch(t.Context(), "/v2/traces"); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("after %s: %v, %v", shape, resp, err)
		}
	}
	all := s.Requests()
	if all[0].Status != http.StatusBadGateway || all[1].Status != http.StatusOK {
		t.Errorf("recorded %d and %d", all[0].Status, all[1].Status)
	}
}

func TestTooMany(t *testing.T) {
	s := filled(3)
	fetch := mount(t, s)
	for _, after := range []string{"", "3", "Thu, 01 Jan 2026 00:00:00 GMT"} {
		s.Fail(Fault{Answer: TooMany(after)})
		resp, _, err := fetch(t.Context(), "/v2/traces")
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != after {
			t.Errorf("%q: %v, %v", after, resp, err)
		}
		if _, has := resp.Header["Retry-After"]; has != (after != "") {
			t.Errorf("%q: header %v", after, resp.Header)
		}
	}
}

func TestBrokenConnections(t *testing.T) {
	s := New(Config{})
	s.FillHistory(3, 3, sec(-1000), sec(0)) // little enough to stay in a buffer
	fetch := mount(t, s)
	_, whole, err := fetch(t.Context(), "/v2/traces")
	if err != nil {
		t.Fatal(err)
	}
	half := whole[:len(whole)/2]
	for name, c := range map[string]struct {
		answer  Answer
		headers bool
		body    string
		fails   bool
	}{
		"cut":       {Cut, false, "", true},
		"cut body":  {CutBody, true, half, true},
		"truncated": {Truncated, true, half, false},
	} {
		s.Fail(Fault{Answer: c.answer})
		resp, body, err := fetch(t.Context(), "/v2/traces")
		if (resp != nil) != c.headers || body != c.body || (err != nil) != c.fails {
			t.Errorf("%s: response %v, %d bytes of %d, %v", name, resp != nil, len(body), len(whole), err)
		}
	}
	if got := s.Requests()[1:]; got[0].Status+got[1].Status+got[2].Status != 400 {
		t.Errorf("recorded %+v", got)
	}
}

func TestHang(t *testing.T) {
	s := filled(100)
	fetch := mount(t, s)
	ctx, leave := context.WithCancel(t.Context())
	s.Fail(Fault{Answer: func(w http.ResponseWriter, r *http.Request, honest []byte) {
		leave()
		Hang(w, r, honest)
	}})
	if resp, _, err := fetch(ctx, "/v2/traces"); resp != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestHangBody(t *testing.T) {
	s := filled(100)
	server := httptest.NewServer(s)
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	s.Fail(Fault{Answer: HangBody})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v2/traces", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Errorf("the first half: %v", err)
	}
	leave()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("the second half: %v", err)
	}
}

func TestWrongAnswers(t *testing.T) {
	s := filled(3)
	other := New(Config{})
	other.Add(Trace{ID: "theirs"})
	fetch := mount(t, s)
	const size = 1 << 20
	for name, c := range map[string]struct {
		answer Answer
		want   func(body string) bool
	}{
		"garbage":       {Garbage, func(b string) bool { return !json.Valid([]byte(b)) && b[0] != '<' }},
		"html":          {HTML, func(b string) bool { return strings.HasPrefix(b, "<html>") }},
		"empty object":  {EmptyObject, func(b string) bool { return b == "{}" }},
		"huge":          {Huge(size), func(b string) bool { return len(b) > size && json.Valid([]byte(b)) }},
		"other project": {OtherProject(other), func(b string) bool { return strings.Contains(b, "theirs") }},
	} {
		s.Fail(Fault{Answer: c.answer})
		resp, body, err := fetch(t.Context(), "/v2/traces")
		if err != nil || resp.StatusCode != http.StatusOK || !c.want(body) {
			t.Errorf("%s: %v, %d bytes, %v", name, resp, len(body), err)
		}
	}
}

func TestWhenFaultsApply(t *testing.T) {
	s := New(Config{})
	for _, id := range []string{"c", "poison", "b", "a"} {
		s.Add(Trace{ID: id})
	}
	codes := func(paths ...string) (got []int) {
		for _, path := range paths {
			got = append(got, get(t, s, path).Code)
		}
		return got
	}
	no := Errors(500)["empty"]
	head, deep, one := "/v2/traces?limit=2", "/v2/traces?limit=2&offset=2", "/v2/traces/poison"
	for _, c := range []struct {
		name  string
		fault Fault
		paths []string
		want  []int
	}{
		{"once", Fault{}, []string{head, head}, []int{500, 200}},
		{"twice", Fault{Times: 2}, []string{head, deep, head}, []int{500, 500, 200}},
		{"for ever", Fault{Times: -1}, []string{head, one, head}, []int{500, 500, 500}},
		{"the second", Fault{After: 1}, []string{head, head, head}, []int{200, 500, 200}},
		{"the third", Fault{After: 2}, []string{head, head, head}, []int{200, 200, 500}},
		{"offsets", Fault{Times: -1, Match: func(r Request) bool { return r.Offset >= 2 }}, []string{head, deep, one}, []int{200, 500, 200}},
		{"poison", Fault{Times: -1, Row: "poison"}, []string{head, deep, "/v2/traces?limit=1&offset=3", one}, []int{200, 500, 200, 200}},
		{"the second page with poison", Fault{After: 1, Row: "poison"}, []string{deep, head, deep, deep}, []int{200, 200, 500, 200}},
	} {
		c.fault.Answer = no
		s.Fail(c.fault)
		got := codes(c.paths...)
		s.Clear()
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
				break
			}
		}
		if after := codes(head, deep); after[0] != 200 || after[1] != 200 {
			t.Errorf("%s: after Clear: %v", c.name, after)
		}
	}
}
