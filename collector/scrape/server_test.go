package scrape

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/deploy/test/exportertest"
)

// patience is how long a test waits for what has to happen.
const patience = 2 * time.Minute

// awaitClosed reads a connection until the server has closed it.
func awaitClosed(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	var late net.Error
	if _, err := io.Copy(io.Discard, conn); errors.As(err, &late) && late.Timeout() {
		t.Errorf("%s: still open", what)
	}
}

// change is one of a server before it serves.
type change func(*http.Server, *Scrapers)

// readWithin sets the timeout for a request, and for a TLS handshake.
func readWithin(timeout time.Duration) change {
	return func(server *http.Server, _ *Scrapers) {
		server.ReadHeaderTimeout, server.ReadTimeout = timeout, timeout
	}
}

// newServer returns the server of a handler that scrapers read.
func newServer(h http.Handler, changes ...change) *http.Server {
	scrapers := NewScrapers(time.Now)
	server := NewServer(scrapers.Watch(allProjects, h), scrapers)
	for _, f := range changes {
		f(server, scrapers)
	}
	return server
}

// listen serves a handler.
func listen(t *testing.T, h http.Handler, changes ...change) (address string) {
	t.Helper()
	server := newServer(h, changes...)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		done.Wait()
	})
	return listener.Addr().String()
}

// Connections do not stay for longer than they are used, whatever a client does
// not do.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	server := NewServer(http.NotFoundHandler(), NewScrapers(time.Now))
	for what, timeout := range map[string]time.Duration{"read": server.ReadTimeout, "header": server.ReadHeaderTimeout, "write": server.WriteTimeout, "idle": server.IdleTimeout, "HTTP/2 write": server.HTTP2.WriteByteTimeout} {
		if timeout <= 0 || timeout > 5*time.Minute {
			t.Errorf("%s timeout %v", what, timeout)
		}
	}
	address := listen(t, http.NotFoundHandler(), readWithin(10*time.Millisecond), func(server *http.Server, _ *Scrapers) { server.IdleTimeout = 10 * time.Millisecond })
	for what, text := range map[string]string{
		"nothing": "", "half a header": "GET / HTTP/1.1\r\nHost: x\r\n", "idle": exportertest.Request("GET", "/"), "no body": exportertest.Request("GET", "/", "Content-Length: 10"),
	} {
		awaitClosed(t, what, exportertest.Dial(t, address, text))
	}
}

// A scrape that waits for a sync may take longer than a request may take to
// arrive.
func TestReadTimeoutDoesNotEndALongScrape(t *testing.T) {
	t.Parallel()
	canceled := make(chan bool, 1)
	h := NewResponses(log.NewNopLogger(), time.Minute, 1<<20).Buffer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			canceled <- true
		case <-time.After(4 * time.Second):
			canceled <- false
		}
	}))
	address := listen(t, h, readWithin(3*time.Second))
	if got := exportertest.Status(t, exportertest.Dial(t, address, exportertest.Request("GET", "/"))); got != "HTTP/1.1 200 OK" || <-canceled {
		t.Errorf("a long scrape: %s, or canceled", got)
	}
}

func TestHeadersAreLimited(t *testing.T) {
	t.Parallel()
	address := listen(t, http.NotFoundHandler())
	for size, want := range map[int]string{8 << 10: "HTTP/1.1 404 Not Found", 900_000: "HTTP/1.1 431 Request Header Fields Too Large"} {
		resp, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp.Header.Set("User-Agent", strings.Repeat("x", size))
		got, err := http.DefaultTransport.RoundTrip(resp)
		if err != nil {
			t.Fatal(err)
		}
		_ = got.Body.Close() // its status says it all
		if "HTTP/1.1 "+got.Status != want {
			t.Errorf("%d bytes: %s", size, got.Status)
		}
	}
}

// Of too many connections the quietest are closed, but not those of scrapers.
func TestConnectionsOfScrapersOutliveTheLimit(t *testing.T) {
	t.Parallel()
	const maximum = 4
	found := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metric 1\n") })
	idles := make(chan struct{}, 100)
	address := listen(t, found, func(server *http.Server, scrapers *Scrapers) {
		limitConnections(server, maximum, scrapers.IsScraper)
		next := server.ConnState
		server.ConnState = func(conn net.Conn, state http.ConnState) {
			next(conn, state)
			if state == http.StateIdle {
				idles <- struct{}{}
			}
		}
	})
	scrape := exportertest.Request("GET", "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 10")
	scraper := exportertest.Dial(t, address, scrape)
	answers := bufio.NewReader(scraper)
	read := func() {
		t.Helper()
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("the scraper's connection: %v", err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		<-idles
	}
	again := func() {
		t.Helper()
		if _, err := io.WriteString(scraper, scrape); err != nil {
			t.Fatal(err)
		}
		read()
	}
	read()
	again()
	var idle []net.Conn
	for range 20 {
		idle = append(idle, exportertest.Dial(t, address, exportertest.Request("GET", "/")))
		if got := exportertest.Status(t, idle[len(idle)-1]); got != "HTTP/1.1 200 OK" {
			t.Error(got)
		}
		<-idles // the order in which they fall quiet is that in which they are closed
	}
	for _, conn := range idle[:len(idle)-maximum] {
		awaitClosed(t, "one of too many", conn)
	}
	again()
	last := idle[len(idle)-1]
	if _, err := io.WriteString(last, exportertest.Request("GET", "/")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(io.LimitReader(last, 100)); err != nil {
		t.Errorf("the latest connection: %v", err)
	}
}
