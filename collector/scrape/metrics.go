package scrape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
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
	places   slots        // of all requests; nil if there is no limit
	all      slots        // of scrapes of all projects
	known    slots        // of those of scrapers, beside all
	waiting  slots        // of those that wait for a sync; nil if none does
	buffered http.Handler // serves the page in the context of a request
	counted  http.Handler // does the same with a scrape, which is counted
}

// pageKey is the key of the handler that answers a request, in its context.
type pageKey struct{}

func newMetrics(cfg Config, syncer Syncer, scrapers *Scrapers, registry *prometheus.Registry, logger log.Logger) *metrics {
	m := &metrics{syncer: syncer, scrapers: scrapers, registry: registry, all: make(slots, maxWhole), known: make(slots, 1)}
	if cfg.SyncOnScrape {
		m.waiting = make(slots, maxWaiting)
	}
	m.opts = promhttp.HandlerOpts{
		ErrorLog: errorLog{logger},
		// Responses turns it into a 500, even if an encoder fails halfway.
		ErrorHandling: promhttp.PanicOnError,

		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.OpenMetricsCreated,
	}
	if cfg.MaxRequests > 0 {
		m.places = make(slots, cfg.MaxRequests)
	}
	m.buffered = NewResponses(logger, sendTimeout, maxUnsent).Buffer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(pageKey{}).(http.Handler).ServeHTTP(w, r)
	}))
	m.counted = m.buffered
	if !cfg.DisableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		m.opts.Registry = registry
		m.counted = promhttp.InstrumentMetricHandler(registry, m.buffered)
	}
	return m
}

// whole serves everything. What waits for another scrape of all projects takes no other
// place. Scrapers need not wait for clients that have not read anything yet, of which there
// may be thousands.
func (m *metrics) whole(w http.ResponseWriter, r *http.Request) {
	var known slots
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok && m.scrapers.IsScraper(conn) {
		known = m.known
	}
	page := promhttp.HandlerFor(concatenated{m.registry, m.syncer.Gatherer(allProjects)}, m.opts)
	m.projects(w, r, allProjects, m.all.limitOr(known, m.limited(page), refuse(fmt.Sprintf("Limit of concurrent scrapes of all projects reached (%d), try again later.", maxWhole), http.StatusServiceUnavailable)))
}

// process serves what is not about a project.
func (m *metrics) process(w http.ResponseWriter, r *http.Request) {
	serveIn(w, r, m.counted, m.limited(promhttp.HandlerFor(m.registry, m.opts)))
}

// probe serves one project and nothing else.
func (m *metrics) probe(w http.ResponseWriter, r *http.Request) {
	if project, gatherer := target(w, r, m.syncer); gatherer != nil {
		m.projects(w, r, project, m.limited(promhttp.HandlerFor(gatherer, m.opts)))
	}
}

func (m *metrics) projects(w http.ResponseWriter, r *http.Request, project string, page http.Handler) {
	handler := m.scrapers.Watch(project, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serveIn(w, r, m.counted, page) }))
	if m.waiting != nil {
		handler = SyncFirst(m.syncer, m.waiting, project, handler)
	}
	handler.ServeHTTP(w, r)
}

// limited serves a page within the limit of requests.
func (m *metrics) limited(page http.Handler) http.Handler {
	if m.places == nil {
		return page
	}
	return m.places.limit(page, refuse(fmt.Sprintf("Limit of concurrent requests reached (%d), try again later.", cap(m.places)), http.StatusServiceUnavailable))
}

// page serves another page of all projects within the limits of clients, as it may be
// as large as a scrape.
func (m *metrics) page(handler http.Handler) http.Handler {
	limited := m.limited(handler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serveIn(w, r, m.buffered, limited) })
}

// serveIn serves a page in a handler that all pages share.
func serveIn(w http.ResponseWriter, r *http.Request, shared, page http.Handler) {
	shared.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), pageKey{}, page)))
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
	// scrapeMargin is the part of a scrape's timeout that remains for the answer when
	// what it waits for does not end.
	scrapeMargin = 500 * time.Millisecond
	// defaultScrapeTimeout is for requests without a timeout.
	defaultScrapeTimeout = 10 * time.Second
	// maxWaiting is how many requests wait for a sync at once, beside those that are
	// being answered: a client may claim a long timeout.
	maxWaiting = 40
)

// beforeTimeout returns a context that ends a little before the client gives up.
func beforeTimeout(r *http.Request) (context.Context, context.CancelFunc) {
	timeout, ok := scrapeTimeout(r)
	if !ok {
		timeout = defaultScrapeTimeout
	}
	return context.WithTimeout(r.Context(), timeout-scrapeMargin)
}

// SyncFirst syncs a project, or all (allProjects), before each request is handled,
// within the timeout of the scrape (X-Prometheus-Scrape-Timeout-Seconds). A request
// that finds no place in waiting gets what is there.
func SyncFirst(syncer Syncer, waiting chan struct{}, project string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case waiting <- struct{}{}:
			ctx, cancel := beforeTimeout(r)
			syncer.Refresh(ctx, project)
			cancel()
			<-waiting
		default:
		}
		next.ServeHTTP(w, r)
	})
}

// maxWhole is how many scrapes of all projects are gathered at once: with a thousand of
// them, each takes more than 100 MiB.
const maxWhole = 2

// slots are places of requests that are handled at once.
type slots chan struct{}

// limit handles requests that have a place. Others wait for as long as their timeout
// allows, and are refused then. The limit of promhttp would refuse at once.
func (s slots) limit(next, refused http.Handler) http.Handler { return s.limitOr(nil, next, refused) }

// limitOr is limit with further places; nil are none.
func (s slots) limitOr(more slots, next, refused http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		taken := s.enter(more, r)
		if taken == nil {
			refused.ServeHTTP(w, r)
			return
		}
		defer func() { <-taken }()
		next.ServeHTTP(w, r)
	})
}

// enter returns where there was a place in time, or nil. A free one is taken also when the
// context has ended: during the shutdown, scrapes in flight are answered.
func (s slots) enter(more slots, r *http.Request) (taken slots) {
	select {
	case s <- struct{}{}:
		return s
	case more <- struct{}{}:
		return more
	default:
	}
	ctx, cancel := beforeTimeout(r)
	defer cancel()
	select {
	case s <- struct{}{}:
		return s
	case more <- struct{}{}:
		return more
	case <-ctx.Done():
		return nil
	}
}

// errorLog logs what goes wrong while metrics are gathered and encoded.
type errorLog struct{ logger log.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) {
	level.Error(l.logger).Log("msg", "scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
