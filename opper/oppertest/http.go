package oppertest

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Request is one request as the server saw it.
type Request struct {
	N          int // 1 for the first of its endpoint since New or ResetRequests
	Endpoint   Endpoint
	Time       time.Time
	Method     string
	V3         bool   // which of the two APIs the path asked for; it decides the shape of the answer
	ID         string // of a GET /traces/{id}; "" for a listing
	Offset     int
	Limit      int
	Name       string
	Usage      UsageQuery // of a request of usage
	UserAgent  string
	Header     http.Header // without Authorization
	Authorized bool        // it carried an accepted key
	Status     int         // of the answer; 0 while there is none, or if the connection was cut before it
}

// ServeHTTP answers GET {/v2,/v3}/traces, GET {/v2,/v3}/traces/{id}, GET
// /v2/analytics/usage and GET /v3/me.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sw := &statusWriter{ResponseWriter: w}
	req, wrong := s.parse(r)

	s.mu.Lock()
	req.Time = s.cfg.Now()
	s.counts[req.Endpoint]++
	req.N = s.counts[req.Endpoint]
	entry := &req
	if !s.cfg.NoRecord {
		entry = new(req)
		s.requests = append(s.requests, entry)
	}
	hook := s.hooks[req.Endpoint]
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		entry.Status = sw.status
	}()

	if hook != nil {
		hook(req)
	}
	latency := s.cfg.Latency
	if req.Endpoint != TraceEndpoint {
		latency += s.usage.latency()
	}
	if latency > 0 {
		wait := time.NewTimer(latency)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			return
		}
	}

	a, fault := s.answer(req, wrong)
	if fault != nil {
		var honest bytes.Buffer
		a.write(&honest, s.body)
		fault(sw, r, honest.Bytes())
		return
	}
	if a.status == http.StatusOK || a.error != "" {
		sw.Header().Set("Content-Type", "application/json")
	}
	sw.WriteHeader(a.status)
	a.write(sw, s.body)
}

// List reads the list as GET /traces does, without HTTP and without the hook:
// for simulations that make millions of requests. Row faults, MaxOffset and the
// record work as with HTTP; ok is false if they leave nothing to read.
func (s *Server) List(offset, limit int) (rows []Trace, total *int, ok bool) {
	a, ok := s.direct(Request{Offset: offset, Limit: limit})
	for i := range a.rows {
		rows = append(rows, a.rows[i].unpack(a.rows[i].id))
	}
	return rows, a.total, ok
}

// Show reads one trace as GET /traces/{id} does, without HTTP; see List. ok is
// false if it is not listed.
func (s *Server) Show(id string) (trace Trace, ok bool) {
	a, ok := s.direct(Request{ID: id})
	if !ok {
		return Trace{}, false
	}
	return a.rows[0].unpack(id), true
}

// number counts a request that nobody records.
func (s *Server) number(req *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[req.Endpoint]++
	req.N = s.counts[req.Endpoint]
}

func (s *Server) direct(req Request) (answer, bool) {
	s.number(&req)
	var wrong *refusal
	if s.cfg.MaxOffset > 0 && req.Offset > s.cfg.MaxOffset {
		wrong = &refusal{http.StatusUnprocessableEntity, "offset is out of range"}
	}
	a, fault := s.answer(req, wrong)
	if fault != nil || a.status != http.StatusOK {
		return answer{}, false
	}
	return a, true
}

// refusal is why a request gets no rows.
type refusal struct {
	status  int
	message string
}

