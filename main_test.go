package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

const (
	testKey   = "op-test-KEY-51c7e0"
	asProgram = "OPPER_EXPORTER_TEST_AS_PROGRAM"
	// patience is how long a condition may take to come true. Nothing that goes
	// well takes that long.
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	flag.Parse()
	// Most of these tests wait for a backoff to pass, not for a processor.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	m.Run()
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

// journal is a log that can be read while it is written.
type journal struct{ promtest.Output }

// since returns the lines from a length of the log on that contain all texts.
func (j *journal) since(from int, texts ...string) (found []string) {
	for line := range strings.Lines(j.String()[from:]) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			found = append(found, line)
		}
	}
	return found
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
	held := make(chan struct{})
	server.OnRequest(func(oppertest.Request) { <-held })
	release = sync.OnceFunc(func() {
		server.OnRequest(nil)
		close(held)
	})
	t.Cleanup(release)
	return release
}

// exporter is the program in this process.
type exporter struct {
	t      *testing.T
	log    *journal
	urls   []string
	client *http.Client
	stop   context.CancelFunc
	exited chan struct{}
	status int
}

func withDefaults(args []string, defaults ...string) []string {
	for _, d := range defaults {
		name, _, _ := strings.Cut(d, "=")
		if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") }) {
			args = append(args, d)
		}
	}
	return args
}

func launch(t *testing.T, env map[string]string, args []string) *exporter {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	e := &exporter{
		t: t, log: &journal{}, stop: stop, exited: make(chan struct{}),
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}},
	}
	args = withDefaults(args,
		"--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--collector.interval=25ms", "--log.level=debug",
		"--storage.path="+t.TempDir())
	go func() {
		defer close(e.exited)
		e.status = run(ctx, args, func(name string) string { return env[name] }, io.Discard, e.log)
	}()
	t.Cleanup(func() {
		if got := e.end(); got != 0 {
			t.Errorf("exit status %d", got)
		}
		noLeak(t, "the log", e.log.String())
		if t.Failed() {
			text := e.log.String()
			t.Logf("the end of the log:\n%s", text[max(0, len(text)-4000):])
		}
	})
	return e
}

var listening = regexp.MustCompile(`address=(\S+)|"address":"([^"]+)"`)

func (j *journal) addresses() (found []string) {
	for _, line := range j.since(0, `"Listening on"`) {
		m := listening.FindStringSubmatch(line)
		found = append(found, m[1]+m[2])
	}
	return found
}

// start runs the program until the end of the test, with one address for each
// --web.listen-address.
func start(t *testing.T, env map[string]string, args ...string) *exporter {
	t.Helper()
	e := launch(t, env, args)
	want := max(1, len(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return !strings.HasPrefix(a, "--web.listen-address=") })))
	await(t, "the program listens", func() bool {
		e.mustRun()
		return len(e.log.addresses()) == want
	})
	for _, address := range e.log.addresses() {
		e.urls = append(e.urls, "http://"+address)
	}
	return e
}

// startReady is start with the usual key, up to the end of the first walk.
func startReady(t *testing.T, url string, args ...string) *exporter {
	t.Helper()
	e := start(t, map[string]string{"OPPER_API_KEY": testKey}, append(args, "--opper.url="+url)...)
	e.awaitReady()
	return e
}

func (e *exporter) awaitReady() {
	e.t.Helper()
	await(e.t, "ready", func() bool { return e.get("/-/ready").code == http.StatusOK })
}

func (e *exporter) mustRun() {
	e.t.Helper()
	select {
	case <-e.exited:
		e.t.Fatalf("the program ended with %d:\n%s", e.status, e.log)
	default:
	}
}

