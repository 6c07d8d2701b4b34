package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // lets promhttp negotiate zstd
	"github.com/prometheus/exporter-toolkit/web"

	"opper_exporter/collector"
)

const (
	// readTimeout is for a request, and for a TLS handshake.
	readTimeout = 10 * time.Second
	// sendTimeout is for a client to take a response.
	sendTimeout = 30 * time.Second
	// writeTimeout is for all of a request after its header: a scrape that syncs
	// first may take as long as a scraper is believed, which is 2 minutes.
	writeTimeout = 2*time.Minute + sendTimeout
	// maxHeaderBytes leaves room for the cookies and tokens of a proxy.
	maxHeaderBytes = 32 << 10
	// maxUnsent is how many bytes of responses wait for slow clients.
	maxUnsent = 32 << 20
	// maxConnections is far above what scrapers and probes need, and far below
	// the usual limit of 1024 file descriptors.
	maxConnections = 256
)

// newServer returns a server whose clients cannot hold on to more than a bounded
// amount of time, memory and file descriptors.
func newServer(handler http.Handler, readers *collector.Readers) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       collector.ScraperIdle,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: sendTimeout},

		DisableGeneralOptionsHandler: true,
	}
	readers.Attach(server)
	limitConnections(server, maxConnections, readers.IsScraper)
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

// newHandler returns all pages of the exporter.
func newHandler(cfg *config, project *collector.Project, readers *collector.Readers, registry *prometheus.Registry, logger log.Logger) (http.Handler, error) {
	opts := promhttp.HandlerOpts{
		ErrorLog: scrapeErrors{logger},
		// The buffered response becomes a 500, also where an encoder fails.
		ErrorHandling: promhttp.PanicOnError,

		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.openMetricsCreated,
	}
	if !cfg.disableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		opts.Registry = registry
	}
	metrics := promhttp.HandlerFor(registry, opts)
	if cfg.collector.Interval == 0 {
		metrics = collector.RefreshFirst(project, metrics)
	}
	if cfg.maxRequests > 0 {
		metrics = atMost(cfg.maxRequests, metrics)
	}
	metrics = collector.NewResponses(logger, sendTimeout, maxUnsent).Buffer(metrics)
	if !cfg.disableExporterMetrics {
		metrics = promhttp.InstrumentMetricHandler(registry, metrics)
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        program,
		Description: "Prometheus exporter for the traces of Opper",
		Version:     versionText(),
		Profiling:   "false",
		Links: []web.LandingLinks{
			{Address: strings.TrimPrefix(cfg.telemetryPath, "/"), Text: "Metrics"},
			{Address: "-/healthy", Text: "Healthy", Description: "200 while the process runs"},
			{Address: "-/ready", Text: "Ready", Description: "200 once the first walk over the list of traces is published"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(cfg.telemetryPath, readers.Watch(metrics))
	mux.Handle("/-/ready", collector.ReadyHandler(project))
	mux.HandleFunc("/-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, program+" is healthy.\n")
	})
	mux.Handle("/", landing)
	return readOnly(mux), nil
}

// securityHeaders keep a browser from running, framing or guessing anything. The
// landing page has a style of its own.
var securityHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options":  "nosniff",
	"X-Frame-Options":         "DENY",
}

// readOnly answers GET and HEAD only, with the security headers that
// --web.config.file does not set.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		for name, value := range securityHeaders {
			if header.Get(name) == "" {
				header.Set(name, value)
			}
		}
		if r.ContentLength != 0 {
			header.Set("Connection", "close") // or the server would wait for the body first
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maxPlaceWait is how long a scrape waits for a place. Gathering takes
// milliseconds, so that many clients at once need not be refused.
const maxPlaceWait = 2 * time.Second

// atMost handles n requests at once. Others wait for a place, and are answered
// 503 if they wait for too long. The limit of promhttp would leave out those that
// wait for a sync.
func atMost(n int, next http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxPlaceWait)
		defer cancel()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next.ServeHTTP(w, r)
		case <-ctx.Done():
			http.Error(w, fmt.Sprintf("There are %d scrapes already, try again later.", n), http.StatusServiceUnavailable)
		}
	})
}

// scrapeErrors logs what goes wrong while metrics are gathered and encoded.
type scrapeErrors struct{ logger log.Logger }

// Println implements promhttp.Logger.
func (l scrapeErrors) Println(v ...any) {
	level.Error(l.logger).Log("msg", "scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
