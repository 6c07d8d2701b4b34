package oppertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Request is one request as the server saw it.
type Request struct {
	N          int // 1 for the first since New or ResetRequests
	Time       time.Time
	Method     string
	V3         bool   // which of the two APIs the path asked for; it decides the shape of the answer
	ID         string // of a GET /traces/{id}; "" for a listing
	Offset     int
	Limit      int
	Name       string
	UserAgent  string
	Header     http.Header // without Authorization
	Authorized bool        // it carried an accepted key
	Status     int         // of the answer; 0 while there is none, or if the connection was cut before it
}

// OnRequest sets a function that is called before each list (or trace) is
// read, without any lock: it may change the list. nil removes it.
func (s *Server) OnRequest(hook func(Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Requests returns all requests since New or ResetRequests; none if the
// server does not record.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.requests))
	for i, r := range s.requests {
		all[i] = *r
	}
	return all
}

// RequestCount is the number of requests since New or ResetRequests.
func (s *Server) RequestCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// ResetRequests forgets the requests so far.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.count = nil, 0
}

// ServeHTTP answers GET {/v2,/v3}/traces and GET {/v2,/v3}/traces/{id}.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sw := &statusWriter{ResponseWriter: w}
	req, wrong := s.parse(r)

	s.mu.Lock()
	req.Time = s.cfg.Now()
	s.count++
	req.N = s.count
	entry := &req
	if !s.cfg.NoRecord {
		entry = new(req)
		s.requests = append(s.requests, entry)
	}
	hook := s.hook
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		entry.Status = sw.status
	}()

	if hook != nil {
		hook(req)
	}
	if s.cfg.Latency > 0 {
		wait := time.NewTimer(s.cfg.Latency)
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

func (s *Server) direct(req Request) (answer, bool) {
	s.mu.Lock()
	s.count++
	req.N = s.count
	s.mu.Unlock()
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
	case len(parts) == 3:
		return req, nil
	}

	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return req, &refusal{http.StatusUnprocessableEntity, "query is not readable"}
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

// listed is a row on its way out, so that nothing is written under the lock.
type listed struct {
	place
	version
}

type answer struct {
	status int
	v3     bool
	error  string // the message of a refusal; "" with a status that is not 200 is an empty body
	one    bool
	rows   []listed
	total  *int
}

// answer reads the list. Rows count as served unless a fault takes their place.
func (s *Server) answer(req Request, wrong *refusal) (answer, Answer) {
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

func (a *answer) refuse(status int, message string) {
	a.status, a.error = status, message
	if status == http.StatusUnauthorized && a.v3 {
		a.error = ""
	}
}

func (a *answer) take(lives []*life) {
	a.rows = make([]listed, len(lives))
	for i, l := range lives {
		a.rows[i] = listed{l.place, l.version}
	}
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

// write sends the body row by row: a page with large bodies is never whole
// in memory. An error of w means that the client went away.
func (a *answer) write(w io.Writer, body string) {
	if a.status != http.StatusOK {
		_, _ = io.WriteString(w, a.refusal())
		return
	}
	if a.one {
		_, _ = w.Write(a.rows[0].append(nil, a.v3, body, true))
		return
	}
	b := []byte(`{"meta":{`)
	if a.total != nil {
		b = fmt.Appendf(b, `"total_count":%d`, *a.total)
	}
	b = append(b, `},"data":[`...)
	for i := range a.rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.rows[i].append(b, a.v3, body, false)
		if len(b) < 32<<10 {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return
		}
		b = b[:0]
	}
	_, _ = w.Write(append(b, `]}`...))
}

func (a *answer) refusal() string {
	code, message := quote(http.StatusText(a.status)), quote(a.error)
	switch {
	case a.error == "":
		return ""
	case a.v3:
		return fmt.Sprintf(`{"error":{"code":%s,"message":%s}}`, code, message)
	default:
		return fmt.Sprintf(`{"type":%s,"message":%s,"detail":%s}`, code, message, message)
	}
}

func (l *listed) append(b []byte, v3 bool, body string, spans bool) []byte {
	if l.raw != nil {
		return append(b, *l.raw...)
	}
	b = append(b, '{')
	field := func(name, value string) {
		if value == "" {
			if v3 {
				return
			}
			value = "null"
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
		b = append(b, value...)
	}
	// A trace without an id has no key for one, in both versions.
	if l.id != "" {
		field("id", quote(l.id))
	}
	field("start_time", l.time(l.start, hasStart))
	field("end_time", l.time(l.end, hasEnd))
	field("duration_ms", l.number(l.ms, hasMS))
	field("status", quoteOr(l.status))
	field("name", quoteOr(l.name))
	if v3 {
		field("span_count", "1")
	} else {
		field("input", body)
		field("output", body)
		field("total_tokens", l.number(float64(l.tokens), hasTokens))
	}
	if spans {
		private := quote("span " + Secret)
		field("spans", `[{"id":`+quote(l.id+"-0")+`,"parent_id":null,"type":"generation","name":"root","error":null,"input":`+
			private+`,"output":`+private+`,"data":{"model":"oppertest/model","prompt":`+private+`}}]`)
	}
	return append(b, '}')
}

// time writes a time in one of the shapes that occur, always the same one
// for the same trace.
func (l *listed) time(us int64, has uint8) string {
	if l.has&has == 0 {
		return ""
	}
	zone := [...]string{"Z", "+00:00", ""}[l.seq%3]
	return `"` + fromMicros(us).Format("2006-01-02T15:04:05.999999") + zone + `"`
}

func (l *listed) number(f float64, has uint8) string {
	if l.has&has == 0 {
		return ""
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func quoteOr(s *string) string {
	if s == nil {
		return ""
	}
	return quote(*s)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be marshaled
	}
	return string(b)
}

// body makes one input or output of at least n bytes, as JSON: with escapes,
// with UTF-8 of every length, and with text that looks like a row.
func body(n int) string {
	if n == 0 {
		return ""
	}
	const piece = Secret + ` "quoted" \ back, é, 日本, 🙂, ` + "tab\tline\n\u2028" +
		`{"id":"not-a-trace","total_tokens":999999999}],"data":[` + " "
	pieces := slices.Repeat([]string{piece}, n/len(piece)+1)
	return quote(strings.Join(pieces, ""))
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
