package binary_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

func TestPages(t *testing.T) {
	t.Parallel()
	const traces = 120
	_, url := fakeOpper(t, oppertest.Config{}, traces)
	e := startReady(t, url)

	if got := e.scrape(); got.up() != 1 || got.sum("opper_traces_total") != traces || got["go_goroutines"] == 0 {
		t.Errorf("up %v, traces %v, goroutines %v", got.up(), got.sum("opper_traces_total"), got["go_goroutines"])
	}
	for _, c := range []struct{ path, header, value, contentType, encoding, begins, ends string }{
		{"/metrics", "Accept", "text/plain;version=0.0.4", "text/plain; version=0.0.4", "", "# HELP ", "\n"},
		{"/metrics", "Accept", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0", "", "# HELP ", "# EOF\n"},
		{"/metrics", "Accept-Encoding", "gzip", "text/plain; version=0.0.4", "gzip", "\x1f\x8b", ""},
		{"/metrics", "Accept-Encoding", "zstd", "text/plain; version=0.0.4", "zstd", "\x28\xb5\x2f\xfd", ""},
		{"/", "Accept", "*/*", "text/html", "", "<!DOCTYPE html>", "</html>\n"},
	} {
		p := e.get(c.path, c.header, c.value)
		if p.code != http.StatusOK || !strings.HasPrefix(p.header.Get("Content-Type"), c.contentType) || p.header.Get("Content-Encoding") != c.encoding {
			t.Errorf("%s with %s: %d, %v", c.path, c.value, p.code, p.header)
		}
		if !strings.HasPrefix(p.body, c.begins) || !strings.HasSuffix(p.body, c.ends) {
			t.Errorf("%s with %s: begins with %.20q, ends with %q", c.path, c.value, p.body, p.body[max(0, len(p.body)-20):])
		}
	}

	if p := e.get("/metrics", "Accept", "application/openmetrics-text;version=1.0.0"); !strings.Contains(p.body, `# {trace_id="`) {
		t.Error("no exemplar in OpenMetrics")
	}
	unzipped, err := gzip.NewReader(strings.NewReader(e.get("/metrics", "Accept-Encoding", "gzip").body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unzipped)
	if err != nil || !bytes.Contains(plain, []byte("\nopper_traces_total{")) {
		t.Errorf("unzipped: %d bytes, %v", len(plain), err)
	}
	noLeak(t, "gzip", string(plain))
	if want := fmt.Sprintf("version=%q", config.Version()); !regexp.MustCompile(`(?m)^opper_exporter_build_info{.*` + want).Match(plain) {
		t.Errorf("opper_exporter_build_info has no %s", want)
	}

	page := e.get("/").body
	for _, text := range []string{`href="./metrics"`, `href="./-/healthy"`, `href="./-/ready"`, "version " + config.Version(), url + "/v2", ">Collecting<", fmt.Sprintf("<dt>Counted in total</dt><dd>%d</dd>", traces), `<a href="https://platform.opper.ai/traces/`} {
		if !strings.Contains(page, text) {
			t.Errorf("no %s on the status page:\n%s", text, page)
		}
	}
	noLeak(t, "status page", page)
	for path, want := range map[string]int{"/-/healthy": 200, "/-/ready": 200, "/none": 404, "/metrics/": 404, "/debug/pprof/": 404} {
		if got := e.get(path).code; got != want {
			t.Errorf("%s: %d", path, got)
		}
	}

	var lines []string
	for line := range strings.Lines(e.get("/metrics?name[]=opper_up").body) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if !slices.Equal(lines, []string{"opper_up{project=\"default\"} 1\n"}) {
		t.Errorf("filtered: %q", lines)
	}
}

func TestReadyAfterTheInitialSync(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	release := hold(t, server)
	e := start(t, withKey(), "--opper.url="+url)
	await(t, "the first request", func() bool { return server.RequestCount() > 0 })
	if ready, healthy := e.get("/-/ready").code, e.get("/-/healthy").code; ready != http.StatusServiceUnavailable || healthy != http.StatusOK {
		t.Errorf("before the initial sync: ready %d, healthy %d", ready, healthy)
	}
	if got := e.scrape(); len(got.of("opper_traces_total")) != 0 || got.syncs("success") != 0 {
		t.Errorf("before the initial sync: %v", got.of("opper_traces_total"))
	}
	release()
	e.awaitReady()
	if got := e.scrape(); got.sum("opper_traces_total") != 120 || got[`opper_exporter_initial_sync_progress_ratio{project="default"}`] != 1 {
		t.Errorf("after the initial sync: %v", got.of("opper_traces_total"))
	}
}

func TestWithoutExporterMetrics(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--web.disable-exporter-metrics", "--web.telemetry-path=/a/b")
	body := e.get("/a/b").body
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "opper_") {
			t.Errorf("not about Opper: %q", line)
		}
	}
	if !strings.Contains(body, "opper_up{") || !strings.Contains(body, "opper_exporter_build_info{") {
		t.Errorf("metrics: %s", body)
	}
	if got := e.get("/metrics").code; got != http.StatusNotFound {
		t.Errorf("/metrics: %d", got)
	}
	if page := e.get("/").body; !strings.Contains(page, `href="./a/b"`) {
		t.Errorf("status page:\n%s", page)
	}
}