// end stops the program and returns its exit status.
func (e *exporter) end() int {
	e.t.Helper()
	e.stop()
	select {
	case <-e.exited:
	case <-time.After(patience):
		e.t.Fatal("the program does not end")
	}
	return e.status
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
	e.mustRun()
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

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestWrongFlags(t *testing.T) {
	server, url := fakeOpper(t, oppertest.Config{}, 1)
	dir := t.TempDir()
	emptyKey := writeFile(t, "empty", " \n")
	longKey := writeFile(t, "long", testKey+"\n"+testKey)
	badYAML := writeFile(t, "web.yml", "basic_auth: {}\nother: 1\n")
	noCert := writeFile(t, "tls.yml", "tls_server_config: {cert_file: none.crt, key_file: none.key}\n")
	badHash := writeFile(t, "auth.yml", "basic_auth_users: {someone: nohash}\n")
	noKey, twoLines := map[string]string{}, map[string]string{"OPPER_API_KEY": testKey + "\n" + testKey}
	blank := map[string]string{"OPPER_HTTP_BEARER": " "}
	kept := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		arg   string
		names string
		env   map[string]string
	}{
		{"--collector.backfill=some", "--collector.backfill: ", nil},
		{"--collector.backfill=-1h", "--collector.backfill: ", nil},
		{"--collector.sweep-interval=-1h", "--collector.sweep-interval: ", nil},
		{"--collector.sweep-interval=daily", "--collector.sweep-interval: ", nil},
		{"", "--opper.api-key-file, or OPPER_API_KEY", noKey},
		{"", "OPPER_API_KEY: ", twoLines},
		{"", "OPPER_HTTP_BEARER: the key is empty", blank},
		{"--opper.api-key-file=" + filepath.Join(dir, "none"), "--opper.api-key-file: ", nil},
		{"--opper.api-key-file=" + dir, "--opper.api-key-file: ", nil},
		{"--opper.api-key-file=" + filepath.Join(dir, "two\nlines"), "--opper.api-key-file: ", nil},
		{"--opper.api-key-file=" + emptyKey, "--opper.api-key-file: ", nil},
		{"--opper.api-key-file=" + longKey, "--opper.api-key-file: ", nil},
		{"--opper.api-key=" + testKey, "--opper.api-key", nil},
		{"--opper.url=", "--opper.url: ", nil},
		{"--opper.url=api.opper.ai", "--opper.url: ", nil},
		{"--opper.url=ftp://api.opper.ai", "--opper.url: ", nil},
		{"--opper.url=https://", "--opper.url: ", nil},
		{"--opper.url=https://:443", "--opper.url: ", nil},
		{"--opper.url=https://%zz", "--opper.url: ", nil},
		{"--opper.url=https://me:" + testKey + "@api.opper.ai", "--opper.url: ", nil},
		{"--opper.url=https://api.opper.ai?key=" + testKey, "--opper.url: ", nil},
		{"--opper.url=https://api.opper.ai#v2", "--opper.url: ", nil},
		{"--opper.header=" + testKey, "--opper.header: ", nil},
		{"--opper.header=: x", "--opper.header: ", nil},
		{"--opper.header=A Name: x", "--opper.header: ", nil},
		{"--opper.header=Name: " + testKey + "\nOther: x", "--opper.header: ", nil},
		{"--opper.header=authorization: Bearer " + testKey, "--opper.header: ", nil},
		{"--opper.header=Host: x", "--opper.header: ", nil},
		{"--opper.project=", "--opper.project: ", nil},
		{"--opper.project=\xff", "--opper.project: ", nil},
		{"--opper.timeout=0s", "--opper.timeout: ", nil},
		{"--opper.timeout=-1s", "--opper.timeout: ", nil},
		{"--opper.timeout=soon", "--opper.timeout: ", nil},
		{"--opper.concurrency=0", "--opper.concurrency: ", nil},
		{"--opper.concurrency=-1", "--opper.concurrency: ", nil},
		{"--opper.concurrency=1.5", "--opper.concurrency: ", nil},
		{"--opper.max-requests-per-second=-1", "--opper.max-requests-per-second: ", nil},
		{"--opper.max-requests-per-second=NaN", "--opper.max-requests-per-second: ", nil},
		{"--opper.max-requests-per-second=+Inf", "--opper.max-requests-per-second: ", nil},
		{"--opper.max-requests-per-second=many", "--opper.max-requests-per-second: ", nil},
		{"--collector.interval=-1s", "--collector.interval: ", nil},
		{"--collector.interval=30", "--collector.interval: ", nil},
		{"--collector.interval=", "--collector.interval: ", nil},
		{"--collector.settle-delay=-1ms", "--collector.settle-delay: ", nil},
		{"--collector.settle-delay=a while", "--collector.settle-delay: ", nil},
		{"--collector.abandon-after=0", "--collector.abandon-after: ", nil},
		{"--collector.abandon-after=-1h", "--collector.abandon-after: ", nil},
		{"--collector.abandon-after=1y1z", "--collector.abandon-after: ", nil},
		{"--collector.failure-status=Success", "--collector.failure-status: ", nil},
		{"--collector.success-status=ERROR", "--collector.success-status", nil},
		{"--collector.trace-name-include=(", "--collector.trace-name-include: ", nil},
		{"--collector.trace-name-include=a)|(b", "--collector.trace-name-include: ", nil},
		{"--collector.trace-name-include=a\n[", "--collector.trace-name-include: ", nil},
		{"--collector.trace-name-exclude=*", "--collector.trace-name-exclude: ", nil},
		{"--collector.max-trace-names=0", "--collector.max-trace-names: ", nil},
		{"--collector.max-trace-names=-1", "--collector.max-trace-names: ", nil},
		{"--collector.max-trace-names=all", "--collector.max-trace-names: ", nil},
		{"--collector.trace-name-rewrite=", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=user-.*", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite==user", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=(=user", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=a)|(b=user", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=(user)-.*=$2", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=(user)-.*=$1s", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=(user)-.*=${name}", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=(user)-.*=US$", "--collector.trace-name-rewrite: ", nil},
		{"--collector.trace-name-rewrite=user=\xff", "--collector.trace-name-rewrite: ", nil},
		{"--collector.duration-buckets=", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=,", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=1,3,2", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=1,1", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=1,NaN", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=1,+Inf", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=-1,1", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=0,1", "--collector.duration-buckets: ", nil},
		{"--collector.duration-buckets=1s", "--collector.duration-buckets: ", nil},
		{"--collector.token-buckets=", "--collector.token-buckets: ", nil},
		{"--collector.token-buckets=2,1", "--collector.token-buckets: ", nil},
		{"--collector.token-buckets=NaN", "--collector.token-buckets: ", nil},
		{"--collector.token-buckets=-16", "--collector.token-buckets: ", nil},
		{"--web.telemetry-path=", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=metrics", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=/", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=/metrics/", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=/-/ready", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=/{any...}", "--web.telemetry-path: ", nil},
		{"--web.telemetry-path=/a b", "--web.telemetry-path: ", nil},
		{"--web.max-requests=-1", "--web.max-requests: ", nil},
		{"--web.max-requests=few", "--web.max-requests: ", nil},
		{"--web.config.file=" + filepath.Join(dir, "none.yml"), "--web.config.file: ", nil},
		{"--web.config.file=" + badYAML, "--web.config.file: ", nil},
		{"--web.config.file=" + noCert, "--web.config.file: ", nil},
		{"--web.config.file=" + badHash, "--web.config.file: ", nil},
		{"--log.level=loud", "--log.level: ", nil},
		{"--log.format=xml", "--log.format: ", nil},
		{"--no-such-flag", "--no-such-flag", nil},
		{"--web.max-requests", "--web.max-requests", nil},
		{"stray", "stray", nil},
	} {
		env := c.env
		if env == nil {
			env = map[string]string{"OPPER_API_KEY": testKey}
		}
		var args []string
		if c.arg != "" {
			args = append(args, c.arg)
		}
		args = withDefaults(args, "--opper.url="+url, "--web.listen-address=127.0.0.1:0", "--storage.path="+kept)
		// What starts by mistake must end.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var stdout, stderr journal
		status := run(ctx, args, func(name string) string { return env[name] }, &stdout, &stderr)
		cancel()
		text := stderr.String()
		if status != 2 || stdout.String() != "" || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") || !strings.Contains(text, c.names) {
			t.Errorf("%q: status %d, stdout %q, stderr %q, want 2 and one line with %q", c.arg, status, &stdout, text, c.names)
		}
		noLeak(t, c.arg, text)
	}
	if n := server.RequestCount(); n != 0 {
		t.Errorf("%d requests were made", n)
	}
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state was written: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 1)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := freeAddress(t)
	for _, args := range [][]string{
		{"--web.listen-address=" + taken.Addr().String()},
		{"--web.listen-address=" + free, "--web.listen-address=" + taken.Addr().String()},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var log journal
		getenv := func(string) string { return testKey }
		status := run(ctx, append(args, "--opper.url="+url, "--storage.path="+t.TempDir()), getenv, io.Discard, &log)
		cancel()
		if status != 1 || len(log.since(0, "level=error")) != 1 || len(log.since(0, "level=error", "--web.listen-address", taken.Addr().String())) != 1 {
			t.Errorf("status %d, log:\n%s", status, &log)
		}
		if c, err := net.Dial("tcp", free); err == nil {
			_ = c.Close()
			t.Error("the other address is served")
		}
	}
	if n := server.RequestCount(); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, texts := range map[string][]string{
		"--help":    {"usage: opper_exporter", "--opper.api-key-file", "--web.listen-address", "OPPER_API_KEY"},
		"-h":        {"usage: opper_exporter"},
		"--version": {"opper_exporter, version", "go1."},
	} {
		var stdout, stderr journal
		status := run(t.Context(), []string{arg}, func(string) string { return "" }, &stdout, &stderr)
		if status != 0 || stderr.String() != "" {
			t.Errorf("%s: status %d, stderr %q", arg, status, &stderr)
		}
		for _, text := range texts {
			if strings.Count(stdout.String(), text) == 0 {
				t.Errorf("%s: no %q in %s", arg, text, &stdout)
			}
		}
		if n := strings.Count(stdout.String(), "usage: "); n > 1 {
			t.Errorf("%s: told %d times", arg, n)
		}
	}
}

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
		{"/", "Accept", "*/*", "text/html", "", "<html", ""},
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

	duration := e.protobuf()["opper_trace_duration_seconds"]
	if duration == nil {
		t.Fatal("no durations in protobuf")
	}
	for _, m := range duration.GetMetric() {
		if h := m.GetHistogram(); h.GetSampleCount() > 0 && (len(h.GetBucket()) == 0 || len(h.GetPositiveSpan()) == 0) {
			t.Errorf("not classic and native: %v", m)
		}
	}

	landing := e.get("/").body
	for _, text := range []string{`href="/metrics"`, `href="/-/healthy"`, `href="/-/ready"`, "Version: " + versionText()} {
		if !strings.Contains(landing, text) {
			t.Errorf("no %s on the landing page:\n%s", text, landing)
		}
	}
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

func TestReadyAfterBaseline(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	release := hold(t, server)
	e := start(t, map[string]string{"OPPER_API_KEY": testKey}, "--opper.url="+url)
	await(t, "the first request", func() bool { return server.RequestCount() > 0 })
	if ready, healthy := e.get("/-/ready").code, e.get("/-/healthy").code; ready != http.StatusServiceUnavailable || healthy != http.StatusOK {
		t.Errorf("before the baseline: ready %d, healthy %d", ready, healthy)
	}
	if got := e.scrape(); len(got.of("opper_traces_total")) != 0 || got.syncs("success") != 0 {
		t.Errorf("before the baseline: %v", got.of("opper_traces_total"))
	}
	release()
	e.awaitReady()
	if got := e.scrape(); got.sum("opper_traces_total") != 120 || got[`opper_exporter_initial_sync_progress_ratio{project="default"}`] != 1 {
		t.Errorf("after the baseline: %v", got.of("opper_traces_total"))
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
	if landing := e.get("/").body; !strings.Contains(landing, `href="/a/b"`) {
		t.Errorf("landing page:\n%s", landing)
	}
}

// Scrapes are kept in flight by an Opper that does not answer.
func TestMaxRequests(t *testing.T) {
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
	if p := e.get("/metrics"); p.code != http.StatusServiceUnavailable {
		t.Errorf("a second scrape: %d: %s", p.code, p.body)
	}
	if e.get("/-/healthy").code != http.StatusOK {
		t.Error("not healthy")
	}
	release()
	<-first
	if got := e.scrape().up(); got != 1 {
		t.Errorf("up %v", got)
	}
}

func TestTwoAddresses(t *testing.T) {
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

func TestTLSAndBasicAuth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{
		"web.crt": certPEM,
		"web.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}),
		// The hash is that of "open sesame", at the least cost.
		"web.yml": []byte("tls_server_config: {cert_file: web.crt, key_file: web.key}\n" +
			"basic_auth_users: {ali: $2a$04$I371Cxx4bFFXcl9Aj5MBJek9DcFr9uwBkgA.x6XYp/OHBjBdmIFBO}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, opperURL := fakeOpper(t, oppertest.Config{}, 3)
	e := start(t, map[string]string{"OPPER_API_KEY": testKey}, "--opper.url="+opperURL, "--web.config.file="+filepath.Join(dir, "web.yml"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
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
	await(t, "what the server says about it is in our log", func() bool { return len(e.log.since(0, "level=warn", "TLS handshake error")) == 1 })
}

func TestWithoutNativeHistograms(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 120)
	e := startReady(t, url, "--no-collector.native-histograms")
	families := e.protobuf()
	for _, name := range []string{"opper_trace_duration_seconds", "opper_tokens_per_trace"} {
		if len(families[name].GetMetric()) == 0 {
			t.Errorf("no %s", name)
		}
		for _, m := range families[name].GetMetric() {
			h := m.GetHistogram()
			if len(h.GetBucket()) == 0 || h.Schema != nil || h.ZeroCount != nil || h.ZeroThreshold != nil || h.PositiveSpan != nil || h.PositiveDelta != nil {
				t.Errorf("%s: %v", name, h)
			}
		}
	}
}

func TestWithoutClassicHistograms(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 120)
	e := startReady(t, url, "--no-collector.classic-histograms")
	families := e.protobuf()
	for _, name := range []string{"opper_trace_duration_seconds", "opper_tokens_per_trace"} {
		if len(families[name].GetMetric()) == 0 {
			t.Errorf("no %s", name)
		}
		for _, m := range families[name].GetMetric() {
			h := m.GetHistogram()
			if len(h.GetBucket()) != 0 || h.Schema == nil || h.GetSampleCount() > 0 && len(h.GetExemplars()) == 0 {
				t.Errorf("%s: %v", name, h)
			}
		}
	}
	got := e.scrape()
	for key := range got.of("opper_trace_duration_seconds_bucket") {
		if !strings.Contains(key, `le="+Inf"`) {
			t.Errorf("text has %s", key)
		}
	}
	if got.sum("opper_trace_duration_seconds_count") == 0 || got.sum("opper_trace_duration_seconds_sum") == 0 {
		t.Error("text has no sums")
	}
}

// Created timestamps are in the text only if it is asked for.
func TestOpenMetricsCreated(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 120)
	for flag, want := range map[string]bool{"--web.openmetrics-created": true, "--no-web.openmetrics-created": false} {
		e := startReady(t, url, flag)
		text := e.get("/metrics", "Accept", "application/openmetrics-text;version=1.0.0").body
		for _, name := range []string{"opper_traces_created{", "opper_trace_duration_seconds_created{", "opper_tokens_per_trace_created{", "opper_exporter_gaps_created{"} {
			if strings.Contains(text, "\n"+name) != want {
				t.Errorf("%s: %s there: %v", flag, name, !want)
			}
		}
		if plain := e.get("/metrics").body; strings.Contains(plain, "_created") {
			t.Errorf("%s: created in the plain text", flag)
		}
	}
}

// Names are rewritten in the order of the flags, and each only as a whole.
func TestRewrites(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 0)
	now := time.Now().Add(-time.Hour)
	for i, name := range []string{"user-1-mail", "user-22-mail", "my user-3-mail", "user-a=b", "left out", "user-9-secret", ""} {
		server.Add(oppertest.Trace{ID: fmt.Sprint(i), Name: &name, Start: &now, End: &now})
	}
	e := startReady(t, url,
		`--collector.trace-name-rewrite=user-(\d+)-(?P<kind>.*)=${kind} of a user`, `--collector.trace-name-rewrite=mail(.*)=post$1`,
		`--collector.trace-name-rewrite=.*a=b=equal`, `--collector.trace-name-rewrite=\(unnamed\)=nobody`,
		"--collector.trace-name-exclude=left out|.*secret", "--collector.max-trace-names=3")
	got := samples{}
	for key, n := range e.scrape().of("opper_traces_total") {
		if n > 0 {
			got[key] = n
		}
	}
	want := samples{}
	for name, n := range map[string]float64{"post of a user": 2, "equal": 1, "my user-3-mail": 1, "(other)": 1} {
		want[fmt.Sprintf(`opper_traces_total{outcome="unknown",project="default",trace_name=%q}`, name)] = n
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if names := e.scrape()[`opper_exporter_trace_names{project="default"}`]; names != 4 {
		t.Errorf("%v names", names)
	}
}

func TestLogFormatAndLevel(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--log.format=json")
	e.end()
	for line := range strings.Lines(e.log.String()) {
		var entry struct{ TS, Level, Msg, Caller string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.TS == "" || entry.Level == "" || entry.Msg == "" || entry.Caller == "" {
			t.Errorf("%q: %+v, %v", line, entry, err)
		}
	}
	e = startReady(t, url)
	e.end()
	for line := range strings.Lines(e.log.String()) {
		for _, key := range []string{"ts=", "level=", "caller=", "msg="} {
			if n := strings.Count(" "+line, " "+key); n != 1 {
				t.Errorf("%s %d times: %s", key, n, line)
			}
		}
	}

	address := freeAddress(t)
	quiet := launch(t, map[string]string{"OPPER_API_KEY": testKey}, []string{"--opper.url=" + url, "--log.level=error", "--web.listen-address=" + address})
	quiet.urls = []string{"http://" + address}
	await(t, "it listens", func() bool {
		quiet.mustRun()
		_, err := fetch(t, quiet.client, quiet.urls[0])
		return err == nil
	})
	quiet.awaitReady()
	if text := quiet.log.String(); text != "" {
		t.Errorf("nothing went wrong, but:\n%s", text)
	}
	server.Fail(oppertest.Fault{Answer: oppertest.Errors(403)["v3 text"], Times: -1})
	await(t, "an error in the log", func() bool { return len(quiet.log.since(0, "level=error", "403")) > 0 })
}

func TestOnScrape(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	e := startReady(t, url, "--collector.interval=0s", "--collector.settle-delay=0s")
	before := e.scrape() // it may share the sync that made the exporter ready
	for range 3 {
		server.ResetRequests()
		got := e.scrape()
		if got.syncs("success") != before.syncs("success")+1 || server.RequestCount() == 0 || server.RequestCount() > 2 {
			t.Errorf("syncs from %v to %v, %d requests", before.syncs("success"), got.syncs("success"), server.RequestCount())
		}
		before = got
	}

	release := hold(t, server)
	server.ResetRequests()
	now := time.Now()
	server.Add(oppertest.Trace{ID: "5d5a2c9e-0000-4000-8000-000000000001", Start: &now, End: &now})
	e.client.Timeout = 8 * time.Second // less than a scrape may take that says nothing
	for _, timeout := range []string{"0.6", "0.1", "0.55"} {
		if got := e.scrape("X-Prometheus-Scrape-Timeout-Seconds", timeout); got.sum("opper_traces_total") != 120 || got.syncs("success") != before.syncs("success") {
			t.Errorf("with Opper hanging: %v traces, %v syncs", got.sum("opper_traces_total"), got.syncs("success"))
		}
	}
	await(t, "the request of the sync that they share", func() bool { return server.RequestCount() > 0 })
	if n := server.RequestCount(); n != 1 {
		t.Errorf("%d requests at once", n)
	}
	mark := len(e.log.String())
	release()
	await(t, "the sync goes on without a scrape", func() bool { return len(e.log.since(mark, "sync complete")) > 0 })

	// Another hanging one shows what that sync found, and that it was one.
	hold(t, server)
	got := e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "0.1")
	if got.sum("opper_traces_total") != 121 || got.syncs("success") != before.syncs("success")+1 {
		t.Errorf("afterwards: %v traces, syncs from %v to %v", got.sum("opper_traces_total"), before.syncs("success"), got.syncs("success"))
	}
}

// suffer lets Opper fail until it is seen, and then checks that the numbers
// stand and that all is well again without the fault.
func (e *exporter) suffer(server *oppertest.Server, fault oppertest.Answer, code string, texts ...string) {
	e.t.Helper()
	before := e.awaitUp(1)
	mark := len(e.log.String())
	server.Fail(oppertest.Fault{Answer: fault, Times: -1})
	during := e.awaitUp(0)
	var later samples
	await(e.t, "two syncs fail", func() bool {
		later = e.scrape()
		return later.syncs("error") >= before.syncs("error")+2
	})
	if later.up() != 0 || later.syncs("success") != during.syncs("success") {
		e.t.Errorf("up %v, syncs that did not fail: %v, %v", later.up(), during.syncs("success"), later.syncs("success"))
	}
	if later.requests(code) <= before.requests(code) {
		e.t.Errorf("requests with code %s: %v, %v", code, before.requests(code), later.requests(code))
	}
	if !maps.Equal(before.of("opper_traces_total"), later.of("opper_traces_total")) || later.sum("opper_exporter_gaps_total") != 0 {
		e.t.Errorf("numbers changed: %v, %v", before.of("opper_traces_total"), later.of("opper_traces_total"))
	}
	if want := append(texts, "level=error", `msg="sync failed"`, "err="); len(e.log.since(mark, want...)) == 0 {
		e.t.Errorf("no log line with %q:\n%s", want, e.log.since(mark, "level=error"))
	}
	if e.get("/-/healthy").code != http.StatusOK || e.get("/-/ready").code != http.StatusOK {
		e.t.Error("not healthy and ready")
	}
	e.get("/")
	mark = len(e.log.String())
	server.Clear()
	var after samples
	await(e.t, "it recovers and says so", func() bool {
		after = e.scrape()
		return after.up() == 1 && after.syncs("success") > later.syncs("success") && len(e.log.since(mark, "level=info", `msg="sync complete"`)) > 0
	})
	after.mustKeep(e.t, before)
}

func TestErrorShapes(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 422, 429, 500, 503} {
		for shape, answer := range oppertest.Errors(status) {
			t.Run(fmt.Sprintf("%d %s", status, shape), func(t *testing.T) {
				t.Parallel()
				server, url := fakeOpper(t, oppertest.Config{}, 30)
				e := startReady(t, url)
				texts := []string{"opper answered " + strconv.Itoa(status)}
				e.suffer(server, answer, strconv.Itoa(status), texts...)
				if lines := e.log.since(0, oppertest.ErrorMessage); len(lines) > 0 {
					t.Errorf("the log has Opper's message: %s", lines)
				}
			})
		}
	}
}

func TestTroubleWithOpper(t *testing.T) {
	t.Parallel()
	other := oppertest.New(oppertest.Config{Seed: 1, BodyBytes: 100})
	now := time.Now()
	other.FillHistory(60, 3, now.Add(-2*time.Hour), now.Add(-10*time.Minute))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed, with %d headers", len(r.Header))
	}))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		answer oppertest.Answer
		code   string
		texts  []string
	}{
		"another project": {oppertest.OtherProject(other), "200", []string{"another project"}},
		"hangs":           {oppertest.Hang, "error", []string{"no complete answer within 200ms"}},
		"hangs in a body": {oppertest.HangBody, "error", []string{"no complete answer within 200ms"}},
		"cut":             {oppertest.Cut, "error", []string{"list traces"}},
		"cut in a body":   {oppertest.CutBody, "error", []string{"list traces"}},
		"HTML":            {oppertest.HTML, "200", []string{"an HTML page instead of JSON"}},
		"garbage":         {oppertest.Garbage, "200", []string{"list traces"}},
		"truncated":       {oppertest.Truncated, "200", []string{"list traces"}},
		"empty object":    {oppertest.EmptyObject, "200", []string{"without a list of traces"}},
		"nothing":         {oppertest.Respond(200, "application/json", ""), "200", []string{"list traces"}},
		"redirect": {func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, elsewhere.URL+"/v2/traces?key="+testKey, http.StatusFound)
		}, "302", []string{"opper answered 302", "not followed"}},
		"too many, with a date":     {oppertest.TooMany("Thu, 01 Jan 2026 00:00:00 GMT"), "429", []string{"opper answered 429"}},
		"repeats the key":           {oppertest.Respond(403, "application/json", `{"message":"no `+testKey+` here"}`), "403", []string{"opper answered 403"}},
		"repeats what it was given": {oppertest.Respond(422, "application/json", `{"detail":[{"msg":"too long","input":"`+oppertest.Secret+`"}]}`), "422", []string{"parameter refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 60)
			args := []string{}
			if strings.HasPrefix(name, "hangs") {
				args = append(args, "--opper.timeout=200ms")
			}
			startReady(t, url, args...).suffer(server, c.answer, c.code, c.texts...)
		})
	}
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{Key: "another"}, 3)
	e := start(t, map[string]string{"OPPER_API_KEY": testKey}, "--opper.url="+url)
	await(t, "syncs fail", func() bool { return e.scrape().syncs("error") > 1 })
	got := e.scrape()
	if got.up() != 0 || got.syncs("success") != 0 || got.requests("401") < 2 || got.requests("200") != 0 || len(got.of("opper_traces_total")) != 0 {
		t.Errorf("%v", got.of("opper_exporter_api_requests_total"))
	}
	if len(e.log.since(0, "level=error", "opper answered 401 Unauthorized: invalid key")) == 0 {
		t.Error("the log does not say so")
	}
	if e.get("/-/ready").code != http.StatusServiceUnavailable || e.get("/-/healthy").code != http.StatusOK {
		t.Error("not healthy, or ready")
	}
}

