package scrape

import (
	"cmp"
	"context"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"opper_exporter/collector/status"
	"opper_exporter/collector/statuspage"
	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// projects is a Syncer that a test controls.
type projects struct {
	names   []string
	unready string // this one is not ready
	refresh func(ctx context.Context, project string)
	metrics prometheus.Gatherer
	alone   prometheus.Gatherer // of each project; nil is metrics
}

func (p *projects) IsReady(project string) bool {
	return p.unready == "" || project != "" && project != p.unready
}

func (p *projects) Status() (all []status.Project) {
	for _, name := range p.names {
		all = append(all, status.Project{Name: name})
	}
	return all
}
func (p *projects) Refresh(ctx context.Context, project string) { p.refresh(ctx, project) }
func (p *projects) Projects() []string                          { return p.names }
func (p *projects) Gatherer(project string) prometheus.Gatherer {
	if project != "" && !slices.Contains(p.names, project) {
		return nil
	}
	if project != "" && p.alone != nil {
		return p.alone
	}
	return p.metrics
}

func newProjects(names ...string) *projects {
	return &projects{names: names, refresh: func(context.Context, string) {}}
}

// newTestHandler returns all pages of projects with metrics.
func newTestHandler(t *testing.T, cfg Config, p *projects, logged io.Writer, metrics ...prometheus.Collector) http.Handler {
	t.Helper()
	return newWatchedHandler(t, cfg, p, NewScrapers(time.Now), logged, metrics...)
}

func newWatchedHandler(t *testing.T, cfg Config, p *projects, scrapers *Scrapers, logged io.Writer, metrics ...prometheus.Collector) http.Handler {
	t.Helper()
	cfg.Program, cfg.Version, cfg.TelemetryPath = "opper_exporter", "dev", cmp.Or(cfg.TelemetryPath, "/metrics")
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics...)
	p.metrics = registry
	return NewHandler(cfg, p, scrapers, prometheus.NewRegistry(), nil, nil, log.NewLogfmtLogger(logged))
}

func up() prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "opper_up"})
	g.Set(1)
	return g
}

func TestMethodsAndHeaders(t *testing.T) {
	t.Parallel()
	address := listen(t, newTestHandler(t, Config{}, newProjects("a"), io.Discard, up()))
	client := &http.Transport{DisableKeepAlives: true}
	for path, code := range map[string]int{
		"/": 200, "/metrics": 200, "/-/healthy": 200, "/-/ready": 200, "/none": 404, "/metrics?name[]=opper_up": 200, copyPath: 0, reloadPath: 0,
		"/probe?target=a": 200, "/probe?target=b": 404, "/probe": 400, "/probe/a": 404, "/metrics/exporter": 200, "/sd": 200,
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close() // it was read
			if err != nil {
				t.Fatal(err)
			}
			want, allowed := code, "GET, HEAD"
			switch {
			case code == 0 && method == "POST":
				want = 403 // without --web.enable-lifecycle
			case code == 0:
				want, allowed = 405, "POST"
			case method != "GET" && method != "HEAD":
				want = 405
			}
			if resp.StatusCode != want || (resp.Header.Get("Allow") == allowed) != (want == 405) || (method == "HEAD") != (len(body) == 0) {
				t.Errorf("%s %s: %s, %v, %d bytes", method, path, resp.Status, resp.Header, len(body))
			}
			h := resp.Header
			if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || strings.Contains(h.Get("Content-Security-Policy"), "unsafe") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
				t.Errorf("%s %s: %v", method, path, h)
			}
		}
	}
	if got := exportertest.Status(t, exportertest.Dial(t, address, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")); got != "HTTP/1.1 405 Method Not Allowed" {
		t.Error("OPTIONS *:", got)
	}
}

// The status page leads to every other page that a browser can ask for: to those of
// each project, whatever its name, and to the metrics, wherever they are.
func TestStatusPageLinksToAllPages(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"default"}, {"a", `b "ü" / <c>&d?e=f#g+h%20`}} {
		h := newTestHandler(t, Config{Config: statuspage.Config{TelemetryPath: "/a/b"}}, newProjects(names...), io.Discard, up())
		links := map[string]bool{}
		var follow func(path string)
		follow = func(path string) {
			readable, err := url.QueryUnescape(path)
			if links[readable] {
				return
			}
			links[readable] = true
			w := get(t, h, path)
			if w.Code != http.StatusOK || err != nil {
				t.Errorf("%s: %d, %v", path, w.Code, err)
			}
			for _, link := range regexp.MustCompile(`<a href="\.([^"]*)"`).FindAllStringSubmatch(w.Body.String(), -1) {
				follow(html.UnescapeString(link[1]))
			}
		}
		follow("/")
		want := []string{"/", "/a/b", "/a/b/exporter", DiscoveryPath, "/-/healthy", "/-/ready"}
		for _, name := range names {
			want = append(want, ProbePath+"?target="+name)
			if len(names) > 1 {
				want = append(want, "/?project="+name)
			}
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(links)); !slices.Equal(got, want) {
			t.Errorf("links lead to %q, want %q", got, want)
		}
	}
}

