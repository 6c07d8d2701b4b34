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

// RefreshFirst syncs before each request is handled, for as long as
// the scraper says that it waits (X-Prometheus-Scrape-Timeout-Seconds).
func RefreshFirst(c *Collector, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout, told := timeoutOf(r)
		if !told {
			timeout = scrapeTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout-scrapeMargin)
		c.Refresh(ctx)
		cancel()
		next.ServeHTTP(w, r)
	})
}

// ReadyHandler answers 200 once the initial sync is published, and 503 before.
func ReadyHandler(c *Collector) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !c.IsReady() {
			http.Error(w, "The initial sync is still running.", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("opper_exporter is ready.\n"))
	})
}
