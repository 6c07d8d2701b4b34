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

// allProjects stands for all projects in place of the name of one.
const allProjects = ""

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

// Scrapers knows who scrapes which projects, and what each scraper has provably
// read. A server cannot see what becomes of a response; the best evidence is that
// the scraper, after it was sent all of it, sends another request over the same
// connection, which it cannot do before it has read the response. A scraper that
// announces that it closes its connections only has to come again. All methods are
// safe for concurrent use.
//
// The targets of a job that have one address share a pool of connections, so a
// project may come over any of them, and the pools of two servers on one host look
// alike. Hence each connection is a scraper of what it asked for: in a pool, it is
// waited for until it asks again or expires, whichever other connections ask.
//
// It is the one place where information flows from a scrape back to what is
// exposed.
type Scrapers struct {
	now    func() time.Time
	mu     sync.Mutex
	open   map[net.Conn]*scraper // by connection
	closed []*scraper            // whose connection is closed
}

// scraper is a client that may be a scraper: one connection, and those that it
// replaced. It counts as a scraper once it has provably read something.
type scraper struct {
	host, agent string
	closes      bool                // does not reuse its connection
	proven      bool                // it has read something
	first       time.Time           // when its first scrape began; zero if it replaced another one
	seen        time.Time           // when its last scrape began
	scrapes     map[string]*scrapes // by project, or allProjects
	last        *scrapes            // that the last one over the connection is one of
}

// scrapes are those of one project, or of all.
type scrapes struct {
	seen time.Time // when its last scrape began
	sent time.Time // when the last one began that was sent in full
	read time.Time // when the last one began that was provably read
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

// Watch records the scrapes of a project, or of all (allProjects), that a handler of
// an attached server answers. A request is a scrape if it has a timeout
// (X-Prometheus-Scrape-Timeout-Seconds) and asks for all metrics.
func (s *Scrapers) Watch(project string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, attached := req.Context().Value(connKey{}).(net.Conn)
		timeout, ok := scrapeTimeout(req)
		if !attached || !ok || req.Method != http.MethodGet || req.URL.Query().Has("name[]") {
			next.ServeHTTP(w, req)
			return
		}
		began := s.begin(conn, req, project)
		a := &answer{ResponseWriter: w, status: http.StatusOK, request: req.Context()}
		next.ServeHTTP(a, req)
		if a.status == http.StatusOK && a.err == nil && s.now().Sub(began) <= timeout {
			s.end(conn, project, began)
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
// it at that time, alone or with all others; false if there are none. Clients that
// have not read anything yet are not waited for: any client can send one request and
// hang up.
func (s *Scrapers) AllRead(project string, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, found := s.now(), false
	for c := range s.all() {
		if !c.isScraper(now) {
			continue
		}
		for _, name := range []string{project, allProjects} {
			p := c.scrapes[name]
			if p == nil || !isCurrent(p.seen, now) {
				continue
			}
			found = true
			if !p.read.After(since) {
				return false
			}
		}
	}
	return found
}

// isCurrent reports whether a scrape at a time makes its client a scraper still.
func isCurrent(seen, now time.Time) bool { return now.Sub(seen) <= scraperExpiry }

func (c *scraper) isScraper(now time.Time) bool { return c.proven && isCurrent(c.seen, now) }

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
func (s *Scrapers) begin(conn net.Conn, req *http.Request, project string) time.Time {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		host = req.RemoteAddr // of a Unix socket
	}
	agent := req.UserAgent()
	agent = strings.Clone(agent[:min(len(agent), maxAgent)])
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	c := s.open[conn]
	if c == nil {
		c = s.reconnected(host, agent)
		s.open[conn] = c
	}
	p := c.scrapes[project]
	if p == nil {
		// Of projects that were removed, nothing is left.
		maps.DeleteFunc(c.scrapes, func(_ string, p *scrapes) bool { return !isCurrent(p.seen, now) })
		p = new(scrapes)
		c.scrapes[project] = p
	}
	// Only those of one target never overlap with HTTP/2, or without reuse.
	before := c.last
	if req.ProtoMajor > 1 || req.Close {
		before = p
	}
	if before != nil && !before.sent.IsZero() && (c.isScraper(now) || !s.isFull(now)) {
		if before.sent.After(before.read) {
			before.read = before.sent
		}
		c.proven = true
	}
	c.seen, c.closes, c.last = now, req.Close, p
	p.seen = now
	return now
}

// reconnected returns the scraper that comes back over another connection, or a
// new one.
func (s *Scrapers) reconnected(host, agent string) *scraper {
	i := slices.IndexFunc(s.closed, func(c *scraper) bool { return c.host == host && c.agent == agent })
	if i < 0 {
		return &scraper{host: host, agent: agent, first: s.now(), scrapes: map[string]*scrapes{}}
	}
	c := s.closed[i]
	s.closed = slices.Delete(s.closed, i, i+1)
	c.first, c.last = time.Time{}, nil
	return c
}

// replaced reports whether a scraper whose connection is closed has come back over another
// one before that was known, as it does where a scrape times out.
func (s *Scrapers) replaced(c *scraper) bool {
	for by := range maps.Values(s.open) {
		if by.host == c.host && by.agent == c.agent && by.first.After(c.seen) {
			by.first, by.proven = time.Time{}, true
			for project, p := range c.scrapes {
				if own := by.scrapes[project]; own == nil {
					by.scrapes[project] = p
				} else if p.read.After(own.read) {
					own.read = p.read
				}
			}
			return true
		}
	}
	return false
}

func (s *Scrapers) end(conn net.Conn, project string, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// If it is closed by now, it was closed before all was sent.
	c := s.open[conn]
	if c == nil {
		return
	}
	if p := c.scrapes[project]; p != nil {
		if began.After(p.sent) {
			p.sent = began
		}
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
		for _, p := range c.scrapes {
			p.sent = p.read // it may have been closed instead of being read
		}
	}
	if c.proven && !c.closes && s.replaced(c) {
		return
	}
	now := s.now()
	s.closed = slices.DeleteFunc(append(s.closed, c), func(c *scraper) bool { return !isCurrent(c.seen, now) || !c.proven && !c.wasSent() })
	if len(s.closed) > maxScrapers {
		if i := slices.IndexFunc(s.closed, func(c *scraper) bool { return !c.proven }); i >= 0 {
			s.closed = slices.Delete(s.closed, i, i+1)
		}
	}
}

// wasSent reports whether a client was sent anything in full.
func (c *scraper) wasSent() bool {
	for _, p := range c.scrapes {
		if !p.sent.IsZero() {
			return true
		}
	}
	return false
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
