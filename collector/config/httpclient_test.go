package config

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opper_exporter/opper"
)

// authority signs the certificates of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key, a.pem, _ = a.issue(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue signs a certificate; the authority's own if it has none yet.
func (a *authority) issue(t testing.TB, template *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "opper test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return cert, key, block("CERTIFICATE", der), block("PRIVATE KEY", private)
}

func (a *authority) leaf(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	_, _, certPEM, keyPEM = a.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"opper.example"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return certPEM, keyPEM
}

// serve answers an empty list over TLS to clients with a certificate of clients.
func (a *authority) serve(t *testing.T, clients *authority, observe func(*http.Request)) *httptest.Server {
	t.Helper()
	pair, err := tls.X509KeyPair(a.leaf(t))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe(r)
		_, _ = io.WriteString(w, `{"data":[]}`)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.TLS.ClientCAs.AddCert(clients.cert)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// list makes one request with the settings of a file.
func list(t *testing.T, url, path string) error {
	t.Helper()
	settings, err := loadHTTPClient(path)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, url, settings)(t)
}

func newClient(t *testing.T, url string, settings httpClient) func(*testing.T) error {
	t.Helper()
	key, err := opper.FixedKey("op-KEY")
	if err != nil {
		t.Fatal(err)
	}
	client, err := opper.New(opper.Options{URL: url, Key: key, Header: settings.Header, Transport: settings.Transport})
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) error {
		t.Helper()
		_, err := client.WithRetries(0).List(t.Context(), 0, 1)
		return err
	}
}

func TestHTTPClientTLS(t *testing.T) {
	server, clients := newAuthority(t), newAuthority(t)
	protocol := ""
	s := server.serve(t, clients, func(r *http.Request) { protocol = r.Proto })
	dir := t.TempDir()
	cert, key := clients.leaf(t)
	write(t, filepath.Join(dir, "ca.pem"), server.pem)
	write(t, filepath.Join(dir, "client.pem"), cert)
	write(t, filepath.Join(dir, "client.key"), key)
	const mutual = "tls_config:\n  ca_file: ca.pem\n  cert_file: client.pem\n  key_file: client.key\n"
	for name, test := range map[string]struct{ file, protocol, err string }{
		"client certificate": {mutual, "HTTP/2.0", ""},
		"HTTP/1.1":           {mutual + "enable_http2: false\n", "HTTP/1.1", ""},
		"server name":        {mutual + "  server_name: opper.example\n", "HTTP/2.0", ""},
		"wrong server name":  {mutual + "  server_name: other.example\n", "", "TLS: certificate is not valid for other.example"},
		"no CA file":         {"enable_http2: true\n", "", "TLS: certificate signed by unknown authority"},
		"empty file":         {"", "", "TLS: certificate signed by unknown authority"},
		"no certificate":     {"tls_config: {ca_file: ca.pem}\n", "", "list traces: "},
	} {
		t.Run(name, func(t *testing.T) {
			protocol = ""
			path := filepath.Join(dir, "http.yml")
			write(t, path, []byte(test.file))
			err := list(t, s.URL, path)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got %v, want %q", err, test.err)
			}
			if protocol != test.protocol {
				t.Errorf("got %s, want %s", protocol, test.protocol)
			}
		})
	}
}

// A certificate is read again when its file changes, so that it can be renewed.
func TestHTTPClientReadsCertificatesAgain(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), first.pem)
	write(t, filepath.Join(dir, "http.yml"), []byte("tls_config: {ca_file: ca.pem}\n"))
	settings, err := loadHTTPClient(filepath.Join(dir, "http.yml"))
	if err != nil {
		t.Fatal(err)
	}
	ask := newClient(t, second.serve(t, nil, func(*http.Request) {}).URL, settings)
	if err := ask(t); err == nil {
		t.Fatal("a certificate of another authority was accepted")
	}
	write(t, filepath.Join(dir, "ca.pem"), second.pem)
	if err := ask(t); err != nil {
		t.Errorf("after the change: %v", err)
	}
}

func TestHTTPClientHeaders(t *testing.T) {
	server := newAuthority(t)
	var got http.Header
	s := server.serve(t, nil, func(r *http.Request) { got = r.Header })
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), server.pem)
	write(t, filepath.Join(dir, "tenant"), []byte("third\n"))
	path := filepath.Join(dir, "http.yml")
	write(t, path, []byte("tls_config: {ca_file: ca.pem}\nhttp_headers:\n  x-tenant: {values: [first], secrets: [second], files: [tenant]}\n"))
	if err := list(t, s.URL, path); err != nil {
		t.Fatal(err)
	}
	if values := strings.Join(got["X-Tenant"], " "); values != "first second third" || got.Get("Authorization") != "Bearer op-KEY" {
		t.Errorf("got %q", got)
	}
}

