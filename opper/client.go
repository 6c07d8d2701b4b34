package opper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-kit/log"
)

// maxHeader bounds the headers of an answer. The default of net/http is 10 MB.
const maxHeader = 64 << 10

// Options are the settings of a Client. URL and Key are required. In JSON, they are what
// is configured.
type Options struct {
	// URL is the base URL. "/v2" is added unless its path ends in a version.
	URL string
	Key KeySource
	// AllowPlaintext lets the key be sent over connections without TLS to other
	// hosts than this one: to an http:// URL, and to the proxy in front of it.
	AllowPlaintext bool
	// Header is sent with every request.
	Header http.Header
	// Transport changes how connections are made.
	Transport Transport
	// Transports are where connections come from; nil for those of this client alone.
	Transports *Transports `json:"-"`
	// Name is the filter on the name of a trace; empty for none.
	Name string
	// Timeout is that of one request, the reading of its body included. Default 30 s.
	Timeout time.Duration
	// RequestsPerSecond limits everything that is sent; 0 is no limit.
	RequestsPerSecond float64
	// Shared limits the requests of all clients that have it; nil is no limit.
	Shared *SharedLimit `json:"-"`
	// UserAgent identifies the program, for example opper_exporter/1.2.3.
	UserAgent string
	// Observe, if set, is called once for each HTTP request made, retries
	// included, maybe from several goroutines at once, but not for one that was
	// canceled. The code is the HTTP status, or "error" if no complete answer came.
	Observe func(code string, took time.Duration) `json:"-"`
	// Received, if set, is called with the number of bytes of each piece of a
	// response body that arrives, after decompression, maybe from several
	// goroutines at once.
	Received func(bytes int) `json:"-"`
	// Waited, if set, is called with how long a request waited for the limits, maybe
	// from several goroutines at once.
	Waited func(time.Duration) `json:"-"`
	// Logger gets a debug line for each request that failed, with Opper's
	// error code.
	Logger log.Logger `json:"-"`
	// MaxBody limits one answer, in bytes after decompression. Default 256 MiB.
	MaxBody int64
}

// Client reads traces from Opper. It may be used by several goroutines.
type Client struct {
	*shared
	retries   *atomic.Int64 // what is left of the budget; nil for no limit
	priority  Priority
	waitUntil time.Time // for the limits; zero is for ever
}

// shared is what all clients of one project have in common.
type shared struct {
	opts      Options
	base      string // the URL up to the version
	transport http.RoundTripper
	release   func() // of the transport
	limit     *limiter
	total     *sharedProject // the limit over all projects
	clock     clock

	mu        sync.Mutex
	notBefore time.Time // Opper asked for no request before
}

var version = regexp.MustCompile(`^v[0-9]+$`)

