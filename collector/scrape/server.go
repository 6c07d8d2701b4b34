package scrape

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

const (
	// readTimeout is for a request, and for a TLS handshake.
	readTimeout = 10 * time.Second
	// sendTimeout is for a client to take a response; with HTTP/2, a part of it.
	sendTimeout = 30 * time.Second
	// maxUnsent is the maximum number of bytes of responses that wait for slow
	// clients.
	maxUnsent = 32 << 20
	// maxReceiveBuffer is for bodies of requests, which nothing reads: the minimum
	// that HTTP/2 allows.
	maxReceiveBuffer = 64 << 10
	// maxConnections is far above what scrapers and probes need, and far below the
	// usual limit of 1024 file descriptors.
	maxConnections = 256
)

// NewServer returns a server whose connections Scrapers knows. It bounds how much
// time, memory and file descriptors clients can occupy.
func NewServer(handler http.Handler, scrapers *Scrapers) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		// A scrape that syncs first may take its own timeout.
		WriteTimeout: maxScrapeTimeout + sendTimeout,
		// A scraper keeps its connection between two scrapes, which is the
		// evidence that it has read the first one.
		IdleTimeout: scraperExpiry,
		// Leaves room for the cookies and tokens of a proxy.
		MaxHeaderBytes: 32 << 10,
		HTTP2: &http.HTTP2Config{
			// A scraper has one for each target that it scrapes at the moment. For more
			// it opens another connection, and then new names wait for both. Each may
			// take the memory of a header.
			MaxConcurrentStreams:          16,
			MaxReceiveBufferPerConnection: maxReceiveBuffer,
			MaxReceiveBufferPerStream:     maxReceiveBuffer,
			WriteByteTimeout:              sendTimeout,
		},

		DisableGeneralOptionsHandler: true,
	}
	scrapers.Attach(server)
	limitConnections(server, maxConnections, scrapers.IsScraper)
	return server
}

// limitConnections closes the connection that has been quiet for longest when
// there are more than a maximum. A server that stops accepting would lock out
// scrapers instead. Protected connections stay open.
func limitConnections(server *http.Server, maximum int, isProtected func(net.Conn) bool) {
	var mu sync.Mutex
	changed := map[net.Conn]time.Time{} // when its state did
	quietest := func() (found net.Conn) {
		for conn, at := range changed {
			if (found == nil || at.Before(changed[found])) && !isProtected(conn) {
				found = conn
			}
		}
		return found
	}
	next := server.ConnState
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		next(conn, state)
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateClosed || state == http.StateHijacked {
			delete(changed, conn)
			return
		}
		if _, known := changed[conn]; !known && state != http.StateNew {
			return // it is being closed
		}
		changed[conn] = time.Now()
		if len(changed) <= maximum {
			return
		}
		if conn := quietest(); conn != nil {
			delete(changed, conn)
			if secure, ok := conn.(*tls.Conn); ok {
				conn = secure.NetConn() // to close the other one can block
			}
			_ = conn.Close() // it may be closed
		}
	}
}

// Serve starts a server on the addresses of the flags, and returns once it
// listens. A health address that is not empty gets the pages about health.
// Requests have contexts that end with ctx. What comes out of served is why a
// server ended. The error names the flag.
func Serve(ctx context.Context, server *http.Server, flags *web.FlagConfig, healthAddress string, logger *slog.Logger) (served <-chan error, err error) {
	var health <-chan error
	if healthAddress != "" {
		if health, err = serveHealth(ctx, server.Handler, healthAddress, logger); err != nil {
			return nil, fmt.Errorf("--web.health-listen-address: %w", err)
		}
	}
	server.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	listening := make(chan struct{}, 1)
	// Called once a listener serves.
	server.BaseContext = func(net.Listener) context.Context {
		select {
		case listening <- struct{}{}:
		default:
		}
		return ctx
	}
	scrapes := make(chan error, 1)
	go func() { scrapes <- web.ListenAndServe(server, flags, logger) }()
	select {
	case <-listening:
	case err := <-scrapes:
		return nil, fmt.Errorf("--web.listen-address: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		select {
		case err := <-scrapes:
			ended <- err
		case err := <-health:
			ended <- err
		}
	}()
	return ended, nil
}
