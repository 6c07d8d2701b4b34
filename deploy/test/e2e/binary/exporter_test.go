// Package binary_test runs the exporter in a process of its own, without a
// Prometheus server: what it serves, how it ends, and what it does about the
// errors of Opper.
package binary_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

const (
	testKey = "op-test-KEY-51c7e0"
	// patience is how long a condition may take to come true. Nothing that goes
	// well takes that long.
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of these tests wait for a backoff to pass, not for a processor.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	exportertest.Main(m)
}

// await polls until ok, or fails the test.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func noLeak(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range []string{testKey, oppertest.Secret} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s gives %q away: …%.200q", where, secret, text[max(0, i-100):])
		}
	}
}

// fakeOpper serves n traces of three names, with private bodies.
func fakeOpper(t *testing.T, cfg oppertest.Config, n int) (server *oppertest.Server, url string) {
	t.Helper()
	if cfg.Key == "" {
		cfg.Key = testKey
	}
	cfg.BodyBytes = 100
	server = oppertest.New(cfg)
	now := time.Now()
	server.FillHistory(n, 3, now.Add(-2*time.Hour), now.Add(-10*time.Minute))
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	return server, web.URL
}

// hold keeps all requests waiting until release is called.
func hold(t *testing.T, server *oppertest.Server) (release func()) {
	t.Helper()
	block := make(chan struct{})
	server.OnRequest(func(oppertest.Request) { <-block })
	release = sync.OnceFunc(func() {
		server.OnRequest(nil)
		close(block)
	})
	t.Cleanup(release)
	return release
}

// page is what a client got.
type page struct {
	code   int
	header http.Header
	body   string
}

// get fetches a page. Headers are pairs of name and value.
func (e *exporter) get(path string, header ...string) page {
	e.t.Helper()
	e.MustRun(e.t)
	p, err := fetch(e.t, e.client, e.urls[0]+path, header...)
	if err != nil {
		e.t.Fatal(err)
	}
	return p
}

func fetch(t *testing.T, client *http.Client, url string, header ...string) (page, error) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	noLeak(t, url, string(body))
	return page{response.StatusCode, response.Header, string(body)}, err
}

// samples are the values of an exposition by metric{labels}.
type samples map[string]float64

func (e *exporter) scrape(header ...string) samples {
	e.t.Helper()
	p := e.get("/metrics", header...)
	if p.code != http.StatusOK {
		e.t.Fatalf("/metrics: %d: %s", p.code, p.body)
	}
	got := samples{}
	for line := range strings.Lines(p.body) {
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if err != nil {
			e.t.Fatalf("/metrics: %q: %v", line, err)
		}
		got[line[:i]] = value
	}
	return got
}

func (s samples) up() float64 { return s[`opper_up{project="default"}`] }

func (s samples) syncs(result string) float64 {
	return s[`opper_exporter_syncs_total{project="default",result="`+result+`"}`]
}

func (s samples) requests(code string) float64 {
	return s[`opper_exporter_api_requests_total{code="`+code+`",project="default"}`]
}

// of returns the samples of one name.
func (s samples) of(name string) samples {
	got := maps.Clone(s)
	maps.DeleteFunc(got, func(key string, _ float64) bool { return !strings.HasPrefix(key, name+"{") })
	return got
}

func (s samples) sum(name string) (sum float64) {
	for _, value := range s.of(name) {
		sum += value
	}
	return sum
}

// mustKeep fails the test if a counter of traces is less than before.
func (s samples) mustKeep(t *testing.T, before samples) {
	t.Helper()
	for _, name := range []string{"opper_traces_total", "opper_trace_tokens_total", "opper_trace_duration_seconds_bucket", "opper_tokens_per_trace_count"} {
		for key, value := range before.of(name) {
			if now, ok := s[key]; !ok || now < value {
				t.Errorf("%s was %v, is %v (there: %t)", key, value, now, ok)
			}
		}
	}
}

func (e *exporter) awaitUp(up float64) (got samples) {
	e.t.Helper()
	await(e.t, fmt.Sprintf("opper_up %v", up), func() bool {
		got = e.scrape()
		return got.up() == up
	})
	return got
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (e *exporter) protobuf() map[string]*dto.MetricFamily {
	e.t.Helper()
	p := e.get("/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	format := expfmt.ResponseFormat(p.header)
	if format.FormatType() != expfmt.TypeProtoDelim {
		e.t.Fatalf("not protobuf: %v", p.header)
	}
	families := map[string]*dto.MetricFamily{}
	for decoder := expfmt.NewDecoder(strings.NewReader(p.body), format); ; {
		family := &dto.MetricFamily{}
		err := decoder.Decode(family)
		if errors.Is(err, io.EOF) {
			return families
		}
		if err != nil {
			e.t.Fatal(err)
		}
		families[family.GetName()] = family
	}
}

// scrapeText returns what a scrape got, or its error.
func scrapeText(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	p, err := fetch(t, client, url+"/metrics")
	if err != nil {
		return err.Error()
	}
	return p.body
}
