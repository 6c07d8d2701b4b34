package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector"
	"opper_exporter/opper/oppertest"
)

// dial connects to an address and sends a text. The connection is open until the
// test ends.
func dial(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// request is the head of a request.
func request(method, path string, lines ...string) string {
	return strings.Join(append([]string{method + " " + path + " HTTP/1.1", "Host: x"}, lines...), "\r\n") + "\r\n\r\n"
}

// statusOf reads the first line of a response.
func statusOf(t *testing.T, conn net.Conn) string {
	t.Helper()
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// awaitClosed reads a connection until the server has closed it.
func awaitClosed(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	var late net.Error
	if _, err := io.Copy(io.Discard, conn); errors.As(err, &late) && late.Timeout() {
		t.Errorf("%s: still open", what)
	}
}

// local serves a handler with limits that a test may change first.
func local(t *testing.T, h http.Handler, change func(*http.Server, *collector.Readers)) (address string) {
	t.Helper()
	readers := collector.NewReaders(time.Now)
	server := httptest.NewUnstartedServer(nil)
	server.Config = newServer(readers.Watch(h), readers)
	change(server.Config, readers)
	// A test server has a state hook of its own.
	listener := server.Listener
	var done sync.WaitGroup
	done.Go(func() {
		if err := server.Config.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := server.Config.Close(); err != nil {
			t.Error(err)
		}
		done.Wait()
	})
	return listener.Addr().String()
}

func unchanged(*http.Server, *collector.Readers) {}

func TestOnlyGetAndHead(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url)
	for path, code := range map[string]int{"/": 200, "/metrics": 200, "/-/healthy": 200, "/-/ready": 200, "/none": 404, "/metrics?name[]=opper_up": 200} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
			req, err := http.NewRequestWithContext(t.Context(), method, e.urls[0]+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := e.client.Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close() // it was read
			if err != nil {
				t.Fatal(err)
			}
			want := code
			if method != "GET" && method != "HEAD" {
				want = 405
			}
			if resp.StatusCode != want || (resp.Header.Get("Allow") == "GET, HEAD") != (want == 405) || (method == "HEAD") != (len(body) == 0) {
				t.Errorf("%s %s: %s, %v, %d bytes", method, path, resp.Status, resp.Header, len(body))
			}
			h := resp.Header
			if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
				t.Errorf("%s %s: %v", method, path, h)
			}
		}
	}
	if got := statusOf(t, dial(t, e.urls[0], "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")); got != "HTTP/1.1 405 Method Not Allowed" {
		t.Error("OPTIONS *:", got)
	}
}

// A body that does not come holds neither a place nor the response.
func TestBodyIsNotAwaited(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--web.max-requests=1")
	for i := range 40 {
		body := []string{"Content-Length: 1000", "Content-Length: 100000000", "Transfer-Encoding: chunked"}[i%3]
		method, want := "GET", "HTTP/1.1 200 OK"
		if i%2 == 1 {
			method, want = "POST", "HTTP/1.1 405 Method Not Allowed"
		}
		if got := statusOf(t, dial(t, e.urls[0], request(method, "/metrics", body))); got != want {
			t.Errorf("%s, %s: %s", method, body, got)
		}
	}
	if got := e.scrape().up(); got != 1 {
		t.Errorf("up %v", got)
	}
}

// Clients that do not read what they are sent hold no places, little memory,
// and not for long.
func TestClientsThatDoNotRead(t *testing.T) {
	t.Parallel()
	const size = 16 << 20 // more than the buffers of a connection
	body := bytes.Repeat([]byte("x"), size)
	big := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	for what, c := range map[string]struct {
		timeout  time.Duration
		maxBytes int
		places   int
		cut      int // of 5 clients that do not read
	}{
		"places":  {time.Hour, 1 << 40, 1, 0},
		"timeout": {time.Millisecond, 1 << 40, 5, 5},
		"memory":  {time.Hour, 3 * size, 1, 3}, // after another response, which is read
	} {
		t.Run(what, func(t *testing.T) {
			logged := &journal{}
			address := local(t, collector.NewResponses(log.NewLogfmtLogger(logged), c.timeout, c.maxBytes).Buffer(atMost(c.places, big)), unchanged)
			var stuck []net.Conn
			for range 5 {
				conn := dial(t, address, request("GET", "/"))
				if c.timeout == time.Hour {
					if got := statusOf(t, conn); got != "HTTP/1.1 200 OK" {
						t.Errorf("a place is held: %s", got)
					}
				}
				stuck = append(stuck, conn)
			}
			if c.timeout == time.Hour {
				resp, err := http.Get("http://" + address)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
					t.Errorf("read %d bytes, %v", n, err)
				}
			}
			await(t, "the clients are dropped", func() bool {
				return len(logged.since(0, "level=debug", `msg="scrape aborted"`)) >= c.cut
			})
			for _, conn := range stuck[:c.cut] {
				awaitClosed(t, "dropped", conn)
			}
			if n := len(logged.since(0)); n != c.cut {
				t.Errorf("%d lines are logged: %s", n, logged)
			}
		})
	}
}

