package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"time"

	"opper_exporter/opper/oppertest"
)

// upstream lies between the exporter and Opper: it can spoil answers, and sees
// from the honest ones when the whole list has been read.
type upstream struct {
	opper    *oppertest.Server
	timeline *timeline

	mu     sync.Mutex
	spoil  func(w http.ResponseWriter, r *http.Request, next http.Handler)
	chain  chain
	scans  []scan
	served int
}

// scan is a time in which every row that was listed throughout was served.
type scan struct{ start, end time.Time }

func newUpstream(opper *oppertest.Server, tl *timeline) *upstream {
	return &upstream{opper: opper, timeline: tl}
}

// spoiled sets what is done to requests instead of passing them on; nil passes
// them on.
func (u *upstream) spoiled(by func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.spoil = by
}

// ServeHTTP implements http.Handler.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	spoil := u.spoil
	u.mu.Unlock()
	now := time.Now()
	switch {
	case spoil != nil:
		spoil(w, r, u.opper)
	case len(u.timeline.during(now, now, failing)) > 0:
		u.chain.reset(&u.mu)
		u.opper.ServeHTTP(w, r)
	default:
		u.honest(w, r)
	}
}

// honest passes a request on and looks at the answer.
func (u *upstream) honest(w http.ResponseWriter, r *http.Request) {
	asked := time.Now()
	rec := recorded(u.opper, r)
	if rec.Code == http.StatusOK {
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset")) // 0 without one
		if ids, listing := rowsOf(rec.Body.Bytes()); listing {
			u.mu.Lock()
			if s, ok := u.chain.add(asked, offset, ids, offset+len(ids) >= u.opper.Len()); ok {
				u.scans = append(u.scans, s)
			}
			u.mu.Unlock()
		}
	}
	replay(w, rec)
}

// fullScans returns when the whole list has been read.
func (u *upstream) fullScans() []scan {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.scans
}

func recorded(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func replay(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()) // the client may have left
}

// rowsOf returns the ids of a page; ok is false if it is none.
func rowsOf(body []byte) (ids []string, ok bool) {
	var page struct {
		Data []struct{ ID string } `json:"data"`
	}
	if json.Unmarshal(body, &page) != nil || page.Data == nil {
		return nil, false
	}
	for _, row := range page.Data {
		ids = append(ids, row.ID)
	}
	return ids, true
}

// chain follows pages that share rows from the start of the list to its end,
// whoever asked for them, and whatever else was asked for in between.
type chain struct {
	began, grew time.Time
	last        []string // the ids of the last page; nil if there is none
}

// maxPause is how long after its last page a chain is given up.
const maxPause = 2 * time.Minute

func (c *chain) reset(mu sync.Locker) {
	mu.Lock()
	defer mu.Unlock()
	c.last = nil
}

func (c *chain) add(at time.Time, offset int, ids []string, end bool) (scan, bool) {
	if c.last != nil && at.Sub(c.grew) > maxPause {
		c.last = nil
	}
	switch {
	case c.last == nil && offset == 0:
		c.began = at
	case c.last == nil || !c.joins(ids):
		return scan{}, false
	}
	c.last, c.grew = ids, at
	if !end {
		return scan{}, false
	}
	c.last = nil
	return scan{c.began, time.Now()}, true
}

// joins reports whether a page begins within the last one and goes further.
func (c *chain) joins(ids []string) bool {
	if len(ids) == 0 {
		return false
	}
	in := make(map[string]bool, len(c.last))
	for _, id := range c.last {
		in[id] = true
	}
	return in[ids[0]] && (!in[ids[len(ids)-1]] || ids[len(ids)-1] == c.last[len(c.last)-1] && len(ids) < len(c.last))
}

// ignoreOffset answers every listing with the first page, as a cache does that
// leaves the query out of its key.
func ignoreOffset(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r = r.Clone(r.Context())
	query := r.URL.Query()
	query.Del("offset")
	r.URL = &url.URL{Path: r.URL.Path, RawQuery: query.Encode()}
	next.ServeHTTP(w, r)
}

// refuseRows answers listings that hold one of the ids with an error.
func refuseRows(bad map[string]bool) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := recorded(next, r)
		ids, _ := rowsOf(rec.Body.Bytes())
		for _, id := range ids {
			if bad[id] {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		replay(w, rec)
	}
}

// reset closes the connection without an answer, hard.
func reset(w http.ResponseWriter, _ *http.Request, _ []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0) // it is closed in any case
	}
	_ = conn.Close()
}

// trickle sends the honest answer in small pieces.
func trickle(over time.Duration) oppertest.Answer {
	return func(w http.ResponseWriter, r *http.Request, honest []byte) {
		w.Header().Set("Content-Type", "application/json")
		const pieces = 20
		for part := range bytesIn(honest, pieces) {
			if _, err := w.Write(part); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // the next write tells
			sleep(r.Context(), over/pieces)
		}
	}
}

func bytesIn(b []byte, pieces int) func(func([]byte) bool) {
	size := max(len(b)/pieces, 1)
	return func(yield func([]byte) bool) {
		for r := bytes.NewReader(b); r.Len() > 0; {
			part := make([]byte, min(size, r.Len()))
			_, _ = r.Read(part) // a bytes.Reader has what it says
			if !yield(part) {
				return
			}
		}
	}
}
