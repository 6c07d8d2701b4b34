package opper

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxIdle is the maximum number of idle connections to a host. It is for
	// HTTP/1.1, where each concurrent request of any project needs one.
	maxIdle = 64
	// A connection of HTTP/2 that has received nothing for pingAfter has to answer a
	// ping within pingTimeout. All projects of a host share it, and without that it
	// would be used for minutes after the network has dropped it.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
)

// Transport changes how a Client connects. The zero value trusts the system's
// root certificates, and uses the proxy that the environment names.
type Transport struct {
	// ID identifies the settings, for Transports: equal ones have the same. Without one,
	// only the zero value is shared.
	ID string
	// Proxy returns the proxy of a request, or none.
	Proxy func(*http.Request) (*url.URL, error) `json:"-"`
	// ProxyConnectHeader is sent to a proxy with CONNECT.
	ProxyConnectHeader http.Header `json:"-"`
	// DisableHTTP2 leaves HTTP/1.1 alone.
	DisableHTTP2 bool
	// Build, if set, makes the transport out of those that newTransport returns
	// for a TLS configuration: one, or another when certificates change. It must
	// follow no redirect.
	Build func(newTransport func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) `json:"-"`
}

// Transports are connections that clients share, so that many projects of one host
// need no more than their concurrent requests do.
type Transports struct {
	mu   sync.Mutex
	made map[transportKey]*usedTransport
}

type transportKey struct {
	id           string
	loopbackOnly bool
}

type usedTransport struct {
	http.RoundTripper
	users int
}

// NewTransports returns Transports without any connection.
func NewTransports() *Transports {
	return &Transports{made: map[transportKey]*usedTransport{}}
}

// get returns the transport that has these settings, and what is to be called when it
// is not used any more. It is another one each time from nil Transports, and for
// settings that nothing identifies: a key must not go through another project's proxy.
func (t *Transports) get(settings Transport, loopbackOnly bool) (transport http.RoundTripper, release func(), err error) {
	if t == nil || settings.ID == "" && !settings.isZero() {
		made, err := settings.build(loopbackOnly)
		return made, func() { closeIdle(made) }, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := transportKey{settings.ID, loopbackOnly}
	used := t.made[key]
	if used == nil {
		made, err := settings.build(loopbackOnly)
		if err != nil {
			return nil, nil, err
		}
		used = &usedTransport{RoundTripper: made}
		t.made[key] = used
	}
	used.users++
	return used.RoundTripper, sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if used.users--; used.users == 0 {
			delete(t.made, key)
			closeIdle(used.RoundTripper)
		}
	}), nil
}

func (o Transport) isZero() bool {
	return o.Proxy == nil && o.ProxyConnectHeader == nil && !o.DisableHTTP2 && o.Build == nil
}

func closeIdle(t http.RoundTripper) {
	if t, ok := t.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// build returns a transport that, with loopbackOnly, reaches nothing but this
// host: the address that the resolver returned is checked when it is dialled.
func (o Transport) build(loopbackOnly bool) (http.RoundTripper, error) {
	newTransport := func(config *tls.Config) (http.RoundTripper, error) {
		return o.newTransport(config, loopbackOnly), nil
	}
	if o.Build == nil {
		return newTransport(nil)
	}
	return o.Build(newTransport)
}

func (o Transport) newTransport(config *tls.Config, loopbackOnly bool) *http.Transport {
	findProxy := o.Proxy
	if findProxy == nil {
		findProxy = http.ProxyFromEnvironment
	}
	t := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := findProxy(r)
			if err != nil {
				err = errProxySetting // the other one repeats a password
			}
			return proxy, err
		},
		ProxyConnectHeader: o.ProxyConnectHeader,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode != http.StatusOK {
				return proxyError(response.StatusCode)
			}
			return nil
		},
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    maxIdle,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		// Requests never wait for those of a project that hangs: connections are not
		// limited, another one is made where the server allows no more streams, and
		// unread answers leave most of the 1 GiB that may be on its way to the others.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	if o.DisableHTTP2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	if loopbackOnly {
		t.Proxy = nil
		dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
			if to, err := netip.ParseAddrPort(address); err != nil || !to.Addr().Unmap().IsLoopback() {
				return errNotLoopback
			}
			return nil
		}}
		t.DialContext = dialer.DialContext
	}
	return t
}

// isLoopback reports whether a host is this one by its name alone.
func isLoopback(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

var (
	errNotLoopback  = errors.New("not a loopback address, which needs --opper.allow-plaintext")
	errProxySetting = errors.New("the proxy setting is not a valid URL")
)

// proxyError is the status with which a proxy refuses to connect.
type proxyError int

func (e proxyError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the proxy answered %d %s", int(e), http.StatusText(int(e))))
}

// classify says in our words why a request or its answer failed. The texts of
// net/http, of TLS and of proxies can quote what the other side sent, so only
// those are taken that are made here: of the operating system, and for numbers.
func classify(err error, reached bool) string {
	at := "" // the address that was dialled
	op, _ := errors.AsType[*net.OpError](err)
	for op != nil {
		if op.Op == "dial" && op.Addr != nil {
			at = "connect to " + op.Addr.String() + ": "
		}
		inner, _ := errors.AsType[*net.OpError](op.Err)
		if inner == nil {
			break
		}
		op = inner
	}
	for _, own := range []error{errNotLoopback, errProxySetting} {
		if errors.Is(err, own) {
			return at + own.Error()
		}
	}
	if refused, ok := errors.AsType[proxyError](err); ok {
		return refused.Error()
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return "lookup of " + lookup.Name + ": " + reasonOfLookup(lookup)
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return at + number.Error()
	}
	if op != nil && strings.HasSuffix(op.Op, " error") { // remote or local: a TLS alert, which is a number
		return "TLS: " + op.Op + ": " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	if reason := reasonOfTLS(err); reason != "" {
		return "TLS: " + reason
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return at + "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed early"
	case isCorrupt(err):
		return "malformed gzip"
	case !reached:
		return at + "connection failed"
	}
	return "malformed HTTP"
}

func reasonOfLookup(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "no such host"
	case err.IsTimeout:
		return "timed out"
	}
	return "name server failed"
}

// reasonOfTLS is empty if TLS is not the reason. It names no name of a
// certificate.
func reasonOfTLS(err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the other side does not speak it"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "certificate signed by unknown authority"
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		return "certificate is not valid for " + wrong.Host
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "certificate has expired or is not yet valid"
		}
		return fmt.Sprintf("certificate is invalid, reason %d of crypto/x509", invalid.Reason)
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return "the system's root certificates cannot be loaded"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "certificate is invalid"
	}
	return ""
}

func isCorrupt(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	return corrupt || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum)
}