// A scraper that goes away while it is sent the response is no error.
func TestAbortedScrape(t *testing.T) {
	t.Parallel()
	logged := &journal{}
	body := bytes.Repeat([]byte("x"), 16<<20)
	h := collector.NewResponses(log.NewLogfmtLogger(logged), time.Hour, 1<<40).Buffer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	conn := dial(t, local(t, h, unchanged), request("GET", "/"))
	if got := statusOf(t, conn); got != "HTTP/1.1 200 OK" {
		t.Error(got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "it is logged", func() bool { return len(logged.since(0)) > 0 })
	if n := len(logged.since(0, "level=debug", "scrape aborted")); n != 1 || n != len(logged.since(0)) {
		t.Errorf("logged: %s", logged)
	}
}

// Connections do not stay for longer than they are used, whatever a client does
// not do.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	server := newServer(http.NotFoundHandler(), collector.NewReaders(time.Now))
	for what, timeout := range map[string]time.Duration{"read": server.ReadTimeout, "header": server.ReadHeaderTimeout, "write": server.WriteTimeout, "idle": server.IdleTimeout} {
		if timeout <= 0 || timeout > 5*time.Minute {
			t.Errorf("%s timeout %v", what, timeout)
		}
	}
	quick := func(s *http.Server, _ *collector.Readers) {
		s.ReadTimeout, s.ReadHeaderTimeout, s.IdleTimeout = 10*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
	}
	address := local(t, http.NotFoundHandler(), quick)
	for what, text := range map[string]string{
		"nothing": "", "half a header": "GET / HTTP/1.1\r\nHost: x\r\n", "idle": request("GET", "/"), "no body": request("GET", "/", "Content-Length: 10"),
	} {
		awaitClosed(t, what, dial(t, address, text))
	}

	// A scrape that waits for a sync may take longer than a request takes to
	// arrive.
	canceled := make(chan bool, 1)
	h := collector.NewResponses(log.NewNopLogger(), time.Minute, 1<<20).Buffer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			canceled <- true
		case <-time.After(2 * time.Second):
			canceled <- false
		}
	}))
	address = local(t, h, func(s *http.Server, _ *collector.Readers) { s.ReadTimeout = time.Second })
	if got := statusOf(t, dial(t, address, request("GET", "/"))); got != "HTTP/1.1 200 OK" || <-canceled {
		t.Errorf("a long scrape: %s, or canceled", got)
	}
}

func TestHeaderLimit(t *testing.T) {
	t.Parallel()
	address := local(t, http.NotFoundHandler(), unchanged)
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
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	const maximum = 4
	found := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metric 1\n") })
	address := local(t, found, func(s *http.Server, r *collector.Readers) { limitConnections(s, maximum, r.IsScraper) })
	scrape := request("GET", "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 10")
	scraper := dial(t, address, scrape)
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
		idle = append(idle, dial(t, address, request("GET", "/")))
		if got := statusOf(t, idle[len(idle)-1]); got != "HTTP/1.1 200 OK" {
			t.Error(got)
		}
	}
	for _, conn := range idle[:len(idle)-maximum] {
		awaitClosed(t, "one of too many", conn)
	}
	again()
	last := idle[len(idle)-1]
	if _, err := io.WriteString(last, request("GET", "/")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(io.LimitReader(last, 100)); err != nil {
		t.Errorf("the latest connection: %v", err)
	}
}