// New returns a client. It makes no request. Its errors begin with the name of
// the setting that is wrong.
func New(opts Options) (*Client, error) {
	base, err := baseURL(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	loopbackOnly := base.Scheme == "http" && !opts.AllowPlaintext
	if loopbackOnly && !isLoopback(base.Hostname()) {
		return nil, fmt.Errorf("url: http:// sends the key to %s unencrypted, which needs --opper.allow-plaintext", base.Hostname())
	}
	if opts.Key.held == nil {
		return nil, errors.New("key: missing")
	}
	if err := checkHeader(opts.Header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	opts.Timeout, opts.MaxBody = cmp.Or(opts.Timeout, 30*time.Second), cmp.Or(opts.MaxBody, 256<<20)
	if opts.Observe == nil {
		opts.Observe = func(string, time.Duration) {}
	}
	if opts.Received == nil {
		opts.Received = func(int) {}
	}
	if opts.Waited == nil {
		opts.Waited = func(time.Duration) {}
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	transport, release, err := opts.Transports.get(opts.Transport, loopbackOnly)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	opts.Header = opts.Header.Clone()
	return &Client{shared: &shared{
		opts:      opts,
		base:      strings.TrimRight(base.String(), "/"),
		transport: transport,
		release:   release,
		limit:     &limiter{bucket: newBucket(opts.RequestsPerSecond)},
		total:     opts.Shared.project(strings.ToLower(base.Host)),
		clock:     realClock(),
	}}, nil
}

func baseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	// The error of Parse would repeat a password in the URL.
	if err != nil {
		return nil, errors.New("not a valid URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("must begin with http:// or https://")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.User != nil:
		return nil, errors.New("must not contain a user or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("must not contain a query or fragment")
	}
	// One spelling, so that equal lists and hosts are recognized.
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host += ":" + port
	}
	u.Host = host
	u = u.JoinPath()
	if !version.MatchString(path.Base(u.Path)) {
		u = u.JoinPath("v2")
	}
	return u, nil
}

func checkHeader(header http.Header) error {
	for name, values := range header {
		switch http.CanonicalHeaderKey(name) {
		case "Authorization":
			return errors.New("cannot set Authorization, which carries the key")
		case "Host", "Accept-Encoding", "Connection", "Content-Length", "Transfer-Encoding":
			return fmt.Errorf("%s cannot be set", http.CanonicalHeaderKey(name))
		}
		// The names' own character set, RFC 9110.
		if name == "" || strings.Trim(name, "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
			return errors.New("not a valid name") // it may be a piece of a value
		}
		for _, value := range values {
			if strings.ContainsFunc(value, unicode.IsControl) {
				return fmt.Errorf("the value of %s has a control character", name)
			}
		}
	}
	return nil
}

// URL returns the base URL with its version.
func (c *Client) URL() string { return c.base }

// root returns the base URL without its version.
func (c *Client) root() string { return c.base[:strings.LastIndexByte(c.base, '/')] }

// Close closes connections that are idle, if no other client shares them. No request
// may follow, nor be made.
func (c *Client) Close() { c.release() }

// WithRetries returns a client that shares everything with c but makes at most
// n retries over its whole life, over all of its requests: the budget of one
// sync.
func (c *Client) WithRetries(n int) *Client {
	budget := new(atomic.Int64)
	budget.Store(int64(n))
	return &Client{shared: c.shared, retries: budget, priority: c.priority, waitUntil: c.waitUntil}
}

// WithPriority returns a client that shares everything with c, its retries too, and
// whose requests wait for the SharedLimit with this priority. It is PrioritySync for
// a new client.
func (c *Client) WithPriority(p Priority) *Client {
	return &Client{shared: c.shared, retries: c.retries, priority: p, waitUntil: c.waitUntil}
}

// WaitUntil returns a client that shares everything with c, its retries too, and
// whose requests wait for the limits until a time only: then they fail with
// ErrPostponed. The zero time is never.
func (c *Client) WaitUntil(t time.Time) *Client {
	return &Client{shared: c.shared, retries: c.retries, priority: c.priority, waitUntil: t}
}

// List returns up to limit traces, from the given offset in Opper's order. Its
// error is the context's if that ended, or else see Unreadable, Refused and
// OutOfRange.
func (c *Client) List(ctx context.Context, offset, limit int) (Page, error) {
	query := url.Values{"offset": {strconv.Itoa(offset)}, "limit": {strconv.Itoa(limit)}}
	if c.opts.Name != "" {
		query.Set("name", c.opts.Name)
	}
	var page Page
	err := c.read(ctx, c.base+"/traces", query, func(r io.Reader) (err error) {
		page, err = DecodePage(r, limit)
		return err
	})
	if err != nil {
		return Page{}, fmt.Errorf("list traces: %w", err)
	}
	return page, nil
}

// Get returns one trace. The error is an ErrNotFound if Opper has none of this
// id.
func (c *Client) Get(ctx context.Context, id string) (Trace, error) {
	// Dots alone would name another path, and a URL can't name what was cut or
	// is not UTF-8: a 404 would say nothing.
	if strings.Trim(id, ".") == "" || len(id) > maxID || !utf8.ValidString(id) {
		return Trace{}, errors.New("get trace: not an id")
	}
	var trace Trace
	err := c.fetch(ctx, c.base+"/traces/"+url.PathEscape(id), func(r io.Reader) (err error) {
		trace, err = decodeTrace(r)
		return err
	})
	if err != nil {
		return Trace{}, fmt.Errorf("get trace: %w", err)
	}
	return trace, nil
}

// attempt makes one HTTP request. Its error is an *Error, a *brokenError, an
// ErrTooLarge, an ErrTooManyRows, or that of ctx.
func (c *Client) attempt(ctx context.Context, url, key string, decode func(io.Reader) error) error {
	requestCtx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	// Without a connection, the page asked for cannot be the reason of a failure.
	var reached atomic.Bool
	requestCtx = httptrace.WithClientTrace(requestCtx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { reached.Store(true) },
	})
	request, err := http.NewRequestWithContext(requestCtx, http.MethodGet, url, nil)
	if err != nil {
		return errors.New("the request cannot be made")
	}
	for name, values := range c.opts.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	request.Header.Set("Authorization", "Bearer "+key)
	if c.opts.UserAgent != "" {
		request.Header.Set("User-Agent", c.opts.UserAgent)
	}
	if request.Header.Get("Accept") == "" {
		request.Header.Set("Accept", "application/json")
	}

	start := c.clock.now()
	code := "error"
	defer func() {
		// Pages read ahead are canceled where the list ends: no trouble with Opper.
		if code != "error" || ctx.Err() == nil {
			c.opts.Observe(code, c.clock.now().Sub(start))
		}
	}()
	broken := func(text string) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case requestCtx.Err() != nil:
			text = fmt.Sprintf("no complete answer within %s", c.opts.Timeout)
		}
		return &brokenError{text: text, reached: reached.Load()}
	}
	// The transport alone, unlike an http.Client, follows no redirect.
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return broken(classify(err, reached.Load()))
	}
	response.Body = countedBody{response.Body, c.opts.Received}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		code = strconv.Itoa(response.StatusCode)
		return c.answered(response)
	}
	body := &watchedBody{ReadCloser: http.MaxBytesReader(nil, response.Body, c.opts.MaxBody)}
	err = decode(body)
	if body.failed == nil {
		code = strconv.Itoa(response.StatusCode)
	}
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case err == nil, errors.Is(err, ErrTooManyRows):
		return err
	case tooLarge:
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, c.opts.MaxBody)
	case body.failed != nil:
		return broken("incomplete answer: " + classify(body.failed, true))
	case isHTML(response):
		return broken(htmlText)
	}
	return broken(err.Error()) // the decoder's own words
}

// answered makes an *Error of a response that is not 2xx.
func (c *Client) answered(response *http.Response) error {
	// Reading it all also lets the connection be used again. An error here
	// adds nothing to the status.
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	e := newError(response.StatusCode, body, isHTML(response))
	e.after = parseRetryAfter(response.Header.Get("Retry-After"), c.clock.now())
	return e
}

func isHTML(response *http.Response) bool {
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return mediaType == "text/html"
}

// countedBody reports how much of it was read.
type countedBody struct {
	io.ReadCloser
	received func(bytes int)
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.received(n)
	return n, err
}

// watchedBody remembers an error of the connection, to tell it from one of the content.
type watchedBody struct {
	io.ReadCloser
	failed error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}
