package opper

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
)

func TestPlaintext(t *testing.T) {
	key, err := FixedKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	for host, loopback := range map[string]bool{
		"localhost": true, "LOCALHOST:8080": true, "localhost.": true, "127.0.0.1": true, "127.255.3.4:1": true, "[::1]:80": true, "[::ffff:127.0.0.1]": true,
		"opper.example": false, "localhost.example": false, "127.0.0.1.example": false, "127.1": false, "2130706433": false, "0x7f.0.0.1": false, "0.0.0.0": false,
		"[::]": false, "192.0.2.1": false, "[::ffff:192.0.2.1]": false, "10.0.0.1:80": false,
	} {
		opts := Options{URL: "http://" + host, Key: key}
		if _, err := New(opts); loopback != (err == nil) || err != nil && (!strings.HasPrefix(err.Error(), "url: ") || !strings.Contains(err.Error(), "--opper.allow-plaintext")) {
			t.Errorf("%s: got %v", host, err)
		}
		opts.AllowPlaintext = true
		if _, err := New(opts); err != nil {
			t.Errorf("%s, allowed: got %v", host, err)
		}
		opts = Options{URL: "https://" + host, Key: key}
		if _, err := New(opts); err != nil {
			t.Errorf("%s with TLS: got %v", host, err)
		}
	}
}

// A name is only as good as the resolver, and a proxy is another host.
func TestPlaintextStaysOnTheHost(t *testing.T) {
	for name, test := range map[string]struct {
		url   string
		allow bool
		free  bool
	}{
		"loopback": {"http://localhost", false, false}, "allowed": {"http://localhost", true, true}, "TLS": {"https://localhost", false, true},
	} {
		f := &fixture{time: newFakeTime()}
		f.connect(t, test.url, func(o *Options) { o.AllowPlaintext = test.allow })
		if (f.httpTransport().Proxy != nil) != test.free || (f.httpTransport().DialContext == nil) != test.free {
			t.Errorf("%s: proxy %t, own dialer %t, want it free to go where it likes: %t", name, f.httpTransport().Proxy != nil, f.httpTransport().DialContext != nil, test.free)
		}
	}
	f := newFixture(t, answer(200, samplePage))
	if _, err := f.List(t.Context(), 0, 1); err != nil {
		t.Error(err)
	}
	dial := f.httpTransport().DialContext
	for _, address := range []string{"192.0.2.1:80", "0.0.0.0:80", "[::]:80", "[2001:db8::1]:80"} {
		if _, err := dial(t.Context(), "tcp", address); !errors.Is(err, errNotLoopback) {
			t.Errorf("%s: got %v, want that it is not dialled", address, err)
		}
	}
	f.httpTransport().CloseIdleConnections()
	f.httpTransport().DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, "192.0.2.1:80") // as if localhost were there
	}
	_, err := f.WithRetries(0).List(t.Context(), 0, 1)
	if want := "list traces: connect to 192.0.2.1:80: not a loopback address, which needs --opper.allow-plaintext"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// certificate makes a self-signed one.
