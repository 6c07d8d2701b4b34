package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
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
	chains chains
	scans  []scan
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
		u.mu.Lock()
		u.chains = nil
		u.mu.Unlock()
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
			if s, ok := u.chains.add(asked, offset, ids, offset+len(ids) >= u.opper.Len()); ok {
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
	maps.Copy(w.Header(), rec.Header())
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

// chain is a row of pages from the start of the list on, each of which shares rows
// with the one before, whichever client asked for them.
type chain struct {
	began, grew time.Time
	last        []string // the ids of the last page
	head        bool     // it is the first as well
}

// chains are those that may still come to the end of the list.
type chains []chain

const (
	maxChains = 50
	// maxPause is how long after its last page a chain is given up.
	maxPause = 5 * time.Minute
)

// add takes in a page. If it ends the list, and a chain leads to it, it returns
// when that was read.
func (c *chains) add(at time.Time, offset int, ids []string, end bool) (scan, bool) {
	var began time.Time
	kept := (*c)[:0]
	for _, old := range *c {
		if offset > 0 && old.joins(ids) && old.began.After(began) {
			began = old.began
		}
		if at.Sub(old.grew) <= maxPause && (offset > 0 || !old.head) {
			kept = append(kept, old)
		}
	}
	*c = kept[max(0, len(kept)-maxChains):]
	if offset == 0 {
		began = at
	}
	if began.IsZero() {
		return scan{}, false
	}
	if end {
		*c = nil
		return scan{began, time.Now()}, true
	}
	*c = append(*c, chain{began, at, ids, offset == 0})
	return scan{}, false
}

// joins reports whether a page begins within the last one.
func (c *chain) joins(ids []string) bool { return len(ids) > 0 && slices.Contains(c.last, ids[0]) }

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
		_ = tcp.SetLinger(0) // it is closed either way
	}
	_ = conn.Close()
}

// trickle sends a share of the answers in small pieces, over up to some time.
func trickle(share float64, most time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if rand.Float64() >= share {
			next.ServeHTTP(w, r)
			return
		}
		rec := recorded(next, r)
		const pieces = 20
		pause := rand.N(most) / pieces
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		for part := range bytesIn(rec.Body.Bytes(), pieces) {
			if _, err := w.Write(part); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // the next write tells
			sleep(r.Context(), pause)
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
