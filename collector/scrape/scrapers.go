package scrape

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

// scraperExpiry is how long after its last scrape a scraper is still waited for:
// Prometheus treats what it read before that as stale.
const scraperExpiry = 5 * time.Minute

const (
	// maxScrapers is the maximum number of scrapers that are waited for. While
	// they scrape, no other client can take the place of one.
	maxScrapers = 64
	// maxAgent is the maximum number of bytes of a User-Agent that are compared.
	maxAgent = 256
	// maxScrapeTimeout is the longest scrape timeout that is accepted.
	maxScrapeTimeout = 2 * time.Minute
)

// Scrapers knows who scrapes, and what each scraper has provably read. A server
// cannot see what becomes of a response; the best evidence is that the scraper,
// after it was sent all of it, sends another request over the same connection,
// which it cannot do before it has read the response. A scraper that announces
// that it closes its connections only has to come again. All methods are safe for
// concurrent use.
//
// It is the one place where information flows from a scrape back to what is
// exposed.
type Scrapers struct {
	now    func() time.Time
	mu     sync.Mutex
	open   map[net.Conn]*scraper // by connection
	closed []*scraper            // whose connection is closed
}

// scraper is a client that may be a scraper: Prometheus has a connection of its
// own for each target. It counts as a scraper once it has provably read something.
type scraper struct {
	host, agent string
	closes      bool      // does not reuse its connection
	seen        time.Time // when its last scrape began
	sent        time.Time // when the last one began that was sent in full
	read        time.Time // when the last one began that was provably read
}

type connKey struct{}

// NewScrapers returns Scrapers without any scraper.
func NewScrapers(now func() time.Time) *Scrapers {
	return &Scrapers{now: now, open: map[net.Conn]*scraper{}}
}

// Attach makes a server report the connection of each request, and when one is
// closed. It must be called before the server serves.
func (s *Scrapers) Attach(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			s.close(conn)
		}
	}
}

// Watch records the scrapes that a handler of an attached server answers. A
// request is a scrape if it has a timeout (X-Prometheus-Scrape-Timeout-Seconds)
// and asks for all metrics.
func (s *Scrapers) Watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, attached := req.Context().Value(connKey{}).(net.Conn)
		timeout, ok := scrapeTimeout(req)
		if !attached || !ok || req.Method != http.MethodGet || req.URL.Query().Has("name[]") {
			next.ServeHTTP(w, req)
			return
		}
		began := s.begin(conn, req)
		a := &answer{ResponseWriter: w, status: http.StatusOK, request: req.Context()}
		next.ServeHTTP(a, req)
		if a.status == http.StatusOK && a.err == nil && s.now().Sub(began) <= timeout {
			s.end(conn, began)
		}
		if req.Close {
			s.close(conn) // the server itself closes it later
		}
	})
}

// IsScraper reports whether a scraper uses a connection.
func (s *Scrapers) IsScraper(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.open[conn]
	return c != nil && c.isScraper(s.now())
}

// AllRead reports whether all scrapers of a project have read what was exposed of
// it at that time; false if there are none. Clients that have not read anything yet are not waited
// for: any client can send one request and hang up.
func (s *Scrapers) AllRead(_ string, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, found := s.now(), false
	for c := range s.all() {
		if c.isScraper(now) {
			found = true
			if !c.read.After(since) {
				return false
			}
		}
	}
	return found
}

func (c *scraper) isCurrent(now time.Time) bool { return now.Sub(c.seen) <= scraperExpiry }

func (c *scraper) isScraper(now time.Time) bool { return !c.read.IsZero() && c.isCurrent(now) }

func (s *Scrapers) all() iter.Seq[*scraper] {
	return slices.Values(slices.AppendSeq(slices.Clone(s.closed), maps.Values(s.open)))
}

// isFull reports whether there are maxScrapers scrapers.
func (s *Scrapers) isFull(now time.Time) bool {
	n := 0
	for c := range s.all() {
		if c.isScraper(now) {
			n++
		}
	}
	return n >= maxScrapers
}

// begin records a scrape, and that what was sent before has been read.
func (s *Scrapers) begin(conn net.Conn, req *http.Request) time.Time {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		host = req.RemoteAddr // of a Unix socket
	}
	agent := req.UserAgent()
	agent = strings.Clone(agent[:min(len(agent), maxAgent)])
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.open[conn]
	if c == nil {
		c = s.reconnected(host, agent)
		s.open[conn] = c
	}
	now := s.now()
	if c.isScraper(now) || !s.isFull(now) {
		c.read = latest(c.read, c.sent)
	}
	c.seen, c.closes = now, req.Close
	return now
}

// reconnected returns the scraper that comes back over another connection, or a
// new one.
func (s *Scrapers) reconnected(host, agent string) *scraper {
	i := slices.IndexFunc(s.closed, func(c *scraper) bool { return c.host == host && c.agent == agent })
	if i < 0 {
		return &scraper{host: host, agent: agent}
	}
	c := s.closed[i]
	s.closed = slices.Delete(s.closed, i, i+1)
	return c
}

func (s *Scrapers) end(conn net.Conn, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// If it is closed by now, it was closed before all was sent.
	if c := s.open[conn]; c != nil {
		c.sent = latest(c.sent, began)
	}
}

func (s *Scrapers) close(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.open[conn]
	if c == nil {
		return
	}
	delete(s.open, conn)
	if !c.closes {
		c.sent = c.read // it may have been closed instead of being read
	}
	now := s.now()
	s.closed = slices.DeleteFunc(append(s.closed, c), func(c *scraper) bool { return c.sent.IsZero() || !c.isCurrent(now) })
	if len(s.closed) > maxScrapers {
		if i := slices.IndexFunc(s.closed, func(c *scraper) bool { return c.read.IsZero() }); i >= 0 {
			s.closed = slices.Delete(s.closed, i, i+1)
		}
	}
}

// scrapeTimeout returns the timeout in a request's header, if it has one, up to
// maxScrapeTimeout.
func scrapeTimeout(r *http.Request) (time.Duration, bool) {
	seconds, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0 && seconds < 3600) {
		return 0, false
	}
	return min(time.Duration(seconds*float64(time.Second)), maxScrapeTimeout), true
}

// answer records how a request was answered.
type answer struct {
	http.ResponseWriter
	request context.Context //nolint:containedctx // ends when the client hangs up
	status  int
	err     error
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.status = status
	// Later a client may hang up because it has read everything.
	a.err = a.request.Err()
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

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