func certificate(t *testing.T, until time.Time, hosts ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SECRET"}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTransportErrors(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	free := listen()
	refused := free.Addr().String()
	_ = free.Close()
	silent := listen().Addr().String()
	quiet := func(s *httptest.Server) *httptest.Server {
		t.Cleanup(s.Close)
		return s
	}
	withTLS := func(until time.Time, config *tls.Config, hosts ...string) (string, *tls.Config) {
		cert, pool := certificate(t, until, hosts...)
		s := httptest.NewUnstartedServer(answer(200, samplePage))
		s.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
		config.Certificates = []tls.Certificate{cert}
		s.TLS = config
		s.StartTLS()
		return quiet(s).URL, &tls.Config{RootCAs: pool}
	}
	valid := time.Now().Add(time.Hour)
	plain := quiet(httptest.NewServer(answer(200, samplePage)))
	raw := func(text string) string { return quiet(httptest.NewServer(cut(text))).URL }
	proxied := func(proxy string) func(*http.Request) (*url.URL, error) {
		return func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
	}

	type test struct {
		url   string
		tls   *tls.Config
		proxy func(*http.Request) (*url.URL, error)
		want  string
	}
	tests := map[string]test{
		"refused":          {url: "http://" + refused, want: "connect to " + refused + ": connection refused"},
		"no such host":     {url: "https://no-such-host.invalid", want: "lookup of no-such-host.invalid: "},
		"TLS is silent":    {url: "https://" + silent, want: "no complete answer within 1s"},
		"plain, not TLS":   {url: "https" + strings.TrimPrefix(plain.URL, "http"), want: "TLS: the other side does not speak it"},
		"closed":           {url: raw(""), want: "connection closed early"},
		"cut head":         {url: raw("HTTP/1.1 200 OK\r\nX-Secret: SECRET"), want: "connection closed early"},
		"cut body":         {url: raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), want: "incomplete answer: connection closed early"},
		"malformed status": {url: raw("SECRET\r\n\r\n"), want: "malformed HTTP"},
		"malformed header": {url: raw("HTTP/1.1 200 OK\r\nSECRET\r\n\r\n"), want: "malformed HTTP"},
		"malformed length": {url: raw("HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n"), want: "malformed HTTP"},
		"malformed chunk":  {url: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n"), want: "incomplete answer: malformed HTTP"},
		"unknown encoding": {url: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n"), want: "malformed HTTP"},
		"malformed gzip":   {url: raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 17\r\n\r\nSECRET SECRET SEC"), want: "incomplete answer: malformed gzip"},
		"endless header":   {url: raw("HTTP/1.1 200 OK\r\nX-Secret: " + strings.Repeat("SECRET", maxHeader) + "\r\n\r\n{}"), want: "malformed HTTP"},
		"malformed JSON":   {url: raw("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{SECRET"), want: "malformed JSON at byte 2"},
		"proxy":            {url: "https://opper.example", proxy: proxied(quiet(httptest.NewServer(answer(407, "SECRET"))).URL), want: "the proxy answered 407 Proxy Authentication Required"},
		"proxy's words":    {url: "https://opper.example", proxy: proxied(raw("HTTP/1.1 499 SECRET\r\n\r\n")), want: "the proxy answered 499"},
		"no proxy":         {url: "https://opper.example", proxy: proxied("http://me:SECRET@" + refused), want: "connect to " + refused + ": connection refused"},
		"no HTTP proxy":    {url: "https://opper.example", proxy: proxied(raw("SECRET\r\n\r\n")), want: "connection failed"},
	}
	add := func(name, want, url string, config *tls.Config) {
		tests[name] = test{url: url, tls: config, want: want}
	}
	address, config := withTLS(valid, &tls.Config{}, "SECRET.example")
	add("another host", "TLS: certificate is not valid for 127.0.0.1", address, config)
	add("unknown authority", "TLS: certificate signed by unknown authority", address, &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "SECRET.example"})
	address, config = withTLS(time.Now().Add(-time.Minute), &tls.Config{}, "SECRET.example")
	config.ServerName = "SECRET.example"
	add("expired", "TLS: certificate has expired or is not yet valid", address, config)
	address, config = withTLS(valid, &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, "opper.example")
	config.ServerName = "opper.example"
	add("alert", "TLS: remote error: ", address, config)

	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lines bytes.Buffer
			f := &fixture{time: newFakeTime()}
			f.connect(t, test.url, func(o *Options) {
				o.Timeout = 30 * time.Second
				if name == "TLS is silent" {
					o.Timeout = time.Second
				}
				o.Header = http.Header{"X-Project": {"hunter2"}}
				o.Logger = log.NewLogfmtLogger(&lines)
			})
			f.httpTransport().TLSClientConfig = test.tls
			if test.proxy != nil {
				f.httpTransport().Proxy = test.proxy
			}
			_, err := f.WithRetries(0).List(t.Context(), 0, 1)
			exact := !strings.HasSuffix(test.want, ": ") // else the rest is the system's, or the version's of TLS
			if err == nil || !strings.HasPrefix(err.Error(), "list traces: "+test.want) || exact && err.Error() != "list traces: "+test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if all := fmt.Sprintf("%v %+v %#v %s", err, err, errors.Unwrap(err), lines.String()); strings.Contains(all, "SECRET") || strings.Contains(all, "hunter2") {
				t.Errorf("it shows too much: %s", all)
			}
		})
	}
}