func TestKeyFileRotation(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	path := writeFile(t, "key", strings.Repeat("x", len(testKey))+"\n")
	old, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, nil, "--opper.url="+url, "--opper.api-key-file="+path)
	await(t, "401", func() bool { return e.scrape().requests("401") > 0 })
	// Size and time stay as they were, so that only the 401 tells.
	if err := os.WriteFile(path, []byte(testKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, old.ModTime()); err != nil {
		t.Fatal(err)
	}
	e.awaitReady()
	if got := e.scrape().sum("opper_traces_total"); got != 3 {
		t.Errorf("%v traces", got)
	}
	// A file that has gone does no harm.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	n := server.RequestCount()
	await(t, "requests without the file", func() bool { return server.RequestCount() > n+2 })
	if got := e.scrape().up(); got != 1 {
		t.Errorf("up %v", got)
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	server := oppertest.New(oppertest.Config{Key: testKey})
	now := time.Now()
	server.FillHistory(30, 3, now.Add(-2*time.Hour), now.Add(-10*time.Minute))
	web := httptest.NewServer(server)
	address := web.Listener.Addr().String()
	e := startReady(t, web.URL)
	before := e.scrape()
	web.Close()
	var during samples
	await(t, "syncs fail", func() bool {
		during = e.scrape()
		return during.up() == 0 && during.syncs("error") > 1 && during.requests("error") > 1
	})
	if len(e.log.since(0, "level=error", "connection refused")) == 0 {
		t.Errorf("the log: %q", e.log.since(0, "level=error"))
	}
	during.mustKeep(t, before)

	again := httptest.NewUnstartedServer(server)
	_ = again.Listener.Close()
	await(t, "the port is free again", func() bool {
		l, err := net.Listen("tcp", address)
		again.Listener = l
		return err == nil
	})
	again.Start()
	defer again.Close()
	after := e.awaitUp(1)
	after.mustKeep(t, before)
	if after.sum("opper_traces_total") != 30 {
		t.Errorf("%v traces", after.sum("opper_traces_total"))
	}
}

// A row that Opper can't give costs one gap, or none if it has been counted.
func TestPoisonedRow(t *testing.T) {
	t.Parallel()
	for name, poisonedFirst := range map[string]bool{"from the start": true, "after the baseline": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const traces = 250
			server, url := fakeOpper(t, oppertest.Config{}, traces)
			poison := func() {
				server.Fail(oppertest.Fault{Answer: oppertest.Errors(500)["v2 string"], Row: server.Snapshot()[40].ID, Times: -1})
			}
			gaps := 0.0
			if poisonedFirst {
				poison()
				gaps = 1
			}
			e := startReady(t, url)
			if !poisonedFirst {
				poison()
			}
			await(t, "Opper fails", func() bool { return e.scrape().requests("500") > 0 })
			before := e.scrape()
			var got samples
			await(t, "syncs go on", func() bool {
				got = e.scrape()
				return got.syncs("success") > before.syncs("success")+1
			})
			if got.up() != 1 || got.syncs("error") != 0 || got.sum("opper_traces_total") != traces-gaps || got.sum("opper_exporter_gaps_total") != gaps {
				t.Errorf("up %v, %v errors, %v traces, %v gaps", got.up(), got.syncs("error"), got.sum("opper_traces_total"), got.sum("opper_exporter_gaps_total"))
			}
			if n := len(e.log.since(0, "level=warn", "unreadable rows skipped")); n != int(gaps) {
				t.Errorf("%d warnings", n)
			}
			server.Clear()
			now := time.Now()
			server.Add(oppertest.Trace{ID: "5d5a2c9e-0000-4000-8000-000000000002", Start: &now, End: &now})
			await(t, "what is new is seen", func() bool { return e.scrape()[`opper_traces_listed{project="default"}`] == traces+1 })
			after := e.awaitUp(1)
			after.mustKeep(t, got)
		})
	}
}

