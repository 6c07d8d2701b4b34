package scrape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // lets promhttp negotiate zstd
	dto "github.com/prometheus/client_model/go"
)

// metrics serves pages of metrics, which share the limits of clients.
type metrics struct {
	syncer   Syncer
	scrapers *Scrapers
	registry prometheus.Gatherer // of the process
	opts     promhttp.HandlerOpts
	sync     bool         // projects before they are exposed
	limited  http.Handler // serves the page in the context of a request, within the limits
	counted  http.Handler // does the same with a scrape, which is counted
}

// pageKey is the key of the handler that answers a request, in its context.
type pageKey struct{}

func newMetrics(cfg Config, syncer Syncer, scrapers *Scrapers, registry *prometheus.Registry, logger log.Logger) *metrics {
	m := &metrics{syncer: syncer, scrapers: scrapers, registry: registry, sync: cfg.SyncOnScrape}
	m.opts = promhttp.HandlerOpts{
		ErrorLog: errorLog{logger},
		// Responses turns it into a 500, even if an encoder fails halfway.
		ErrorHandling: promhttp.PanicOnError,

		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.OpenMetricsCreated,
	}
	m.limited = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(pageKey{}).(http.Handler).ServeHTTP(w, r)
	})
	if cfg.MaxRequests > 0 {
		m.limited = atMost(cfg.MaxRequests, m.limited, refuse(fmt.Sprintf("Limit of concurrent requests reached (%d), try again later.", cfg.MaxRequests), http.StatusServiceUnavailable))
	}
	m.limited = NewResponses(logger, sendTimeout, maxUnsent).Buffer(m.limited)
	m.counted = m.limited
	if !cfg.DisableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		m.opts.Registry = registry
		m.counted = promhttp.InstrumentMetricHandler(registry, m.limited)
	}
	return m
}

// all serves everything.
func (m *metrics) all(w http.ResponseWriter, r *http.Request) {
	m.projects(w, r, allProjects, concatenated{m.registry, m.syncer.Gatherer(allProjects)})
}

// process serves what is not about a project.
func (m *metrics) process(w http.ResponseWriter, r *http.Request) {
	m.serve(w, r, promhttp.HandlerFor(m.registry, m.opts))
}

// probe serves one project and nothing else.
func (m *metrics) probe(w http.ResponseWriter, r *http.Request) {
	if project, gatherer := target(w, r, m.syncer); gatherer != nil {
		m.projects(w, r, project, gatherer)
	}
}

func (m *metrics) projects(w http.ResponseWriter, r *http.Request, project string, gatherer prometheus.Gatherer) {
	handler := promhttp.HandlerFor(gatherer, m.opts)
	if m.sync {
		handler = SyncFirst(m.syncer, project, handler)
	}
	m.scrapers.Watch(project, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, handler) })).ServeHTTP(w, r)
}

func (m *metrics) serve(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	m.counted.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), pageKey{}, handler)))
}

// page serves another page of all projects within the limits of clients, as it may be
// as large as a scrape.
func (m *metrics) page(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.limited.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), pageKey{}, handler)))
	})
}

// concatenated gathers families of which no two have one name. prometheus.Gatherers
// would check each series once more.
type concatenated []prometheus.Gatherer

// Gather implements prometheus.Gatherer.
func (c concatenated) Gather() (all []*dto.MetricFamily, err error) {
	for _, g := range c {
		families, failure := g.Gather()
		all, err = append(all, families...), errors.Join(err, failure)
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all, err
}

const (
	// scrapeMargin is the part of a scrape's timeout that remains to expose the
	// last snapshot if the sync does not end.
	scrapeMargin = 500 * time.Millisecond
	// defaultScrapeTimeout is for requests without a timeout.
	defaultScrapeTimeout = 10 * time.Second
)

// SyncFirst syncs a project, or all (allProjects), before each request is handled,
// within the timeout of the scrape (X-Prometheus-Scrape-Timeout-Seconds).
func SyncFirst(syncer Syncer, project string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout, ok := scrapeTimeout(r)
		if !ok {
			timeout = defaultScrapeTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout-scrapeMargin)
		syncer.Refresh(ctx, project)
		cancel()
		next.ServeHTTP(w, r)
	})
}

// maxQueueTime is how long a request waits until others are finished. Gathering
// takes milliseconds, so that many clients at once need not be refused.
const maxQueueTime = 2 * time.Second

// atMost handles n requests at once. Others wait, and are refused if they wait for
// too long. The limit of promhttp would leave out those that wait for a sync.
func atMost(n int, next, refused http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxQueueTime)
		defer cancel()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		case <-ctx.Done():
			refused.ServeHTTP(w, r)
		}
	})
}

// errorLog logs what goes wrong while metrics are gathered and encoded.
type errorLog struct{ logger log.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) {
	level.Error(l.logger).Log("msg", "scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