func (s *Server) parse(r *http.Request) (Request, *refusal) {
	req := Request{
		Method:    r.Method,
		Limit:     min(100, s.cfg.MaxLimit),
		UserAgent: r.UserAgent(),
		Header:    r.Header.Clone(),
	}
	req.Header.Del("Authorization")
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	req.Authorized = bearer && key != "" && (s.cfg.Key == "" || key == s.cfg.Key)

	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	req.V3 = parts[0] == "v3"
	switch {
	case r.URL.Path == "/v2/analytics/usage":
		req.Endpoint = UsageEndpoint
	case r.URL.Path == "/v3/me":
		req.Endpoint = BudgetEndpoint
	case len(parts) < 2 || len(parts) > 3 || parts[0] != "v2" && parts[0] != "v3" || parts[1] != "traces":
		return req, &refusal{http.StatusNotFound, "Not Found"}
	case len(parts) == 3:
		req.ID = parts[2]
	}
	switch {
	case r.Method != http.MethodGet:
		return req, &refusal{http.StatusMethodNotAllowed, "Method Not Allowed"}
	case !req.Authorized:
		return req, &refusal{http.StatusUnauthorized, "Invalid API key"}
	case req.ID != "" || req.Endpoint == BudgetEndpoint:
		return req, nil
	}

	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return req, &refusal{http.StatusUnprocessableEntity, "query is not readable"}
	}
	if req.Endpoint == UsageEndpoint {
		var wrong *refusal
		req.Usage, wrong = s.usage.parse(query)
		return req, wrong
	}
	req.Name = query.Get("name")
	for _, p := range []struct {
		name   string
		value  *int
		lo, hi int
	}{
		{"offset", &req.Offset, 0, s.cfg.MaxOffset},
		{"limit", &req.Limit, 1, s.cfg.MaxLimit},
	} {
		if !query.Has(p.name) {
			continue
		}
		n, err := strconv.Atoi(query.Get(p.name))
		if err != nil || n < p.lo || p.hi > 0 && n > p.hi {
			return req, &refusal{http.StatusUnprocessableEntity, p.name + " is out of range"}
		}
		*p.value = n
	}
	return req, nil
}

// answer reads the list. Rows count as served unless a fault takes their place.
func (s *Server) answer(req Request, wrong *refusal) (answer, Answer) {
	if req.Endpoint != TraceEndpoint {
		return s.answerUsage(req, wrong)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	a := answer{status: http.StatusOK, v3: req.V3, one: req.ID != ""}
	var lives []*life
	switch {
	case wrong != nil:
		a.refuse(wrong.status, wrong.message)
	case a.one && s.cfg.NoGet != 0:
		a.refuse(s.cfg.NoGet, http.StatusText(s.cfg.NoGet))
	case a.one:
		l := s.byID[req.ID]
		if l == nil || !l.listed() {
			a.refuse(http.StatusNotFound, "Trace not found")
			break
		}
		lives = []*life{l}
	default:
		var total int
		lives, total = s.page(req)
		a.total = &total
		if s.cfg.TotalCount != nil {
			a.total = s.cfg.TotalCount(total)
		}
	}
	if f := s.fault(req, lives); f != nil {
		a.take(lives)
		return a, f
	}
	s.serve(now, lives, !a.one)
	a.take(lives)
	return a, nil
}

// page returns the rows of a listing and the length of the list that they
// are a part of.
func (s *Server) page(req Request) ([]*life, int) {
	total, rank := len(s.rows), s.rank
	if req.Name != "" {
		var found []*life
		wanted := strings.ToLower(req.Name)
		known := map[*string]bool{nil: false}
		for i := range s.rows {
			l := s.rank(i)
			match, ok := known[l.name]
			if !ok {
				match = strings.Contains(strings.ToLower(*l.name), wanted)
				known[l.name] = match
			}
			if match {
				found = append(found, l)
			}
		}
		total, rank = len(found), func(i int) *life { return found[i] }
	}
	n := max(0, min(req.Limit, total-req.Offset))
	lives := make([]*life, 0, n)
	if s.cfg.Shuffle {
		rng := rand.New(rand.NewPCG(uint64(s.cfg.Seed), uint64(req.N)))
		seen := map[int]bool{}
		for len(lives) < n {
			if i := rng.IntN(total); !seen[i] {
				seen[i] = true
				lives = append(lives, rank(i))
			}
		}
		return lives, total
	}
	for i := range n {
		lives = append(lives, rank(req.Offset+i))
	}
	return lives, total
}

func (s *Server) serve(now int64, lives []*life, list bool) {
	for _, l := range lives {
		if list && (!s.marked || s.compare(l.place, s.mark) > 0) {
			s.mark, s.marked = l.place, true
		}
		if s.cfg.NoRecord || l.id == "" {
			continue
		}
		p := l.history()
		v := len(p.versions)
		if n := len(p.runs); n > 0 && p.runs[n-1].version == v {
			p.runs[n-1].last = now
		} else {
			p.runs = append(p.runs, run{v, now, now})
		}
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the Flush below.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
