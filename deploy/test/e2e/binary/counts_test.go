package binary_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

func TestSyncOnScrapeSharesOneSync(t *testing.T) {
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
	e.client.Timeout = 8 * time.Second // less than the default timeout of a scrape
	for _, timeout := range []string{"0.6", "0.1", "0.55"} {
		if got := e.scrape("X-Prometheus-Scrape-Timeout-Seconds", timeout); got.sum("opper_traces_total") != 120 || got.syncs("success") != before.syncs("success") {
			t.Errorf("with Opper hanging: %v traces, %v syncs", got.sum("opper_traces_total"), got.syncs("success"))
		}
	}
	await(t, "the request of the sync that they share", func() bool { return server.RequestCount() > 0 })
	if n := server.RequestCount(); n != 1 {
		t.Errorf("%d requests at once", n)
	}
	mark := len(e.Log.String())
	release()
	await(t, "the sync goes on without a scrape", func() bool { return len(e.Log.LinesSince(mark, "sync complete")) > 0 })

	// Another hanging one shows what that sync found, and that it was one.
	hold(t, server)
	got := e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "0.1")
	if got.sum("opper_traces_total") != 121 || got.syncs("success") != before.syncs("success")+1 {
		t.Errorf("afterwards: %v traces, syncs from %v to %v", got.sum("opper_traces_total"), before.syncs("success"), got.syncs("success"))
	}
}

// The counts of a new name are exposed once a scraper has provably read its zeros.
// No other request makes them so.
func TestNewNamesAreExposedAtZeroFirst(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	e := startReady(t, url, "--collector.settle-delay=0s")
	const pending, zero = `opper_exporter_trace_names_zero_pending{project="default"}`, `opper_traces_total{outcome="unknown",project="default",trace_name="<string>"}`
	server.Add(oppertest.Sample())
	var before samples
	await(t, "its zeros are shown", func() bool {
		before = e.scrape()
		return before[pending] == 1
	})
	await(t, "more syncs", func() bool {
		e.get("/metrics?name[]=opper_traces_total", "X-Prometheus-Scrape-Timeout-Seconds", "10")
		got := e.scrape()
		if n, shown := got[zero]; !shown || n != 0 {
			t.Fatalf("%s is %v, shown: %v", zero, n, shown)
		}
		return got.syncs("success") > before.syncs("success")+5
	})
	const header, timeout = "X-Prometheus-Scrape-Timeout-Seconds", "10"
	if n := e.scrape(header, timeout)[zero]; n != 0 {
		t.Errorf("the first scrape of a scraper shows %v", n)
	}
	// This client closes its connections, and scrapes again at once: maybe before
	// the exporter knows that it has sent the last response, which then proves nothing.
	await(t, "its counts are shown", func() bool { return e.scrape(header, timeout)[zero] == 1 })
}

func TestEmptyListAndOne(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 0)
	e := startReady(t, url, "--collector.settle-delay=0s")
	got := e.scrape()
	if listed, ok := got[`opper_traces_listed{project="default"}`]; got.up() != 1 || len(got.of("opper_traces_total")) != 0 || !ok || listed != 0 {
		t.Errorf("empty: up %v, listed %v, %v", got.up(), listed, got.of("opper_traces_total"))
	}
	if n := len(e.Log.Lines("level=warn")) + len(e.Log.Lines("level=error")); n != 0 {
		t.Error("warnings or errors about an empty list")
	}

	server.Add(oppertest.Sample())
	one := func(e *exporter) samples {
		t.Helper()
		var got samples
		await(t, "the trace is counted", func() bool {
			got = e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10") // a scraper's, as its zeros are exposed first
			return got.sum("opper_traces_total") > 0
		})
		const labels = `{outcome="unknown",project="default",trace_name="<string>"}`
		if got["opper_traces_total"+labels] != 1 || got["opper_trace_duration_seconds_sum"+labels] != 0.123 || got["opper_trace_tokens_total"+labels] != 123 {
			t.Errorf("a list of one: %v", got.of("opper_traces_total"))
		}
		return got
	}
	one(startReady(t, url)) // by an initial sync
	before := one(e)

	// A list that is suddenly empty is not believed to be at once.
	server.Delete(oppertest.Sample().ID)
	e.AwaitLog(t, `level=error`, `msg="sync failed"`, `err="the list is empty, and expiry does not explain that"`)
	after := e.scrape()
	after.mustKeep(t, before)
	if listed := after[`opper_traces_listed{project="default"}`]; after.up() != 0 || listed != 1 {
		t.Errorf("up %v, %v listed", after.up(), listed)
	}
}