// Who sends the header of a scrape and hangs up holds back nothing.
func TestHangUpsHoldNothingBack(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--collector.settle-delay=0s")
	const timeout = "X-Prometheus-Scrape-Timeout-Seconds: 3599"
	hangUp := func() {
		for i := range 5 {
			agent := fmt.Sprint("User-Agent: ", i)
			// One hangs up at once, one has read a bit, one stays.
			if err := dial(t, e.urls[0], request("GET", "/metrics", timeout, agent)).Close(); err != nil {
				t.Error(err)
			}
			some := dial(t, e.urls[0], request("GET", "/metrics", timeout, agent))
			if got := statusOf(t, some); got != "HTTP/1.1 200 OK" {
				t.Error(got)
			}
			if err := some.Close(); err != nil {
				t.Error(err)
			}
			if got := statusOf(t, dial(t, e.urls[0], request("GET", "/metrics", timeout, agent+"stays"))); got != "HTTP/1.1 200 OK" {
				t.Error(got)
			}
		}
	}
	hangUp()
	server.Add(oppertest.Sample())
	const zero = `opper_traces_total{outcome="unknown",project="default",trace_name="<string>"}`
	await(t, "its zeros are shown", func() bool {
		hangUp()
		got, shown := e.scrape()[zero]
		return shown && got == 0
	})
	await(t, "its counts are shown", func() bool {
		hangUp()
		return e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10")[zero] == 1
	})
}

// brokenMetric has an exemplar that OpenMetrics cannot write.
type brokenMetric struct{ prometheus.Metric }

func (brokenMetric) Desc() *prometheus.Desc {
	return prometheus.NewDesc("zz_broken_total", "", nil, nil)
}

func (brokenMetric) Write(m *dto.Metric) error {
	m.Counter = &dto.Counter{Value: new(1.0), Exemplar: &dto.Exemplar{
		Label: []*dto.LabelPair{{Name: new("trace_id"), Value: new("1")}}, Value: new(1.0), Timestamp: &timestamppb.Timestamp{Seconds: -1 << 40},
	}}
	return nil
}

// Whatever cannot be written is an error of the whole scrape, which is logged
// and counted once.
func TestScrapeError(t *testing.T) {
	t.Parallel()
	cfg, _, err := parse([]string{"--storage.path="}, func(string) string { return testKey }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	logged := &journal{}
	cfg.collector.Opper = cfg.opper
	project, err := collector.New([]collector.Config{cfg.collector}, collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock()})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(project, prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) { ch <- brokenMetric{} }))
	h, err := newHandler(cfg, project, collector.NewReaders(time.Now), registry, log.NewLogfmtLogger(logged))
	if err != nil {
		t.Fatal(err)
	}
	get := func(accept string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept", accept)
		r.Header.Set("Accept-Encoding", "gzip")
		h.ServeHTTP(w, r)
		return w
	}
	if w := get("application/openmetrics-text"); w.Code != http.StatusInternalServerError || w.Header().Get("Content-Encoding") != "" || strings.Contains(w.Body.String(), "# TYPE") {
		t.Errorf("OpenMetrics: %d, %v, %.200q", w.Code, w.Header(), w.Body)
	}
	if lines := logged.since(0); len(lines) != 1 || !strings.Contains(lines[0], "level=error") || !strings.Contains(lines[0], "scrape failed") {
		t.Errorf("logged %q", lines)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics?name[]=promhttp_metric_handler_requests_total&name[]=promhttp_metric_handler_errors_total", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	lines := slices.Collect(strings.Lines(w.Body.String()))
	for _, want := range []string{`promhttp_metric_handler_requests_total{code="500"} 1` + "\n", `promhttp_metric_handler_errors_total{cause="encoding"} 1` + "\n"} {
		if w.Code != http.StatusOK || !slices.Contains(lines, want) {
			t.Errorf("%d, no %q in %q", w.Code, want, lines)
		}
	}
}

// Clients that scrape at the same moment wait for each other, and are refused
// only if that takes too long.
func TestScrapesWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := atMost(1, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		scrape := func() <-chan int {
			status := make(chan int, 1)
			go func() {
				answer := httptest.NewRecorder()
				handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
				status <- answer.Code
			}()
			synctest.Wait()
			return status
		}
		first, second := scrape(), scrape()
		began := time.Now()
		if got := <-second; got != http.StatusServiceUnavailable || time.Since(began) != maxPlaceWait {
			t.Errorf("status %d after %s without a place", got, time.Since(began))
		}
		third := scrape()
		release <- struct{}{}
		release <- struct{}{}
		if got := [2]int{<-first, <-third}; got != [2]int{http.StatusOK, http.StatusOK} {
			t.Errorf("status %d, although there was a place", got)
		}
	})
}