func TestEmptyListAndOne(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 0)
	e := startReady(t, url, "--collector.settle-delay=0s")
	got := e.scrape()
	if listed, ok := got[`opper_traces_listed{project="default"}`]; got.up() != 1 || len(got.of("opper_traces_total")) != 0 || !ok || listed != 0 {
		t.Errorf("empty: up %v, listed %v, %v", got.up(), listed, got.of("opper_traces_total"))
	}
	if n := len(e.log.since(0, "level=warn")) + len(e.log.since(0, "level=error")); n != 0 {
		t.Error("complaints about an empty list")
	}

	server.Add(oppertest.Sample())
	one := func(e *exporter) samples {
		t.Helper()
		var got samples
		await(t, "the trace is counted", func() bool {
			got = e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10") // a server's, as its zeros are shown first
			return got.sum("opper_traces_total") > 0
		})
		const labels = `{outcome="unknown",project="default",trace_name="<string>"}`
		if got["opper_traces_total"+labels] != 1 || got["opper_trace_duration_seconds_sum"+labels] != 0.123 || got["opper_trace_tokens_total"+labels] != 123 {
			t.Errorf("a list of one: %v", got.of("opper_traces_total"))
		}
		return got
	}
	one(startReady(t, url)) // as a baseline
	before := one(e)

	// Retention may empty the list, too.
	server.Delete(oppertest.Sample().ID)
	await(t, "the list is empty again", func() bool {
		got := e.scrape()
		return got[`opper_traces_listed{project="default"}`] == 0 && got.syncs("success") > before.syncs("success")+2
	})
	after := e.scrape()
	after.mustKeep(t, before)
	if after.up() != 1 || after.syncs("error") != 0 {
		t.Errorf("up %v, %v errors", after.up(), after.syncs("error"))
	}
}