// The proxy sees where to connect to and its own header, never the key.
func TestHTTPClientProxy(t *testing.T) {
	server := newAuthority(t)
	s := server.serve(t, nil, func(*http.Request) {})
	var connects, leaks atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Authorization") != "" || r.Header.Get("X-Proxy") != "mine" {
			leaks.Add(1)
		}
		connects.Add(1)
		tunnel(t, w, r.Host)
	}))
	t.Cleanup(proxy.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), server.pem)
	for fields, want := range map[string]int32{
		"proxy_url: " + proxy.URL + "\nproxy_connect_header: {X-Proxy: [mine]}\n": 1,
		"proxy_url: " + proxy.URL + "\nno_proxy: 127.0.0.1\n":                     0,
		"proxy_from_environment: false\n":                                         0,
		"":                                                                        0,
	} {
		connects.Store(0)
		path := filepath.Join(dir, "http.yml")
		write(t, path, []byte("tls_config: {ca_file: ca.pem}\n"+fields))
		if err := list(t, s.URL, path); err != nil {
			t.Errorf("%s: %v", fields, err)
		}
		if connects.Load() != want || leaks.Load() != 0 {
			t.Errorf("%s: %d connections through the proxy, %d of them wrong", fields, connects.Load(), leaks.Load())
		}
	}
}

func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	t.Helper()
	out, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }()
	w.WriteHeader(http.StatusOK)
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = in.Close() }()
	go func() {
		_, _ = io.Copy(out, bufio.NewReader(buffered))
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}

// Without --opper.allow-plaintext the key goes to no plain-text proxy, even one
// that the file names.
func TestHTTPClientKeepsKeyFromPlaintextProxy(t *testing.T) {
	proxied := false
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied = true }))
	t.Cleanup(proxy.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"data":[]}`) }))
	t.Cleanup(s.Close)
	path := filepath.Join(t.TempDir(), "http.yml")
	write(t, path, []byte("proxy_url: "+proxy.URL+"\n"))
	if err := list(t, s.URL, path); err != nil || proxied {
		t.Errorf("got %v, through the proxy: %t", err, proxied)
	}
}

func TestHTTPClientRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "http.yml")
	cert, key := newAuthority(t).leaf(t)
	write(t, filepath.Join(dir, "bad.pem"), []byte("SECRET"))
	write(t, filepath.Join(dir, "client.pem"), cert)
	write(t, filepath.Join(dir, "client.key"), key)
	for content, want := range map[string]string{
		"authorization: {credentials: SECRET}":                   "authorization: not supported, as the API key authenticates each request",
		"basic_auth: {username: a, password: SECRET}":            "basic_auth: not supported, as the API key authenticates each request",
		"bearer_token: SECRET":                                   "bearer_token: not supported, as the API key authenticates each request",
		"bearer_token_file: SECRET":                              "bearer_token_file: not supported, as the API key authenticates each request",
		"oauth2: {client_secret: SECRET}":                        "oauth2: not supported, as the API key authenticates each request",
		"follow_redirects: true":                                 "follow_redirects: not supported, as a redirect would pass the API key on",
		"tls_config: {key_ref: SECRET}":                          "tls_config: key_ref: not supported, as there is no secret manager",
		"tls_config: {ca_file: missing.pem}":                     "tls_config: unable to read CA cert: ",
		"tls_config: {ca_file: bad.pem}":                         "tls_config: unable to use specified CA cert ",
		"tls_config: {cert_file: client.pem}":                    "exactly one of key or key_file must be configured when a client certificate is configured",
		"tls_config: {cert_file: bad.pem, key_file: client.key}": "tls_config: unable to use specified client cert (",
		"tls_config: {min_version: TLS99}":                       "tls_config: unknown TLS version: TLS99",
		"tls_config: {insecure: true}":                           "line 1: field insecure not found in type config.plain",
		"tls_confg: {}":                                          "line 1: field tls_confg not found in type config.plain",
		"enable_http2: SECRET":                                   "line 1: cannot unmarshal !!str into bool",
		"proxy_url: 'http://a:SECRET@b:port'":                    "proxy_url: not a valid URL",
		"proxy_url: http://p\nproxy_from_environment: true":      "if proxy_from_environment is configured, proxy_url must not be configured",
		"http_headers: {Authorization: {values: [SECRET]}}":      `setting header "Authorization" is not allowed`,
		"http_headers: {X-A: {files: [missing]}}":                "http_headers: X-A: " + dir + "/missing: no such file or directory",
		"http_headers: {X-A: {files: [.]}}":                      "http_headers: X-A: " + dir + ": expected a regular file of at most 8 MiB",
		"- SECRET":                                               "line 1: cannot unmarshal !!seq into map[string]interface {}",
		"a: b: SECRET":                                           "yaml: mapping values are not allowed in this context",
	} {
		write(t, path, []byte(content))
		_, err := loadHTTPClient(path)
		if err == nil || !strings.HasPrefix(err.Error(), path+": "+want) {
			t.Errorf("%s: got %v, want %s", content, err, want)
			continue
		}
		if text := err.Error(); strings.Contains(text, "SECRET") || strings.Contains(text, "\n") {
			t.Errorf("%s: %s quotes a value, or is more than one line", content, text)
		}
	}
	missing := filepath.Join(dir, "none.yml")
	for path, want := range map[string]string{missing: "no such file or directory", dir: "expected a regular file of at most 8 MiB", os.DevNull: "expected a regular file of at most 8 MiB"} {
		if _, err := loadHTTPClient(path); err == nil || err.Error() != path+": "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
