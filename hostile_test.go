package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

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
// longer than what is held of one, are counted apart.
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

// A client's limit that is ignored is one clear error, and not a page to be
// halved again and again.
func TestIgnoredLimit(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"meta":{"total_count":1000},"data":[{}`+strings.Repeat(`,{}`, 999)+`]}`)
	}))
	t.Cleanup(server.Close)
	e := start(t, map[string]string{"OPPER_API_KEY": testKey}, "--opper.url="+server.URL)
	await(t, "two syncs fail", func() bool { return e.scrape().syncs("error") >= 2 })
	got := e.scrape()
	if got.up() != 0 || got.requests("200") > 2*got.syncs("error")+1 {
		t.Errorf("up %v, %v requests for %v syncs", got.up(), got.requests("200"), got.syncs("error"))
	}
	if len(e.log.since(0, "level=error", "more rows than the limit of 100")) == 0 {
		t.Error("the log does not say why")
	}
}

// Over the network the key goes with TLS, or not at all.
func TestPlaintextNeedsAFlag(t *testing.T) {
	t.Parallel()
	getenv := func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }
	const url = "--opper.url=http://opper.example"
	_, _, err := parse([]string{url}, getenv, io.Discard)
	if err == nil || !strings.HasPrefix(err.Error(), "--opper.url: ") || !strings.Contains(err.Error(), "--opper.allow-plaintext") {
		t.Errorf("got %v", err)
	}
	cfg, _, err := parse([]string{url, "--opper.allow-plaintext"}, getenv, io.Discard)
	if err != nil || !cfg.opper.AllowPlaintext {
		t.Errorf("with the flag: got %v", err)
	}
}