// The counts of a new name show once a server has surely read its zeros, and
// nobody else makes them show.
func TestZerosFirst(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	e := startReady(t, url, "--collector.settle-delay=0s")
	const held, zero = `opper_exporter_trace_names_zero_pending{project="default"}`, `opper_traces_total{outcome="unknown",project="default",trace_name="<string>"}`
	server.Add(oppertest.Sample())
	var before samples
	await(t, "its zeros are shown", func() bool {
		before = e.scrape()
		return before[held] == 1
	})
	await(t, "more syncs", func() bool {
		e.get("/metrics?name[]=opper_traces_total", "X-Prometheus-Scrape-Timeout-Seconds", "10")
		got := e.scrape()
		if n, shown := got[zero]; !shown || n != 0 {
			t.Fatalf("%s is %v, shown: %v", zero, n, shown)
		}
		return got.syncs("success") > before.syncs("success")+5
	})
	e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10")
	e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10")
	await(t, "its counts are shown", func() bool { return e.scrape()[zero] == 1 })
}

func TestRequestsToOpper(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 30)
	e := startReady(t, url, "--opper.header=X-Opper-Project: 1234", "--opper.header=x-more:  of this ", "--opper.name-filter=AGENT-00")
	all := server.Requests()
	if len(all) == 0 {
		t.Fatal("no requests")
	}
	for _, r := range all {
		h := r.Header
		if h.Get("X-Opper-Project") != "1234" || h.Get("X-More") != "of this" || r.Name != "AGENT-00" || !strings.HasPrefix(r.UserAgent, "opper_exporter/") || !r.Authorized {
			t.Errorf("%+v", r)
		}
	}
	for key := range e.scrape().of("opper_traces_total") {
		if !strings.Contains(key, `trace_name="agent-00"`) {
			t.Errorf("not filtered: %s", key)
		}
	}
}