// A scrape that waits for an Opper that does not answer takes no place of others.
func TestWaitingForOpperTakesNoPlace(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--collector.interval=0s", "--web.max-requests=1")
	release := hold(t, server)
	server.ResetRequests()
	first := make(chan struct{})
	go func() {
		// Its sync may be shared with the one that made the exporter ready.
		for server.RequestCount() == 0 {
			scrapeText(t, e.client, e.urls[0])
		}
		close(first)
	}()
	await(t, "a scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
	for _, path := range []string{"/metrics/exporter", "/", "/sd", "/-/healthy"} {
		if p := e.get(path); p.code != http.StatusOK {
			t.Errorf("%s beside a scrape that waits: %d: %s", path, p.code, p.body)
		}
	}
	release()
	<-first
	if got := e.scrape().up(); got != 1 {
		t.Errorf("up %v", got)
	}
}

func TestSeveralAddressesAreServed(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--web.listen-address=127.0.0.1:0", "--web.listen-address=localhost:0")
	for _, u := range e.urls {
		if p, err := fetch(t, e.client, u+"/metrics"); err != nil || p.code != http.StatusOK {
			t.Errorf("%s: %d, %v", u, p.code, err)
		}
	}
	if e.urls[0] == e.urls[1] {
		t.Error("one address twice")
	}
}

// The listener for health needs no password, and gives nothing but health.
func TestHealthHasAListenerOfItsOwn(t *testing.T) {
	t.Parallel()
	webConfig, _ := exportertest.WebConfig(t, "basic_auth_users: {ali: $2a$04$I371Cxx4bFFXcl9Aj5MBJek9DcFr9uwBkgA.x6XYp/OHBjBdmIFBO}\n")
	server, opperURL := fakeOpper(t, oppertest.Config{}, 3)
	release := hold(t, server)
	e := start(t, withKey(), "--opper.url="+opperURL, "--web.config.file="+webConfig, "--web.health-listen-address=127.0.0.1:0")
	url := "http://" + e.AwaitHealthAddress(t)
	want := map[string]int{"/-/healthy": 200, "/-/ready": 503, "/metrics": 404, "/": 404, "/-/other": 404}
	check := func() {
		t.Helper()
		for path, code := range want {
			if p, err := fetch(t, e.client, url+path); err != nil || p.code != code {
				t.Errorf("%s: %d, %v, want %d", path, p.code, err, code)
			}
		}
	}
	check()
	release()
	await(t, "it is ready", func() bool {
		p, err := fetch(t, e.client, url+"/-/ready")
		return err == nil && p.code == http.StatusOK
	})
	want["/-/ready"] = 200
	check()
	if p, err := fetch(t, e.client, e.urls[0]+"/-/healthy"); err == nil && p.code == http.StatusOK {
		t.Error("the other listener has no TLS")
	}
}

func TestTLSAndBasicAuth(t *testing.T) {
	t.Parallel()
	// The hash is that of "open sesame", at the minimum cost.
	webConfig, roots := exportertest.WebConfig(t, "basic_auth_users: {ali: $2a$04$I371Cxx4bFFXcl9Aj5MBJek9DcFr9uwBkgA.x6XYp/OHBjBdmIFBO}\n")
	_, opperURL := fakeOpper(t, oppertest.Config{}, 3)
	e := start(t, withKey(), "--opper.url="+opperURL, "--web.config.file="+webConfig)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	url := strings.Replace(e.urls[0], "http:", "https:", 1) + "/metrics"
	for _, c := range []struct {
		user, password string
		want           int
	}{{"", "", 401}, {"ali", "wrong", 401}, {"ali", "open sesame", 200}} {
		request, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			request.SetBasicAuth(c.user, c.password)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != c.want || strings.Contains(string(body), "opper_up") != (c.want == 200) {
			t.Errorf("%q, %q: %s, %v", c.user, c.password, response.Status, err)
		}
	}
	if got := e.get("/metrics").code; got != http.StatusBadRequest {
		t.Errorf("without TLS: %d", got)
	}
	await(t, "what the server says about it is in our log", func() bool { return len(e.Log.Lines("level=warn", "TLS handshake error")) == 1 })
}

// Clients that send the header of a scrape and hang up do not delay new series.
func TestHangUpsHoldNothingBack(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--collector.settle-delay=0s")
	const timeout = "X-Prometheus-Scrape-Timeout-Seconds: 3599"
	hangUp := func() {
		for i := range 5 {
			agent := fmt.Sprint("User-Agent: ", i)
			// One hangs up at once, one has read a bit, one stays.
			if err := exportertest.Dial(t, strings.TrimPrefix(e.urls[0], "http://"), exportertest.Request("GET", "/metrics", timeout, agent)).Close(); err != nil {
				t.Error(err)
			}
			some := exportertest.Dial(t, strings.TrimPrefix(e.urls[0], "http://"), exportertest.Request("GET", "/metrics", timeout, agent))
			if got := exportertest.Status(t, some); got != "HTTP/1.1 200 OK" {
				t.Error(got)
			}
			if err := some.Close(); err != nil {
				t.Error(err)
			}
			if got := exportertest.Status(t, exportertest.Dial(t, strings.TrimPrefix(e.urls[0], "http://"), exportertest.Request("GET", "/metrics", timeout, agent+"stays"))); got != "HTTP/1.1 200 OK" {
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
