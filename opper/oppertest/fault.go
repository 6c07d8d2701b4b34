package oppertest

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// Answer takes the place of an honest answer, whose body it is given. An
// Answer that cuts the connection panics with http.ErrAbortHandler.
type Answer func(w http.ResponseWriter, r *http.Request, honest []byte)

// Fault replaces answers. A replaced answer is not recorded as served.
type Fault struct {
	Answer Answer
	Match  func(Request) bool // nil matches every request of the endpoint
	// Endpoint is the one whose requests it is about.
	Endpoint Endpoint
	// Row, if set, matches every listing that holds the trace with this id:
	// a row that makes its page unreadable. The ground truth then no longer demands it.
	Row   string
	After int // let this many matching requests pass first
	Times int // how often; 0 means once, less means until Clear
}

// Fail adds a fault. Of several that match, the one added first applies.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Times == 0 {
		f.Times = 1
	}
	if f.Row != "" {
		s.unreadable[f.Row] = true
	}
	s.faults = append(s.faults, &f)
}

// Clear removes all faults.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Heal makes rows readable again that make their pages unreadable. The ground truth
// demands their traces again, see Rules.Reread.
func (s *Server) Heal(rows ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, id := range rows {
		s.faults = slices.DeleteFunc(s.faults, func(f *Fault) bool { return f.Row == id })
		delete(s.unreadable, id)
		s.healed[id] = now
	}
}

func (s *Server) fault(req Request, lives []*life) Answer {
	for _, f := range s.faults {
		if f.Times == 0 || f.Endpoint != req.Endpoint || f.Match != nil && !f.Match(req) || f.Row != "" && !f.matchesRow(req, lives) {
			continue
		}
		if f.After > 0 {
			f.After--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f.Answer
	}
	return nil
}

func (f *Fault) matchesRow(req Request, lives []*life) bool {
	if req.ID != "" {
		return false
	}
	for _, l := range lives {
		if l.id == f.Row {
			return true
		}
	}
	return false
}

// ErrorMessage is Opper's own message in each of the Errors that can carry one.
const ErrorMessage = "the request could not be served"

// Errors returns an Answer for every shape in which an error is known to
// come, by a name for the shape.
func Errors(status int) map[string]Answer {
	v2 := `{"type":"Error","message":"` + ErrorMessage + `","detail":%s}`
	json := func(body string) Answer { return Respond(status, "application/json", body) }
	return map[string]Answer{
		"v2 string": json(fmt.Sprintf(v2, `"`+ErrorMessage+`"`)),
		"v2 object": json(fmt.Sprintf(v2, `{"reason":"why"}`)),
		"v2 list":   json(fmt.Sprintf(v2, `[{"loc":["query","limit"],"msg":"why","type":"value_error"}]`)),
		"v3 object": json(`{"error":{"code":"some_code","message":"` + ErrorMessage + `"}}`),
		"v3 text":   json(`{"error":"` + ErrorMessage + `"}`),
		"html":      Respond(status, "text/html", fmt.Sprintf("<html><head><title>%d</title></head><body><h1>gateway</h1></body></html>\n", status)),
		"plain":     Respond(status, "text/plain", ErrorMessage+"\n"),
		"empty":     Respond(status, "", ""),
	}
}

// Respond answers with a status and a body.
func Respond(status int, contentType, body string) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TooMany answers 429. retryAfter (seconds, or an HTTP date) becomes the
// Retry-After header; "" sends none.
func TooMany(retryAfter string) Answer {
	respond := Errors(http.StatusTooManyRequests)["v2 string"]
	return func(w http.ResponseWriter, r *http.Request, honest []byte) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		respond(w, r, honest)
	}
}

// Hang answers nothing until the client goes away.
func Hang(_ http.ResponseWriter, r *http.Request, _ []byte) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// HangBody sends half of the honest answer, and then nothing until the
// client goes away.
func HangBody(w http.ResponseWriter, r *http.Request, honest []byte) {
	half(w, honest)
	Hang(w, r, honest)
}

// Cut closes the connection before any header.
func Cut(http.ResponseWriter, *http.Request, []byte) {
	panic(http.ErrAbortHandler)
}

// CutBody closes the connection in the middle of the honest answer.
func CutBody(w http.ResponseWriter, _ *http.Request, honest []byte) {
	half(w, honest)
	panic(http.ErrAbortHandler)
}

func half(w http.ResponseWriter, honest []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(honest[:len(honest)/2])
	// Without a flush the client might lose the half, and with it the
	// difference to Cut. An error means that the client has closed the connection.
	_ = http.NewResponseController(w).Flush()
}

// Truncated ends the answer in order, but in the middle of its JSON.
func Truncated(w http.ResponseWriter, _ *http.Request, honest []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(honest[:len(honest)/2])
}

// Garbage answers 200 with what is no JSON.
func Garbage(w http.ResponseWriter, r *http.Request, honest []byte) {
	Respond(http.StatusOK, "application/json", "\x00\xff{]not json"+Secret)(w, r, honest)
}

// HTML answers 200 with a web page, as a captive portal does.
func HTML(w http.ResponseWriter, r *http.Request, honest []byte) {
	Errors(http.StatusOK)["html"](w, r, honest)
}

// EmptyObject answers 200 with {}.
func EmptyObject(w http.ResponseWriter, r *http.Request, honest []byte) {
	Respond(http.StatusOK, "application/json", "{}")(w, r, honest)
}

// Huge answers 200 with a row whose input is at least n bytes long.
func Huge(n int64) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"meta":{"total_count":1},"data":[{"id":"00000000-0000-4000-8000-000000000000","input":"`)
		block := strings.Repeat(Secret+" ", 4096)
		for left := n; left > 0; left -= int64(len(block)) {
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `"}]}`)
	}
}

// OtherProject answers with the list of another server: the key has come to
// belong to another project.
func OtherProject(other *Server) Answer {
	return func(w http.ResponseWriter, r *http.Request, _ []byte) { other.ServeHTTP(w, r) }
}
