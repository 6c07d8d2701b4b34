package scrape

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// families returns the names of the families in a text.
func families(text string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	return names
}

// A project alone comes without the process, the process without projects, and
// together they are everything, once.
func TestMetricsInPieces(t *testing.T) {
	one := prometheus.NewRegistry()
	one.MustRegister(up())
	p := newProjects("a b/ü&")
	h := newTestHandler(t, Config{}, p, io.Discard, up(), prometheus.NewGauge(prometheus.GaugeOpts{Name: "opper_up_of_others"}))
	p.alone = one
	all, process, project := get(t, h, "/metrics"), get(t, h, "/metrics/exporter"), get(t, h, "/probe?target=a+b%2F%C3%BC%26")
	if text := project.Body.String(); project.Code != http.StatusOK || text != "# HELP opper_up \n# TYPE opper_up gauge\nopper_up 1\n" {
		t.Errorf("the project: %d, %s", project.Code, text)
	}
	got := families(process.Body.String())
	for _, want := range []string{"go_goroutines", "process_start_time_seconds", "promhttp_metric_handler_requests_total"} {
		if !got[want] {
			t.Errorf("the process has no %s, but %v", want, slices.Collect(maps.Keys(got)))
		}
	}
	if got["opper_up"] {
		t.Error("the process has metrics of a project")
	}
	got["opper_up"], got["opper_up_of_others"] = true, true
	if want := families(all.Body.String()); !maps.Equal(got, want) {
		t.Errorf("together %d families, in pieces %d", len(want), len(got))
	}
	if text := all.Body.String(); strings.Count(text, "\nopper_up ") != 1 || strings.Index(text, "go_goroutines") > strings.Index(text, "opper_up") {
		t.Error("the families are doubled or not sorted")
	}
}

func TestProbeOfNoProject(t *testing.T) {
	p := newProjects("a")
	p.refresh = func(context.Context, string) { t.Error("synced") }
	h := newTestHandler(t, Config{SyncOnScrape: true}, p, io.Discard, up())
	for url, want := range map[string]string{
		"/probe":                  "The name of a project is missing: expected ?target=NAME.\n",
		"/probe?target=":          "The name of a project is missing: expected ?target=NAME.\n",
		"/probe?target=A":         "There is no project \"A\".\n",
		"/probe?target=%0A%FF%3C": "There is no project \"\\n\\xff<\".\n",
		"/probe?target=" + strings.Repeat("x", 1000): "There is no project \"" + strings.Repeat("x", 100) + "\".\n",
	} {
		status := http.StatusNotFound
		if strings.HasPrefix(want, "The name") {
			status = http.StatusBadRequest
		}
		if w := get(t, h, url); w.Code != status || w.Body.String() != want || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%.40s: %d, %q, %v", url, w.Code, w.Body, w.Header())
		}
	}
	if text := get(t, h, "/metrics/exporter").Body.String(); strings.Contains(text, `code="4`) {
		t.Error("what is asked for at random has series")
	}
}

// One project is negotiated and compressed as all are.
func TestProbeIsNegotiated(t *testing.T) {
	h := newTestHandler(t, Config{}, newProjects("a"), io.Discard, up())
	for accept, want := range map[string]string{
		"application/openmetrics-text; version=1.0.0":                                                  "application/openmetrics-text; version=1.0.0",
		"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited": "application/vnd.google.protobuf",
		"text/plain": "text/plain; version=0.0.4",
	} {
		for _, encoding := range []string{"gzip", "zstd"} {
			for _, url := range []string{"/probe?target=a", "/metrics", "/metrics/exporter"} {
				w := get(t, h, url, "Accept", accept, "Accept-Encoding", encoding)
				if got := w.Header(); w.Code != http.StatusOK || !strings.HasPrefix(got.Get("Content-Type"), want) || got.Get("Content-Encoding") != encoding {
					t.Errorf("%s: %d, %v", url, w.Code, got)
				}
			}
		}
	}
}

