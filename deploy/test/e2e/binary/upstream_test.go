package binary_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// mustSurvive makes Opper fail until two syncs have failed. It checks that no count
// changes meanwhile, and that the exporter recovers without the fault.
func (e *exporter) mustSurvive(server *oppertest.Server, fault oppertest.Answer, code string, texts ...string) {
	e.t.Helper()
	before := e.awaitUp(1)
	mark := len(e.Log.String())
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
	if want := append(texts, "level=error", `msg="sync failed"`, "err="); len(e.Log.LinesSince(mark, want...)) == 0 {
		e.t.Errorf("no log line with %q:\n%s", want, e.Log.LinesSince(mark, "level=error"))
	}
	if e.get("/-/healthy").code != http.StatusOK || e.get("/-/ready").code != http.StatusOK {
		e.t.Error("not healthy and ready")
	}
	e.get("/")
	mark = len(e.Log.String())
	server.Clear()
	var after samples
	await(e.t, "it recovers and says so", func() bool {
		after = e.scrape()
		return after.up() == 1 && after.syncs("success") > later.syncs("success") && len(e.Log.LinesSince(mark, "level=info", `msg="sync complete"`)) > 0
	})
	after.mustKeep(e.t, before)
}

func TestCountsSurviveErrors(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 422, 429, 500, 503} {
		for shape, answer := range oppertest.Errors(status) {
			t.Run(fmt.Sprintf("%d %s", status, shape), func(t *testing.T) {
				t.Parallel()
				server, url := fakeOpper(t, oppertest.Config{}, 30)
				e := startReady(t, url)
				texts := []string{"opper answered " + strconv.Itoa(status)}
				e.mustSurvive(server, answer, strconv.Itoa(status), texts...)
				if lines := e.Log.Lines(oppertest.ErrorMessage); len(lines) > 0 {
					t.Errorf("the log has Opper's message: %s", lines)
				}
			})
		}
	}
}

func TestCountsSurviveBadResponses(t *testing.T) {
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
		"hangs":           {oppertest.Hang, "error", []string{"no complete answer within 1s"}},
		"hangs in a body": {oppertest.HangBody, "error", []string{"no complete answer within 1s"}},
		"cut":             {oppertest.Cut, "error", []string{"list traces"}},
		"cut in a body":   {oppertest.CutBody, "error", []string{"list traces"}},
		"HTML":            {oppertest.HTML, "200", []string{"an HTML page instead of JSON"}},
		"garbage":         {oppertest.Garbage, "200", []string{"list traces"}},
		"truncated":       {oppertest.Truncated, "200", []string{"list traces"}},
		"empty object":    {oppertest.EmptyObject, "200", []string{"without a list of traces"}},
		"nothing":         {oppertest.Respond(200, "application/json", ""), "200", []string{"list traces"}},
		// net/http logs by itself what comes behind an answer.
		"longer than it says": {func(w http.ResponseWriter, _ *http.Request, honest []byte) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}%s", honest)
		}, "200", []string{"without a list of traces"}},
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
				args = append(args, "--opper.timeout=1s")
			}
			startReady(t, url, args...).mustSurvive(server, c.answer, c.code, c.texts...)
		})
	}
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{Key: "another"}, 3)
	e := start(t, withKey(), "--opper.url="+url)
	await(t, "syncs fail", func() bool { return e.scrape().syncs("error") > 1 })
	got := e.scrape()
	if got.up() != 0 || got.syncs("success") != 0 || got.requests("401") < 2 || got.requests("200") != 0 || len(got.of("opper_traces_total")) != 0 {
		t.Errorf("%v", got.of("opper_exporter_api_requests_total"))
	}
	if len(e.Log.Lines("level=error", `key_from="environment variable OPPER_API_KEY"`, "opper answered 401 Unauthorized: invalid key")) == 0 {
		t.Error("the log does not say so")
	}
	// Ready, as there may be other projects.
	if e.get("/-/ready").code != http.StatusOK || e.get("/-/healthy").code != http.StatusOK {
		t.Error("not healthy, or not ready")
	}
}

func TestRotatedKeyFileIsRead(t *testing.T) {
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
	await(t, "traces", func() bool { return e.scrape().sum("opper_traces_total") == 3 })
	// Without the file, the last key is used.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	n := server.RequestCount()
	await(t, "requests without the file", func() bool { return server.RequestCount() > n+2 })
	if got := e.scrape().up(); got != 1 {
		t.Errorf("up %v", got)
	}
}

func TestCountsSurviveRefusedConnections(t *testing.T) {
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
	if len(e.Log.Lines("level=error", "connection refused")) == 0 {
		t.Errorf("the log: %q", e.Log.Lines("level=error"))
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
func TestUnreadableRowIsOneGap(t *testing.T) {
	t.Parallel()
	for name, poisonedFirst := range map[string]bool{"from the start": true, "after the initial sync": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const traces = 250
			server, url := fakeOpper(t, oppertest.Config{}, traces)
			poison := func() { // one of the few rows that an idle sync reads
				server.Fail(oppertest.Fault{Answer: oppertest.Errors(500)["v2 string"], Row: server.Snapshot()[2].ID, Times: -1})
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
			if n := len(e.Log.Lines("level=warn", "unreadable rows skipped")); n != int(gaps) {
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

func TestHeadersAndFilterReachOpper(t *testing.T) {
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

// A client's limit that is ignored is one clear error, and not a page to be
// halved again and again.
func TestIgnoredLimitIsOneError(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"meta":{"total_count":1000},"data":[{}`+strings.Repeat(`,{}`, 999)+`]}`)
	}))
	t.Cleanup(server.Close)
	e := start(t, withKey(), "--opper.url="+server.URL)
	await(t, "two syncs fail", func() bool { return e.scrape().syncs("error") >= 2 })
	got := e.scrape()
	if got.up() != 0 || got.requests("200") > 2*got.syncs("error")+1 {
		t.Errorf("up %v, %v requests for %v syncs", got.up(), got.requests("200"), got.syncs("error"))
	}
	if len(e.Log.Lines("level=error", "more rows than the limit of 100")) == 0 {
		t.Error("the log does not say why")
	}
}
