// Package scrape is the HTTP side of the exporter: its pages, the limits of its
// server, and what each scraper has provably read.
package scrape

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // lets promhttp negotiate zstd

	"opper_exporter/collector/status"
	"opper_exporter/collector/statuspage"
)

// Config says which pages are served, and how.
type Config struct {
	Program, Version       string
	TelemetryPath          string
	DisableExporterMetrics bool
	OpenMetricsCreated     bool   // expose created timestamps as samples
	MaxRequests            int    // scrapes at once; 0 is no limit
	SyncOnScrape           bool   // before each scrape is answered
	EnableLifecycle        bool   // serve snapshotPath
	TraceURL               string // see statuspage.Config
}

// Syncer is what is scraped. Its metrics come from a prometheus.Registry.
type Syncer interface {
	// Refresh syncs a project, or all if project is empty, and returns when that is done or ctx ends.
	Refresh(ctx context.Context, project string)
	// IsReady reports whether a project has published or has failed once; with an
	// empty name, whether all have.
	IsReady(project string) bool
	// Status returns what the status page says about each project.
	Status() []status.Project
}

// Snapshot returns a copy of the state, which is the caller's.
type Snapshot func() (*os.File, error)

// NewHandler returns all pages of the exporter. There is no Snapshot without
// persistence.
func NewHandler(cfg Config, syncer Syncer, scrapers *Scrapers, registry *prometheus.Registry, snapshot Snapshot, logger log.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(cfg.TelemetryPath, scrapers.Watch(metricsHandler(cfg, syncer, registry, logger)))
	mux.Handle("/-/ready", ReadyHandler(syncer))
	mux.HandleFunc("/-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, cfg.Program+" is healthy.\n")
	})
	mux.Handle(snapshotPath, snapshotHandler(cfg.EnableLifecycle, snapshot, sendTimeout, logger))
	mux.Handle("/{$}", statuspage.New(statuspage.Config{Program: cfg.Program, Version: cfg.Version, TelemetryPath: cfg.TelemetryPath, TraceURL: cfg.TraceURL}, syncer.Status))
	return secure(mux)
}

func metricsHandler(cfg Config, syncer Syncer, registry *prometheus.Registry, logger log.Logger) http.Handler {
	opts := promhttp.HandlerOpts{
		ErrorLog: errorLog{logger},
		// Responses turns it into a 500, even if an encoder fails halfway.
		ErrorHandling: promhttp.PanicOnError,

		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.OpenMetricsCreated,
	}
	if !cfg.DisableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		opts.Registry = registry
	}
	metrics := promhttp.HandlerFor(registry, opts)
	if cfg.SyncOnScrape {
		metrics = SyncFirst(syncer, metrics)
	}
	if cfg.MaxRequests > 0 {
		metrics = atMost(cfg.MaxRequests, metrics)
	}
	metrics = NewResponses(logger, sendTimeout, maxUnsent).Buffer(metrics)
	if !cfg.DisableExporterMetrics {
		metrics = promhttp.InstrumentMetricHandler(registry, metrics)
	}
	return metrics
}

const (
	// scrapeMargin is the part of a scrape's timeout that remains to expose the
	// last snapshot if the sync does not end.
	scrapeMargin = 500 * time.Millisecond
	// defaultScrapeTimeout is for requests without a timeout.
	defaultScrapeTimeout = 10 * time.Second
)

// SyncFirst syncs before each request is handled, within the timeout of the
// scrape (X-Prometheus-Scrape-Timeout-Seconds).
func SyncFirst(syncer Syncer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout, ok := scrapeTimeout(r)
		if !ok {
			timeout = defaultScrapeTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout-scrapeMargin)
		syncer.Refresh(ctx, "")
		cancel()
		next.ServeHTTP(w, r)
	})
}

// ReadyHandler answers 200 once the initial sync is published, and 503 before.
func ReadyHandler(syncer Syncer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !syncer.IsReady("") {
			http.Error(w, "The initial sync is not complete.", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "opper_exporter is ready.\n")
	})
}

// securityHeaders keep a browser from running, framing or guessing anything.
var securityHeaders = map[string]string{
	"Content-Security-Policy": statuspage.ContentSecurityPolicy,
	"Referrer-Policy":         "no-referrer",
	"X-Content-Type-Options":  "nosniff",
	"X-Frame-Options":         "DENY",
}

// secure answers only GET and HEAD, or POST where that is meant. It sets the
// security headers that --web.config.file does not set.
func secure(next http.Handler) http.Handler {
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
		allowed := []string{http.MethodGet, http.MethodHead}
		if r.URL.Path == snapshotPath {
			allowed = []string{http.MethodPost}
		}
		if !slices.Contains(allowed, r.Method) {
			header.Set("Allow", strings.Join(allowed, ", "))
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maxQueueTime is how long a scrape waits until others are finished. Gathering
// takes milliseconds, so that many clients at once need not be refused.
const maxQueueTime = 2 * time.Second

// atMost handles n requests at once. Others wait, and are answered 503 if they
// wait for too long. The limit of promhttp would leave out those that wait for a
// sync.
func atMost(n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxQueueTime)
		defer cancel()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		case <-ctx.Done():
			http.Error(w, fmt.Sprintf("Limit of concurrent requests reached (%d), try again later.", n), http.StatusServiceUnavailable)
		}
	})
}

// errorLog logs what goes wrong while metrics are gathered and encoded.
type errorLog struct{ logger log.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) {
	level.Error(l.logger).Log("msg", "scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