// A scrape of one project syncs this one only, one of the process none.
func TestScrapeSyncsWhatItExposes(t *testing.T) {
	p := newProjects("a", "b")
	var synced []string
	p.refresh = func(_ context.Context, project string) { synced = append(synced, project) }
	h := newTestHandler(t, Config{SyncOnScrape: true}, p, io.Discard, up())
	for url, want := range map[string][]string{"/probe?target=b": {"b"}, "/metrics": {allProjects}, "/metrics/exporter": nil, "/sd": nil, "/-/ready": nil, "/": nil} {
		synced = nil
		if w := get(t, h, url); w.Code != http.StatusOK || !slices.Equal(synced, want) {
			t.Errorf("%s: %d, synced %q, want %q", url, w.Code, synced, want)
		}
	}
}

// All pages that grow with the number of projects share the limit of requests.
func TestPiecesShareTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProjects("a")
		entered, release := make(chan struct{}), make(chan struct{})
		p.alone = held(entered, release)
		h := newTestHandler(t, Config{MaxRequests: 1}, p, io.Discard, up())
		done := make(chan int, 1)
		go func() { done <- get(t, h, "/probe?target=a").Code }()
		<-entered
		for _, url := range []string{"/metrics/exporter", "/probe?target=a", "/metrics", "/sd", "/"} {
			if w := get(t, h, url); w.Code != http.StatusServiceUnavailable {
				t.Errorf("%s: %d beside another scrape", url, w.Code)
			}
		}
		close(release)
		if got := <-done; got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	})
}

// held returns a gatherer of nothing, which says when it is asked and waits.
func held(entered chan<- struct{}, release <-chan struct{}) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		entered <- struct{}{}
		<-release
		return nil, nil
	})
}

// Many scrapes of all projects at once do not multiply the memory that one takes, nor
// hold others up.
func TestFewScrapesOfAllProjectsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProjects("a")
		alone := prometheus.NewRegistry()
		alone.MustRegister(up())
		p.alone = alone
		h := newTestHandler(t, Config{MaxRequests: 40}, p, io.Discard)
		entered, release := make(chan struct{}), make(chan struct{})
		p.metrics = held(entered, release)
		done := make(chan int)
		for range maxWhole + 3 {
			go func() { done <- get(t, h, "/metrics").Code }()
		}
		for range maxWhole {
			<-entered
		}
		for range 3 {
			if got := <-done; got != http.StatusServiceUnavailable {
				t.Errorf("status %d beside %d others", got, maxWhole)
			}
		}
		for _, url := range []string{"/metrics/exporter", "/probe?target=a", "/sd", "/"} {
			if w := get(t, h, url); w.Code != http.StatusOK {
				t.Errorf("%s: %d", url, w.Code)
			}
		}
		close(release)
		for range maxWhole {
			if got := <-done; got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		}
	})
}

// However many clients wait for a scrape of all projects, scrapers wait for each other alone.
func TestScrapersWaitForNoOtherClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProjects("a")
		free := prometheus.NewRegistry()
		p.metrics = free
		h := newTestHandler(t, Config{MaxRequests: 100}, p, io.Discard)
		conn, other := net.Pipe()
		defer func() { _ = errors.Join(conn.Close(), other.Close()) }()
		scrape := func(conn net.Conn) int {
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
			if conn != nil {
				r = r.WithContext(context.WithValue(r.Context(), connKey{}, conn))
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		for range 2 {
			if got := scrape(conn); got != http.StatusOK {
				t.Fatal(got)
			}
		}
		entered, release := make(chan struct{}, 50), make(chan struct{})
		p.metrics = held(entered, release)
		done := make(chan int, 50)
		for range 50 {
			go func() { done <- scrape(nil) }()
		}
		for range maxWhole {
			<-entered
		}
		synctest.Wait() // the others wait
		p.metrics = free
		if got := scrape(conn); got != http.StatusOK {
			t.Errorf("the scraper got %d", got)
		}
		close(release)
		for range 50 {
			<-done
		}
	})
}

