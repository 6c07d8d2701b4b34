package collector

import (
	"context"
	"iter"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// scraperLasts is for how long after its last scrape a scraper is waited for:
// by then, a server takes what it has read for stale.
const scraperLasts = 5 * time.Minute

const (
	// maxScrapers is how many scrapers are waited for. While they scrape, no
	// other client can take the place of one.
	maxScrapers = 64
	// maxAgent is how many bytes of a User-Agent are compared.
	maxAgent = 256
	// maxScrapeTimeout is the longest timeout that a scraper is believed.
	maxScrapeTimeout = 2 * time.Minute
)

// ScraperIdle is how long a scraper keeps its connection between two scrapes. A
// server should not close it earlier.
const ScraperIdle = scraperLasts

// Readers knows who scrapes, and what each of them has surely read. What becomes
// of an answer can't be known; the best evidence is that the scraper, once it was
// sent all of it, asks again over the same connection, which it can't before it
// has read it. A scraper that said that it closes its connections only has to
// come again. All methods are safe for concurrent use.
//
// It is the one place where something flows from a scrape to what is shown.
type Readers struct {
	now  func() time.Time
	mu   sync.Mutex
	open map[net.Conn]*reader // scrapers by their connection
	left []*reader            // scrapers whose connection is closed
}

// reader is a client that may be a scraper: a server has a connection of its own
// for each target. It is a scraper once it has surely read something.
type reader struct {
	host, agent string
	closes      bool      // it does not use its connection again
	seen        time.Time // when its last scrape began
	sent        time.Time // when the last one began that was sent in full
	read        time.Time // when the last one began that has surely been read
}

type connKey struct{}

// NewReaders returns a Readers that knows nobody yet.
func NewReaders(now func() time.Time) *Readers {
	return &Readers{now: now, open: map[net.Conn]*reader{}}
}

// Attach makes a server tell which connection a request came by, and when one
// is closed. It must be called before the server serves.
func (r *Readers) Attach(s *http.Server) {
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			r.closed(conn)
		}
	}
}

// Watch takes note of the scrapes that a handler of an attached server answers.
// A request counts as a scrape if it says how long it waits
// (X-Prometheus-Scrape-Timeout-Seconds) and asks for all metrics.
func (r *Readers) Watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, attached := req.Context().Value(connKey{}).(net.Conn)
		timeout, told := timeoutOf(req)
		if !attached || !told || req.Method != http.MethodGet || req.URL.Query().Has("name[]") {
			next.ServeHTTP(w, req)
			return
		}
		began := r.begin(conn, req)
		a := &answer{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(a, req)
		if a.status == http.StatusOK && a.err == nil && req.Context().Err() == nil && r.now().Sub(began) <= timeout {
			r.end(conn, began)
		}
		if req.Close {
			r.closed(conn) // the server itself waits a while
		}
	})
}

// IsScraper reports whether a scraper uses a connection.
func (r *Readers) IsScraper(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rd := r.open[conn]
	return rd != nil && rd.isScraper(r.now())
}

// AllRead reports whether all scrapers have read what has been shown since then;
// false if there are none. Clients that have not read anything yet are not
// waited for: anybody can send one request and hang up.
func (r *Readers) AllRead(since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, anybody := r.now(), false
	for rd := range r.all() {
		if rd.isScraper(now) {
			anybody = true
			if !rd.read.After(since) {
				return false
			}
		}
	}
	return anybody
}

func (rd *reader) lasts(now time.Time) bool { return now.Sub(rd.seen) <= scraperLasts }

func (rd *reader) isScraper(now time.Time) bool { return !rd.read.IsZero() && rd.lasts(now) }

func (r *Readers) all() iter.Seq[*reader] {
	return slices.Values(slices.AppendSeq(slices.Clone(r.left), maps.Values(r.open)))
}

// isFull reports whether there are as many scrapers as are waited for.
func (r *Readers) isFull(now time.Time) bool {
	n := 0
	for rd := range r.all() {
		if rd.isScraper(now) {
			n++
		}
	}
	return n >= maxScrapers
}

// begin takes note of a scrape, and that what was sent before has been read.
func (r *Readers) begin(conn net.Conn, req *http.Request) time.Time {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		host = req.RemoteAddr // of a Unix socket
	}
	agent := req.UserAgent()
	agent = strings.Clone(agent[:min(len(agent), maxAgent)])
	r.mu.Lock()
	defer r.mu.Unlock()
	rd := r.open[conn]
	if rd == nil {
		rd = r.back(host, agent)
		r.open[conn] = rd
	}
	now := r.now()
	if rd.isScraper(now) || !r.isFull(now) {
		rd.read = latest(rd.read, rd.sent)
	}
	rd.seen, rd.closes = now, req.Close
	return now
}

// back returns the scraper that has left and comes by another connection, or a
// new one.
func (r *Readers) back(host, agent string) *reader {
	i := slices.IndexFunc(r.left, func(rd *reader) bool { return rd.host == host && rd.agent == agent })
	if i < 0 {
		return &reader{host: host, agent: agent}
	}
	rd := r.left[i]
	r.left = slices.Delete(r.left, i, i+1)
	return rd
}

func (r *Readers) end(conn net.Conn, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// If it is closed by now, it was before all was sent.
	if rd := r.open[conn]; rd != nil {
		rd.sent = latest(rd.sent, began)
	}
}

func (r *Readers) closed(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rd := r.open[conn]
	if rd == nil {
		return
	}
	delete(r.open, conn)
	if !rd.closes {
		rd.sent = rd.read // perhaps it was closed in the place of reading
	}
	now := r.now()
	r.left = slices.DeleteFunc(append(r.left, rd), func(rd *reader) bool { return rd.sent.IsZero() || !rd.lasts(now) })
	if len(r.left) > maxScrapers {
		if i := slices.IndexFunc(r.left, func(rd *reader) bool { return rd.read.IsZero() }); i >= 0 {
			r.left = slices.Delete(r.left, i, i+1)
		}
	}
}

// timeoutOf returns how long a scraper says that it waits, if it does, but no
// more than maxScrapeTimeout.
func timeoutOf(r *http.Request) (time.Duration, bool) {
	s, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(s > 0 && s < 3600) {
		return 0, false
	}
	return min(time.Duration(s*float64(time.Second)), maxScrapeTimeout), true
}

// answer remembers how a request was answered.
type answer struct {
	http.ResponseWriter
	status int
	err    error
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	n, err := a.ResponseWriter.Write(b)
	if err != nil {
		a.err = err
	}
	return n, err
}

// FlushError is for http.ResponseController.
func (a *answer) FlushError() error {
	err := http.NewResponseController(a.ResponseWriter).Flush()
	if err != nil {
		a.err = err
	}
	return err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
