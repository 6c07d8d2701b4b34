package opper

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRequestTimeout(t *testing.T) {
	for name, begin := range map[string]string{"no answer": "", "half an answer": `{"data":[`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				if begin != "" {
					_, _ = io.WriteString(w, begin)
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}, func(o *Options) { o.Timeout = 2 * time.Second }) // enough for a connection on a busy machine
			_, err := f.WithRetries(1).List(t.Context(), 0, 100)
			if err == nil || err.Error() != "list traces: no complete answer within 2s" || !Unreadable(err) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a timeout of the request", err)
			}
			if got := f.observed(); got != "error error" {
				t.Errorf("observed %q, want two errors", got)
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	limit := func(o *Options) { o.MaxBody = 1000 }
	body := func(size int) string {
		return `{"data":[{"id":"a","input":"` + strings.Repeat("x", size-len(`{"data":[{"id":"a","input":""}]}`)) + `"}]}`
	}
	f := newFixture(t, answer(200, body(1000)), limit)
	if page, err := f.List(t.Context(), 0, 1); err != nil || len(page.Traces) != 1 {
		t.Errorf("got %+v, %v, want a body of just the limit", page, err)
	}
	zipped := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, body(10<<20))
		_ = z.Close()
		_, _ = w.Write(b.Bytes())
	}
	for name, handler := range map[string]http.HandlerFunc{"plain": answer(200, body(1001)), "gzip": zipped} {
		f := newFixture(t, handler, limit)
		_, err := f.List(t.Context(), 0, 100)
		if !errors.Is(err, ErrTooLarge) || !Unreadable(err) || f.requests.Load() != 1 || !strings.Contains(err.Error(), "1000 bytes") {
			t.Errorf("%s: got %v after %d requests, want too large after 1", name, err, f.requests.Load())
		}
	}
}

func TestGzip(t *testing.T) {
	serve := func(end int) *fixture {
		return newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, samplePage)
			_ = z.Close()
			_, _ = w.Write(b.Bytes()[:b.Len()-end])
		})
	}
	if page, err := serve(0).List(t.Context(), 0, 1); err != nil || len(page.Traces) != 1 {
		t.Errorf("got %+v, %v", page, err)
	}
	if _, err := serve(4).List(t.Context(), 0, 1); err == nil || !Unreadable(err) {
		t.Errorf("got %v, want an error for a cut checksum", err)
	}
}

func TestHTTP2(t *testing.T) {
	f := &fixture{time: newFakeTime()}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("got %s", r.Proto)
		}
		answer(200, samplePage)(w, r)
	}))
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	defer f.server.Close()
	f.connect(t, f.server.URL)
	f.httpTransport().TLSClientConfig = f.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	f.httpTransport().TLSClientConfig.NextProtos = nil
	if _, err := f.List(t.Context(), 0, 100); err != nil {
		t.Error(err)
	}
}

func TestRedirectIsRefused(t *testing.T) {
	other := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("got a request: %v", r.Header) })
	for _, location := range []string{other.server.URL + "/v2/traces?token=hunter2", "//elsewhere.example:99/x", "/v3/traces", "http://user:hunter2@bad host/", ""} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			_, err := f.List(t.Context(), 0, 100)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Status != status || e.Reason != "redirect not followed" || f.requests.Load() != 1 || Unreadable(err) {
				t.Errorf("%d to %q: got %v", status, location, err)
			}
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var connections atomic.Int64
	f := &fixture{time: newFakeTime()}
	f.server = httptest.NewUnstartedServer(inTurn(answer(200, samplePage), answer(404, "gone"), answer(500, strings.Repeat("x", 50_000)), answer(429, ""), answer(200, samplePage+"  ")))
	f.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	f.server.Start()
	defer f.server.Close()
	f.connect(t, f.server.URL)
	for range 10 {
		_, _ = f.List(t.Context(), 0, 100)
	}
	if got := f.observed(); got != "200 404 500 429 200 200 200 200 200 200 200 200" {
		t.Errorf("observed %q", got)
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

func TestNotReachedIsNotUnreadable(t *testing.T) {
	quiet := log.New(io.Discard, "", 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + listener.Addr().String()
	_ = listener.Close()
	untrusted := httptest.NewUnstartedServer(answer(200, samplePage))
	untrusted.Config.ErrorLog = quiet
	untrusted.StartTLS()
	defer untrusted.Close()
	// A listener that never accepts: the handshake of TLS hangs.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, url := range map[string]string{
		"refused": refused, "untrusted": untrusted.URL, "silent": "https://" + silent.Addr().String(), "unknown": "https://no-such-host.invalid",
	} {
		f := &fixture{time: newFakeTime()}
		f.connect(t, url, func(o *Options) { o.Timeout = 200 * time.Millisecond })
		_, err := f.WithRetries(1).List(t.Context(), 0, 100)
		if err == nil || Unreadable(err) || Refused(err) || OutOfRange(err) {
			t.Errorf("%s: got %v, want an error of the service", name, err)
		}
		if got := f.observed(); got != "error error" {
			t.Errorf("%s: observed %q, want one retry", name, got)
		}
	}
}