// A scrape of all projects waits for others as long as its timeout allows: two servers
// and a person with a browser come at the same time. It takes no place that a scrape of
// one project needs.
func TestScrapeOfAllProjectsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProjects("a")
		p.alone = prometheus.NewRegistry()
		h := newTestHandler(t, Config{MaxRequests: maxWhole + 1}, p, io.Discard)
		entered, release := make(chan struct{}), make(chan struct{})
		p.metrics = held(entered, release)
		whole := func(timeout string) <-chan int {
			done := make(chan int, 1)
			go func() { done <- get(t, h, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", timeout).Code }()
			return done
		}
		var done []<-chan int
		for range maxWhole {
			done = append(done, whole("10"))
			<-entered
		}
		patient, hasty, short := whole("10"), whole("3"), whole("1")
		<-time.After(9 * time.Second)
		for name, refused := range map[string]<-chan int{"hasty": hasty, "short": short} {
			select {
			case got := <-refused:
				if got != http.StatusServiceUnavailable {
					t.Errorf("%s: status %d beside %d others", name, got, maxWhole)
				}
			default:
				t.Errorf("%s: waits for longer than its timeout", name)
			}
		}
		if w := get(t, h, "/probe?target=a"); w.Code != http.StatusOK {
			t.Errorf("one project: %d", w.Code)
		}
		go func() {
			release <- struct{}{}
			<-entered
			close(release)
		}()
		for _, d := range append(done, patient) {
			if got := <-d; got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		}
	})
}

// However many clients wait for syncs that hang, others are answered.
func TestWaitingForSyncsTakesNoPlace(t *testing.T) {
	p := newProjects("a")
	entered, release := make(chan struct{}), make(chan struct{})
	p.refresh = func(context.Context, string) {
		entered <- struct{}{}
		<-release
	}
	h := newTestHandler(t, Config{SyncOnScrape: true, MaxRequests: 1}, p, io.Discard, up())
	done := make(chan int)
	for range maxWaiting {
		go func() { done <- get(t, h, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "3599").Code }()
		<-entered
	}
	for _, url := range []string{"/metrics/exporter", "/probe?target=a", "/metrics", "/sd", "/"} {
		if w := get(t, h, url); w.Code != http.StatusOK {
			t.Errorf("%s: %d beside clients that wait", url, w.Code)
		}
	}
	close(release)
	for range maxWaiting {
		<-done
	}
}

func TestExporterMetricsAreLeftOut(t *testing.T) {
	h := newTestHandler(t, Config{DisableExporterMetrics: true}, newProjects("a"), io.Discard, up())
	for url, want := range map[string]string{"/metrics": "opper_up", "/probe?target=a": "opper_up", "/metrics/exporter": ""} {
		w := get(t, h, url)
		if got := strings.Join(slices.Collect(maps.Keys(families(w.Body.String()))), " "); w.Code != http.StatusOK || got != want {
			t.Errorf("%s: %d, %q", url, w.Code, got)
		}
	}
}

// A scraper is one of the projects that it is sent, and of no others.
func TestPagesAreWatched(t *testing.T) {
	now := new(clock)
	scrapers := NewScrapers(now.now)
	server := httptest.NewUnstartedServer(newWatchedHandler(t, Config{}, newProjects("a", "b"), scrapers, io.Discard, up()))
	scrapers.Attach(server.Config)
	server.Start()
	defer server.Close()
	for _, c := range []struct {
		path string
		read []string
	}{
		{"/probe?target=a", []string{"a"}},
		{"/probe?target=b", []string{"b"}},
		{"/metrics", []string{"a", "b"}},
		{"/metrics/exporter", nil},
		{"/probe?target=c", nil},
	} {
		since := now.now()
		now.step(scraperExpiry + time.Second)
		client := &http.Client{Transport: new(http.Transport)}
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+c.path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body) // an error would be seen below
			_ = resp.Body.Close()                 // it was read
		}
		client.CloseIdleConnections()
		for _, project := range []string{"a", "b", "c"} {
			want := slices.Contains(c.read, project) || c.path == "/metrics"
			if got := scrapers.AllRead(project, since); got != want {
				t.Errorf("%s: %q is read: %v", c.path, project, got)
			}
		}
	}
	scrapers.mu.Lock()
	defer scrapers.mu.Unlock()
	for s := range scrapers.all() {
		for project := range s.scrapes {
			if !slices.Contains([]string{"a", "b", allProjects}, project) {
				t.Errorf("%q is remembered", project)
			}
		}
	}
}