// A body that does not come occupies neither a slot nor the response.
func TestBodyIsNotAwaited(t *testing.T) {
	t.Parallel()
	// The timeout for a request would end the waiting.
	address := listen(t, newTestHandler(t, Config{MaxRequests: 1}, newProjects(), io.Discard, up()), readWithin(time.Hour))
	for i := range 40 {
		body := []string{"Content-Length: 1000", "Content-Length: 100000000", "Transfer-Encoding: chunked"}[i%3]
		method, want := "GET", "HTTP/1.1 200 OK"
		if i%2 == 1 {
			method, want = "POST", "HTTP/1.1 405 Method Not Allowed"
		}
		if got := exportertest.Status(t, exportertest.Dial(t, address, exportertest.Request(method, "/metrics", body))); got != want {
			t.Errorf("%s, %s: %s", method, body, got)
		}
	}
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "\nopper_up 1\n") {
		t.Errorf("%s, %v", body, err)
	}
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
func TestScrapeErrorIsA500(t *testing.T) {
	t.Parallel()
	logged := new(promtest.Output)
	h := newTestHandler(t, Config{}, newProjects(), logged, up(), prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) { ch <- brokenMetric{} }))
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
	if lines := logged.Lines(); len(lines) != 1 || !strings.Contains(lines[0], "level=error") || !strings.Contains(lines[0], "scrape failed") {
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
func TestScrapesAreQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := make(slots, 1).limit(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }), refuse("busy", http.StatusServiceUnavailable))
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
		if got := <-second; got != http.StatusServiceUnavailable || time.Since(began) != defaultScrapeTimeout-scrapeMargin {
			t.Errorf("status %d after %s without a slot", got, time.Since(began))
		}
		third := scrape()
		release <- struct{}{}
		release <- struct{}{}
		if got := [2]int{<-first, <-third}; got != [2]int{http.StatusOK, http.StatusOK} {
			t.Errorf("status %d, although there was a slot", got)
		}
	})
}

// A free place is taken whether the client still waits or not: during the shutdown,
// scrapes in flight are answered.
func TestFreePlaceIsTaken(t *testing.T) {
	handler := make(slots, 1).limit(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), refuse("busy", http.StatusServiceUnavailable))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		answer := httptest.NewRecorder()
		if handler.ServeHTTP(answer, httptest.NewRequestWithContext(ended, http.MethodGet, "/metrics", nil)); answer.Code != http.StatusOK {
			t.Fatalf("status %d", answer.Code)
		}
	}
}

// A scrape waits for its sync until half a second before its own timeout, and is
// answered then.
func TestSyncEndsBeforeTheScrapeTimesOut(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":     9500 * time.Millisecond,
		"5":    4500 * time.Millisecond,
		"0.3":  0,
		"NaN":  9500 * time.Millisecond,
		"3599": 119500 * time.Millisecond,
	} {
		t.Run("timeout "+header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProjects()
				syncs := 0
				p.refresh = func(ctx context.Context, _ string) {
					syncs++
					<-ctx.Done()
				}
				h := newTestHandler(t, Config{SyncOnScrape: true, DisableExporterMetrics: true}, p, io.Discard, up())
				w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
				r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", header)
				start := time.Now()
				h.ServeHTTP(w, r)
				if took := time.Since(start); took != want || syncs != 1 || w.Code != http.StatusOK {
					t.Errorf("status %d after %v and %d syncs, want %v and 1", w.Code, took, syncs, want)
				}
			})
		})
	}
}

func TestReadyOnceTheInitialSyncIsPublished(t *testing.T) {
	p := newProjects("a", "b")
	h := newTestHandler(t, Config{}, p, io.Discard)
	check := func(want map[string]int) {
		t.Helper()
		for target, want := range want {
			if got := get(t, h, "/-/ready"+target).Code; got != want {
				t.Errorf("%q: status %d, want %d", target, got, want)
			}
		}
	}
	p.unready = "b"
	check(map[string]int{"": 503, "?target=a": 200, "?target=b": 503, "?target=c": 404, "?target=": 400})
	p.unready = ""
	check(map[string]int{"": 200, "?target=a": 200, "?target=b": 200, "?target=c": 404})
}

// get asks a handler, with headers that are pairs of a name and a value.
func get(t *testing.T, h http.Handler, url string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	h.ServeHTTP(w, r)
	return w
}
