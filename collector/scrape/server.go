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
	// sendTimeout is for a client to take a response.
	sendTimeout = 30 * time.Second
	// maxUnsent is the maximum number of bytes of responses that wait for slow
	// clients.
	maxUnsent = 32 << 20
	// maxReceiveBuffer is for bodies of requests, which nothing reads: the minimum
	// that HTTP/2 allows.
	maxReceiveBuffer = 64 << 10
)

// Limits bound how much time, memory and file descriptors clients can occupy.
type Limits struct {
	ReadTimeout    time.Duration // for a request, and for a TLS handshake
	WriteTimeout   time.Duration // for all of a request after its header
	SendTimeout    time.Duration // for a client of HTTP/2 to take a part of a response
	IdleTimeout    time.Duration // between two requests of a connection
	MaxHeaderBytes int
	MaxConnections int
	MaxStreams     int // requests at once on a connection of HTTP/2
}

// DefaultLimits are those of the exporter.
func DefaultLimits() Limits {
	return Limits{
		ReadTimeout: 10 * time.Second,
		// A scrape that syncs first may take its own timeout.
		WriteTimeout: maxScrapeTimeout + sendTimeout,
		SendTimeout:  sendTimeout,
		// A scraper keeps its connection between two scrapes, which is the
		// evidence that it has read the first one.
		IdleTimeout: scraperExpiry,
		// Leaves room for the cookies and tokens of a proxy.
		MaxHeaderBytes: 32 << 10,
		// Far above what scrapers and probes need, and far below the usual limit
		// of 1024 file descriptors.
		MaxConnections: 256,
		// A scraper has one for each target that it scrapes at the moment. For more it
		// opens another connection, and then new names wait for both. Each may take
		// the memory of a header.
		MaxStreams: 16,
	}
}

// NewServer returns a server with limits, whose connections Scrapers knows.
func NewServer(handler http.Handler, scrapers *Scrapers, limits Limits) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: limits.ReadTimeout,
		ReadTimeout:       limits.ReadTimeout,
		WriteTimeout:      limits.WriteTimeout,
		IdleTimeout:       limits.IdleTimeout,
		MaxHeaderBytes:    limits.MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          limits.MaxStreams,
			MaxReceiveBufferPerConnection: maxReceiveBuffer,
			MaxReceiveBufferPerStream:     maxReceiveBuffer,
			WriteByteTimeout:              limits.SendTimeout,
		},

		DisableGeneralOptionsHandler: true,
	}
	scrapers.Attach(server)
	limitConnections(server, limits.MaxConnections, scrapers.IsScraper)
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