func TestEnvironment(t *testing.T) {
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	t.Setenv("OPPER_BASE_URL", url+"/v3/")
	e := start(t, map[string]string{"OPPER_HTTP_BEARER": testKey})
	e.awaitReady()
	if r := server.Requests()[0]; !r.V3 || !r.Authorized {
		t.Errorf("%+v", r)
	}
	t.Setenv("OPPER_BASE_URL", "nowhere")
	var stderr journal
	if status := run(t.Context(), nil, func(string) string { return testKey }, io.Discard, &stderr); status != 2 || !strings.Contains(stderr.String(), "--opper.url: ") {
		t.Errorf("status %d: %s", status, &stderr)
	}
	// The first of the two names counts, and a flag beats both.
	e = start(t, map[string]string{"OPPER_API_KEY": testKey, "OPPER_HTTP_BEARER": "wrong"}, "--opper.url="+url)
	e.awaitReady()
}

// Nothing is waited for that hangs, and nothing goes on.
func TestEnd(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]string{"interval": "25ms", "on scrape": "0s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			e := startReady(t, url, "--collector.interval="+interval)
			e.scrape()
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			if interval == "0s" {
				go func() { scraped <- scrapeText(t, e.client, e.urls[0]) }()
			}
			await(t, "a sync waits for Opper", func() bool { return server.RequestCount() > 0 })
			if status := e.end(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if interval == "0s" {
				if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
					t.Errorf("the scrape in flight got %.200s", text)
				}
			}
			if len(e.log.since(0, "level=error")) > 0 {
				t.Error("an error in the log")
			}
			if c, err := net.Dial("tcp", strings.TrimPrefix(e.urls[0], "http://")); err == nil {
				_ = c.Close()
				t.Error("still listening")
			}
		})
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

