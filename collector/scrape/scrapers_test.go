package scrape

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
)

// clock is the time of the scrapers.
type clock struct{ us atomic.Int64 }

func (c *clock) now() time.Time { return time.UnixMicro(c.us.Load()).UTC() }

func (c *clock) step(d time.Duration) { c.us.Add(d.Microseconds()) }

// page is a server whose answers are watched by Scrapers, at a time that the test
// sets.
type page struct {
	*clock
	*httptest.Server
	scrapers  *Scrapers
	answer    http.HandlerFunc
	addresses map[*http.Client]string // of their last connections
}

// newPage serves more than a connection's buffer in the server takes.
func newPage(t *testing.T, secure bool) *page {
	t.Helper()
	p := &page{clock: new(clock), addresses: map[*http.Client]string{}}
	p.us.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	p.answer = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("metric 1\n", 2000)) // the test says what becomes of it
	}
	p.scrapers = NewScrapers(p.now)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.scrapers.Watch(r.URL.Query().Get(targetParam), p.answer).ServeHTTP(w, r)
	}))
	p.scrapers.Attach(p.Config)
	if secure {
		p.EnableHTTP2 = true
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

// scraper has connections of its own.
func (p *page) scraper() *http.Client {
	tr := p.Client().Transport.(*http.Transport).Clone()
	return &http.Client{Transport: tr}
}

// scrape reads all of an answer, later than all that was before.
func (p *page) scrape(t *testing.T, c *http.Client, change ...func(*http.Request)) {
	t.Helper()
	p.step(time.Millisecond)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { p.addresses[c] = info.Conn.LocalAddr().String() },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
	req.Header.Set("User-Agent", "Prometheus/3")
	for _, f := range change {
		f(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if secure := resp.TLS != nil; secure != (resp.ProtoMajor == 2) {
		t.Errorf("%s, TLS: %v", resp.Proto, secure)
	}
	p.step(time.Millisecond)
}

// leave closes the idle connection of a scraper, and waits until that is known.
func (p *page) leave(t *testing.T, c *http.Client) {
	t.Helper()
	c.CloseIdleConnections()
	promtest.Eventually(t, func() error {
		p.scrapers.mu.Lock()
		defer p.scrapers.mu.Unlock()
		for conn := range p.scrapers.open {
			if conn.RemoteAddr().String() == p.addresses[c] {
				return errors.New("the scraper is still connected")
			}
		}
		return nil
	})
}

// awaitOpen waits until so many scrapers are connected.
func (p *page) awaitOpen(t *testing.T, n int) {
	t.Helper()
	promtest.Eventually(t, func() error {
		p.scrapers.mu.Lock()
		defer p.scrapers.mu.Unlock()
		if got := len(p.scrapers.open); got != n {
			return fmt.Errorf("%d scrapers are connected, want %d", got, n)
		}
		return nil
	})
}

func hangUp(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// raw sends a request, with more lines in its head, and reads nothing. The
// connection stays open until the server is closed, at least.
func (p *page) raw(t *testing.T, head ...string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.step(time.Millisecond)
	lines := append([]string{"GET /metrics HTTP/1.1", "Host: x", "User-Agent: Prometheus/3", "X-Prometheus-Scrape-Timeout-Seconds: 10"}, head...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	return conn
}

func TestReadOnceTheConnectionIsReused(t *testing.T) {
	for _, secure := range []bool{false, true} {
		p := newPage(t, secure)
		since, c := p.now(), p.scraper()
		p.scrape(t, c)
		if p.scrapers.AllRead("", since) {
			t.Errorf("TLS %v: read after one scrape", secure)
		}
		p.scrape(t, c)
		if !p.scrapers.AllRead("", since) {
			t.Errorf("TLS %v: not read after a second scrape over the same connection", secure)
		}
		if p.scrapers.AllRead("", p.now()) {
			t.Errorf("TLS %v: read before it was shown", secure)
		}
	}
}

func TestNothingIsReadWithoutScrapers(t *testing.T) {
	if p := newPage(t, false); p.scrapers.AllRead("", p.now()) {
		t.Error("read by no scraper")
	}
}

// A client that does not provably read a whole response is no scraper, however
// often it asks.
func TestOtherClientsAreNoScrapers(t *testing.T) {
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	ask := func(change ...func(*http.Request)) func(*testing.T, *page) {
		return func(t *testing.T, p *page) {
			t.Helper()
			c := p.scraper()
			for range 4 {
				p.scrape(t, c, change...)
			}
		}
	}
	with := func(answer http.HandlerFunc) func(*testing.T, *page) {
		return func(t *testing.T, p *page) {
			t.Helper()
			p.answer = answer
			ask()(t, p)
		}
	}
	for what, ask := range map[string]func(*testing.T, *page){
		"a person":       ask(func(r *http.Request) { r.Header.Del("X-Prometheus-Scrape-Timeout-Seconds") }),
		"no timeout":     ask(set("X-Prometheus-Scrape-Timeout-Seconds", "soon")),
		"some metrics":   ask(func(r *http.Request) { r.URL.RawQuery = "name[]=opper_up" }),
		"only the head":  ask(func(r *http.Request) { r.Method = http.MethodHead }),
		"an error":       with(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) }),
		"nothing at all": with(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		"another connection for each": func(t *testing.T, p *page) {
			t.Helper()
			for range 4 {
				c := p.scraper()
				p.scrape(t, c)
				p.leave(t, c)
			}
		},
		"never reading": func(t *testing.T, p *page) {
			t.Helper()
			for i := range 4 {
				p.raw(t)
				p.awaitOpen(t, i+1)
			}
		},
		"closing instead of reading": func(t *testing.T, p *page) {
			t.Helper()
			for range 4 {
				conn := p.raw(t)
				// One byte of the answer says that the rest is on its way.
				if _, err := bufio.NewReader(conn).ReadByte(); err != nil {
					t.Fatal(err)
				}
				hangUp(t, conn)
				p.awaitOpen(t, 0)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPage(t, false)
			since := p.now()
			ask(t, p)
			p.step(time.Minute)
			if p.scrapers.AllRead("", since) {
				t.Error("taken for read")
			}
		})
	}
}

// An answer that came later than the scraper waits is not read, nor one that it
// did not wait for.
func TestResponseAfterTheTimeoutIsNotRead(t *testing.T) {
	p := newPage(t, false)
	quick := p.answer
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		p.step(11 * time.Second)
		quick(w, r)
	}
	since, c := p.now(), p.scraper()
	for range 3 {
		p.scrape(t, c)
	}
	if p.scrapers.AllRead("", since) {
		t.Error("read after its timeout")
	}
	p.answer = quick
	p.scrape(t, c)
	p.scrape(t, c)
	if !p.scrapers.AllRead("", since) {
		t.Error("not read in time")
	}
}

// Without reuse, a second scrape is evidence if the first said so.
func TestScraperThatClosesIsReadOnceItReturns(t *testing.T) {
	p := newPage(t, false)
	since := p.now()
	closing := func(r *http.Request) { r.Close = true }
	p.scrape(t, p.scraper(), closing)
	if p.scrapers.AllRead("", since) {
		t.Error("read after one scrape")
	}
	other := func(r *http.Request) { r.Header.Set("User-Agent", "another") }
	p.scrape(t, p.scraper(), closing, other)
	if p.scrapers.AllRead("", since) {
		t.Error("read after one scrape each of two")
	}
	p.scrape(t, p.scraper(), closing)
	p.scrape(t, p.scraper(), closing, other)
	if !p.scrapers.AllRead("", since) {
		t.Error("not read after two scrapes each")
	}
}

// What was sent over a connection that is closed by now may not have been read, unless
// the scraper had announced that.
func TestComingBackIsNoEvidence(t *testing.T) {
	for _, secure := range []bool{false, true} {
		p := newPage(t, secure)
		since, c := p.now(), p.scraper()
		for range 3 {
			p.scrape(t, c)
			p.leave(t, c)
		}
		if p.scrapers.AllRead("", since) {
			t.Errorf("TLS %t: read by coming back", secure)
		}
		p.scrape(t, c)
		p.scrape(t, c)
		if !p.scrapers.AllRead("", since) {
			t.Errorf("TLS %t: not read over one connection", secure)
		}
	}
}

// A client that closes its connections does so as soon as it has read everything,
// which may be before the handler has returned.
func TestHangUpAfterReading(t *testing.T) {
	p := newPage(t, false)
	quick := p.answer
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "ok")
		_ = http.NewResponseController(w).Flush() // the client says whether it arrived
		<-r.Context().Done()
	}
	since := p.now()
	closing := func(r *http.Request) { r.Close = true }
	p.scrape(t, p.scraper(), closing)
	p.awaitOpen(t, 0)
	p.answer = quick
	p.scrape(t, p.scraper(), closing)
	if !p.scrapers.AllRead("", since) {
		t.Error("not read after two scrapes")
	}
}

// A client that hangs up before it is answered has read nothing.
func TestHangUpBeforeAnswer(t *testing.T) {
	p := newPage(t, false)
	quick := p.answer
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		w.WriteHeader(http.StatusOK)
	}
	since := p.now()
	conn := p.raw(t, "Connection: close")
	p.awaitOpen(t, 1)
	hangUp(t, conn)
	p.awaitOpen(t, 0)
	p.answer = quick
	p.scrape(t, p.scraper(), func(r *http.Request) { r.Close = true })
	if p.scrapers.AllRead("", since) {
		t.Error("taken for sent")
	}
}

// A connection that breaks while it is written to has read nothing.
func TestBrokenResponseIsNotRead(t *testing.T) {
	p := newPage(t, false)
	quick := p.answer
	failed := make(chan struct{}, 1)
	p.answer = func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				failed <- struct{}{}
				return
			}
		}
	}
	since := p.now()
	conn := p.raw(t, "Connection: close")
	p.awaitOpen(t, 1)
	hangUp(t, conn)
	<-failed
	p.awaitOpen(t, 0)
	p.answer = quick
	p.scrape(t, p.scraper(), func(r *http.Request) { r.Close = true })
	if p.scrapers.AllRead("", since) {
		t.Error("taken for sent")
	}
}

func TestResponseWriterPassesErrorsOn(t *testing.T) {
	w := httptest.NewRecorder()
	a := &answer{ResponseWriter: w}
	if err := http.NewResponseController(a).Flush(); err != nil || !w.Flushed {
		t.Errorf("flush: %v", err)
	}
	a.ResponseWriter = brokenWriter{w}
	if _, err := a.Write([]byte("x")); err == nil || a.err == nil {
		t.Error("the error of a write is lost")
	}
}

type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }
