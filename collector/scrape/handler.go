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

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/status"
	"opper_exporter/collector/statuspage"
)

// Config says which pages are served, and how.
type Config struct {
	statuspage.Config
	DisableExporterMetrics bool
	OpenMetricsCreated     bool // expose created timestamps as samples
	MaxRequests            int  // scrapes at once; 0 is no limit
	SyncOnScrape           bool // before each scrape is answered
	EnableLifecycle        bool // serve copyPath and reloadPath
}

// Syncer is what is scraped: projects, which may come and go. An empty name stands
// for all of them.
type Syncer interface {
	// Refresh syncs a project, and returns when that is done or ctx ends.
	Refresh(ctx context.Context, project string)
	// IsReady reports whether a project has published, or has failed once.
	IsReady(project string) bool
	// Projects returns the names of the projects, sorted.
	Projects() []string
	// Gatherer returns the metrics of a project, and nil if there is none of this name.
	Gatherer(project string) prometheus.Gatherer
	// Status returns what the status page says about each project.
	Status() []status.Project
}

// CopyState returns a copy of the state, which is the caller's.
type CopyState func() (*os.File, error)

// The pages of projects, which no other page can take the place of.
const (
	ProbePath     = "/probe" // the metrics of one project
	DiscoveryPath = "/sd"    // the projects, for Prometheus' service discovery
	reloadPath    = "/-/reload"
)

// NewHandler returns all pages of the exporter. The registry has the metrics of the
// process. There is no CopyState without persistence, and no reload without a file to
// read again.
func NewHandler(cfg Config, syncer Syncer, scrapers *Scrapers, registry *prometheus.Registry, copyState CopyState, reload http.Handler, logger log.Logger) http.Handler {
	mux := http.NewServeMux()
	metrics := newMetrics(cfg, syncer, scrapers, registry, logger)
	mux.HandleFunc(cfg.TelemetryPath, metrics.whole)
	mux.HandleFunc(cfg.exporterPath(), metrics.process)
	mux.HandleFunc(ProbePath, metrics.probe)
	mux.Handle(DiscoveryPath, metrics.page(discovery(syncer.Projects, cfg.exporterPath())))
	mux.Handle("/-/ready", ReadyHandler(syncer))
	mux.HandleFunc("/-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, cfg.Program+" is healthy.\n")
	})
	mux.Handle(copyPath, lifecycle(cfg, copyHandler(copyState, sendTimeout, logger)))
	if reload == nil {
		reload = refuse("There is nothing to reload: --config.file is not set.", http.StatusNotFound)
	}
	mux.Handle(reloadPath, lifecycle(cfg, reload))
	mux.Handle("/{$}", metrics.page(statuspage.New(cfg.Config, syncer.Status)))
	return secure(mux)
}

// exporterPath is where the metrics of the process are, without those of projects.
func (c *Config) exporterPath() string { return c.TelemetryPath + "/exporter" }

// lifecycle answers requests only where that is switched on. No page of another site
// makes a browser send one.
func lifecycle(cfg Config, next http.Handler) http.Handler {
	if !cfg.EnableLifecycle {
		next = refuse("The lifecycle API is not enabled: it needs --web.enable-lifecycle.", http.StatusForbidden)
	}
	return http.NewCrossOriginProtection().Handler(next)
}

func refuse(text string, status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) })
}

// ReadyHandler answers 200 once each project, or the target of the request, has
// published or failed once, and 503 before: a project that fails must not keep the
// others from being scraped.
func ReadyHandler(syncer Syncer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		project := allProjects
		if r.URL.Query().Has(targetParam) {
			var gatherer prometheus.Gatherer
			if project, gatherer = target(w, r, syncer); gatherer == nil {
				return
			}
		}
		if !syncer.IsReady(project) {
			http.Error(w, "The initial sync is not complete.", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "opper_exporter is ready.\n")
	})
}

// targetParam is the parameter of a URL that names a project.
const targetParam = "target"

// target returns the project that a request names, and its metrics. It answers the
// request if there is none.
func target(w http.ResponseWriter, r *http.Request, syncer Syncer) (project string, gatherer prometheus.Gatherer) {
	project = r.URL.Query().Get(targetParam)
	if project == "" {
		http.Error(w, "The name of a project is missing: expected ?target=NAME.", http.StatusBadRequest)
		return "", nil
	}
	if gatherer = syncer.Gatherer(project); gatherer == nil {
		http.Error(w, fmt.Sprintf("There is no project %.100q.", project), http.StatusNotFound)
	}
	return project, gatherer
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
		if r.URL.Path == copyPath || r.URL.Path == reloadPath {
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
