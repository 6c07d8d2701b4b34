package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrape measures scrapes with 200 names and 4 outcomes, from the handler to
// the last byte, without a network. Both sides have counted the same traces in
// the same families; ours has those about its own work besides.
func (b *bench) scrape(ctx context.Context) error {
	const traces, scrapes = 40_000, 5
	url, stop, err := served(ctx, listConfig{traces: traces, names: 200})
	if err != nil {
		return err
	}
	defer stop()
	p := newPlain()
	if err := p.readAll(ctx, http.DefaultClient, url); err != nil {
		return err
	}
	o, err := newOurs(url, nil)
	if err != nil {
		return err
	}
	defer o.stop()
	if err := o.run(ctx); err != nil {
		return err
	}
	opts := promhttp.HandlerOpts{EnableOpenMetrics: true}
	registry := prometheus.NewRegistry()
	registry.MustRegister(o.collector)
	handlers := [2]http.Handler{promhttp.HandlerFor(p.registry, opts), promhttp.HandlerFor(registry, opts)}

	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	var rows [][]string
	for _, format := range []struct{ name, accept, encoding string }{
		{"text", "text/plain;version=0.0.4", "identity"},
		{"text, gzip", "text/plain;version=0.0.4", "gzip"},
		{"OpenMetrics", "application/openmetrics-text;version=1.0.0", "identity"},
		{"OpenMetrics, gzip", "application/openmetrics-text;version=1.0.0", "gzip"},
		{"protobuf", protobuf, "identity"},
		{"protobuf, gzip", protobuf, "gzip"},
	} {
		var sizes [2]int
		run := func(i int) func(context.Context) error {
			return repeated(scrapes, func() error {
				r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
				r.Header.Set("Accept", format.accept)
				r.Header.Set("Accept-Encoding", format.encoding)
				w := httptest.NewRecorder()
				handlers[i].ServeHTTP(w, r)
				if sizes[i] = w.Body.Len(); w.Code != http.StatusOK {
					return fmt.Errorf("answered %d: %s", w.Code, w.Body)
				}
				return nil
			})
		}
		best, err := b.race(ctx, "scrape as "+format.name, side{name: "plain", run: run(0)}, side{name: "ours", run: run(1)})
		if err != nil {
			return err
		}
		rows = append(rows, []string{
			format.name, strconv.Itoa(sizes[0] >> 10), strconv.Itoa(sizes[1] >> 10),
			short(best[0].took / scrapes), short(best[1].took / scrapes), ratio(best[1].took, best[0].took),
		})
	}
	b.table("A scrape of 200 names with 4 outcomes", []string{"format", "KiB of client_golang's vectors", "our KiB", "client_golang's vectors", "ours", "ours / theirs"}, rows)
	return nil
}