// However an answer is compressed, and whatever was asked for, its memory is
// bounded.
func TestAnswersAreBounded(t *testing.T) {
	const size = 4 << 20
	for name, body := range map[string][3]string{
		"rows":     {`{"data":[{}`, strings.Repeat(`,{}`, 1<<12), `]}`},
		"name":     {`{"data":[{"id":"a","name":"`, strings.Repeat(`n`, 1<<12), `"}]}`},
		"id":       {`{"id":"`, strings.Repeat(`i`, 1<<12), `"}`},
		"arrays":   {`{"data":`, strings.Repeat(`[`, 1<<12), ``},
		"blanks":   {``, strings.Repeat(` `, 1<<12), `{"data":[],"id":"a"}`},
		"message":  {`{"error":{"code":"`, strings.Repeat(`m`, 1<<12), `"}}`},
		"no JSON":  {``, strings.Repeat(`x`, 1<<12), ``},
		"no JSON2": {`[`, strings.Repeat(`[],`, 1<<12), ``},
	} {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := io.Copy(z, io.MultiReader(strings.NewReader(body[0]), &repeated{body[1], size / len(body[1]), 0}, strings.NewReader(body[2])))
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		for _, status := range []int{200, 302, 401, 422, 500} {
			f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(status)
				_, _ = w.Write(packed.Bytes())
			})
			client := f.WithRetries(0)
			var start, end runtime.MemStats
			runtime.ReadMemStats(&start)
			page, errList := client.List(t.Context(), 0, 100)
			trace, errGet := client.Get(t.Context(), "a")
			runtime.ReadMemStats(&end)
			if took := end.TotalAlloc - start.TotalAlloc; took > 3<<20 {
				t.Errorf("%s, %d: %d bytes were allocated", name, status, took)
			}
			if status != 200 && (errList == nil || errGet == nil) {
				t.Errorf("%s, %d: got %v, %v", name, status, errList, errGet)
			}
			if name == "rows" && status == 200 && (!errors.Is(errList, ErrTooManyRows) || Unreadable(errList) || f.requests.Load() != 2) {
				t.Errorf("got %v after %d requests, want too many rows at once", errList, f.requests.Load())
			}
			runtime.KeepAlive(page)
			runtime.KeepAlive(trace)
		}
	}
}

// So are its headers: net/http takes 10 MB of them.
func TestHeadersAreBounded(t *testing.T) {
	for size, want := range map[int]string{maxHeader / 2: "", 2 * maxHeader: "list traces: malformed HTTP"} {
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", size))
			answer(200, samplePage)(w, r)
		})
		if _, err := f.WithRetries(0).List(t.Context(), 0, 100); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%d bytes: got %v, want %q", size, err, want)
		}
	}
}

func TestLimitIsIgnored(t *testing.T) {
	f := newFixture(t, answer(200, `{"data":[{"id":"a"},{"id":"b"}]}`))
	for limit, want := range map[int]string{1: "list traces: more rows than the limit of 1", 2: ""} {
		f.requests.Store(0)
		page, err := f.List(t.Context(), 0, limit)
		if want == "" && (err != nil || len(page.Traces) != 2) || want != "" && (err == nil || err.Error() != want) || f.requests.Load() != 1 {
			t.Errorf("limit %d: got %+v, %v after %d requests", limit, page, err, f.requests.Load())
		}
	}
	if got := f.observed(); got != "200 200" {
		t.Errorf("observed %q", got)
	}
}

// A 404 for what a URL can't name would say that the trace is delisted.
func TestGetOfWhatCannotBeAsked(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		answer(404, "")(w, r)
	})
	page, err := DecodePage(strings.NewReader(`{"data":[{"id":"`+strings.Repeat("i", maxID+1)+`"},{"id":"\ud800"},{"id":"`+"\xff"+`"}]}`), 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range page.Traces {
		if _, err := f.Get(t.Context(), trace.ID); err == nil || errors.Is(err, ErrNotFound) || Unreadable(err) || f.requests.Load() != 0 {
			t.Errorf("%.20q: got %v after %d requests", trace.ID, err, f.requests.Load())
		}
	}
	if _, err := f.Get(t.Context(), strings.Repeat("i", maxID)); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want that it is asked for", err)
	}
}
