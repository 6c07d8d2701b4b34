package collector

import (
	"context"
	"net/http"
	"time"
)

// A scrape that waits for a sync leaves the server some time to read what is
// known if the sync does not end.
const (
	scrapeMargin  = 500 * time.Millisecond
	scrapeTimeout = 10 * time.Second // if the scraper does not say
)

// RefreshFirst syncs the project before each request is handled, for as long as
// the scraper says that it waits (X-Prometheus-Scrape-Timeout-Seconds).
func RefreshFirst(p *Project, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout, told := timeoutOf(r)
		if !told {
			timeout = scrapeTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout-scrapeMargin)
		p.Refresh(ctx)
		cancel()
		next.ServeHTTP(w, r)
	})
}

// ReadyHandler answers 200 once the project's first walk is published, and 503
// before.
func ReadyHandler(p *Project) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-p.Ready():
			_, _ = w.Write([]byte("opper_exporter is ready.\n"))
		default:
			http.Error(w, "The first walk over the list of traces is still under way.", http.StatusServiceUnavailable)
		}
	})
}