// Names are rewritten in the order of the flags, and each only as a whole.
func TestNamesAreRewrittenInOrder(t *testing.T) {
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

// serveRows is an Opper that lists these rows, as they are.
func serveRows(t *testing.T, rows []string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		page := rows[min(offset, len(rows)):min(offset+limit, len(rows))]
		_, _ = io.WriteString(w, fmt.Sprintf(`{"meta":{"total_count":%d},"data":[%s]}`, len(rows), strings.Join(page, ",")))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Names and identifiers that are not UTF-8, are half of a surrogate pair, or are
// longer than the maximum, are counted apart.
func TestStrangeNamesStayDistinct(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	texts := []string{"a\xff", "a\xfe", "a\xff\xff", `a\ufffd`, `a\ud800`, `a\ud801`, `a\ud800\ud800`, `a\udc00\ud800`, `a\ud83d\ude00`, "a\xf0\x9f", long + "1", long + "2", long}
	var rows []string
	for i, text := range texts {
		rows = append(rows, fmt.Sprintf(`{"id":"%s","name":"%[1]s","status":"ok","start_time":"2026-01-01T00:00:%02dZ","end_time":"2026-01-01T00:01:00Z"}`, text, 59-i))
	}
	e := startReady(t, serveRows(t, rows))
	got := e.scrape().of("opper_traces_total")
	names := 0
	for series, n := range got {
		if strings.Contains(series, `outcome="success"`) {
			names++
			if n != 1 {
				t.Errorf("%s is %v", series, n)
			}
		}
	}
	if names != len(texts) {
		t.Errorf("got %d names, want %d", names, len(texts))
	}
}

// Each kind of histogram can be switched off.
func TestHistogramsAreClassicAndNative(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 120)
	for name, c := range map[string]struct {
		args            []string
		classic, native bool
	}{
		"by default":      {nil, true, true},
		"without native":  {[]string{"--no-collector.native-histograms"}, true, false},
		"without classic": {[]string{"--no-collector.classic-histograms"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startReady(t, url, c.args...)
			families := e.protobuf()
			for _, name := range []string{"opper_trace_duration_seconds", "opper_tokens_per_trace"} {
				if len(families[name].GetMetric()) == 0 {
					t.Errorf("no %s", name)
				}
				for _, m := range families[name].GetMetric() {
					h := m.GetHistogram()
					filled := h.GetSampleCount() > 0
					if (len(h.GetBucket()) > 0) != c.classic || (h.Schema != nil) != c.native || (len(h.GetPositiveSpan()) > 0) != (c.native && filled) {
						t.Errorf("%s: %v", name, h)
					}
					if !c.native && (h.ZeroCount != nil || h.ZeroThreshold != nil || h.PositiveDelta != nil) {
						t.Errorf("%s has parts of a native histogram: %v", name, h)
					}
					if !c.classic && filled && len(h.GetExemplars()) == 0 {
						t.Errorf("%s has no exemplars: %v", name, h)
					}
				}
			}
			got := e.scrape()
			finite := 0
			for key := range got.of("opper_trace_duration_seconds_bucket") {
				if !strings.Contains(key, `le="+Inf"`) {
					finite++
				}
			}
			if (finite > 0) != c.classic {
				t.Errorf("the text has %d finite buckets", finite)
			}
			if got.sum("opper_trace_duration_seconds_count") == 0 || got.sum("opper_trace_duration_seconds_sum") == 0 {
				t.Error("the text has no sums")
			}
		})
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