// The program itself, in a process of its own, with a scrape in flight.
func TestSignals(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			var log journal
			cmd := exec.CommandContext(t.Context(), self, "--web.listen-address=127.0.0.1:0", "--collector.interval=0s", "--opper.url="+url, "--storage.path="+t.TempDir())
			cmd.Env = append(os.Environ(), asProgram+"=1", "OPPER_API_KEY="+testKey)
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() { exited <- cmd.Wait() }()
			await(t, "the first walk", func() bool { return len(log.since(0, "initial sync complete")) > 0 })
			target := "http://" + log.addresses()[0]
			scrapeText(t, http.DefaultClient, target)
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			go func() { scraped <- scrapeText(t, http.DefaultClient, target) }()
			await(t, "a scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
				t.Errorf("the scrape in flight got %.200s", text)
			}
			if err := <-exited; err != nil {
				t.Errorf("%v:\n%s", err, &log)
			}
			noLeak(t, "the log", log.String())
		})
	}

	// The exit status of a wrong flag is the process's own.
	cmd := exec.CommandContext(t.Context(), self, "--no-such-flag")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if exit, ok := errors.AsType[*exec.ExitError](cmd.Run()); !ok || exit.ExitCode() != 2 {
		t.Errorf("a wrong flag ends with %v", exit)
	}
}
