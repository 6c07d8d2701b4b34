package main

import (
	"context"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// concurrency is the exporter's default, and that of the floor.
const concurrency = 4

var (
	durationBuckets = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	tokenBuckets    = []float64{16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}
)

// ours is the exporter without its command line: it syncs when it is asked to.
type ours struct {
	collector *collector.Collector
	done      sync.WaitGroup
	cancel    context.CancelFunc
}

// newOurs returns an exporter that has read nothing yet. If state is nil, it
// persists nothing.
func newOurs(url string, state collector.Store) (*ours, error) {
	key, err := opper.FixedKey("key")
	if err != nil {
		return nil, err
	}
	c, err := collector.New([]config.Project{{
		Name: "default", AbandonAfter: time.Hour, Concurrency: concurrency, ClassicHistograms: true, NativeHistograms: true,
		SweepInterval: 24 * time.Hour,
		Aggregate: aggregate.Config{
			Success: []string{"success", "ok", "completed"}, Failure: []string{"error", "failed", "failure"},
			MaxNames: 200, DurationBuckets: durationBuckets, TokenBuckets: tokenBuckets,
		},
		Opper: opper.Options{URL: url, Key: key},
	}}, collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Store: state})
	return &ours{collector: c}, err
}

// run begins to sync and returns when the initial sync is published.
func (o *ours) run(ctx context.Context) error {
	ctx, o.cancel = context.WithCancel(ctx)
	o.done.Go(func() { _ = o.collector.Run(ctx) })
	poll := time.NewTicker(100 * time.Microsecond)
	defer poll.Stop()
	for !o.collector.IsReady("") {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// requests returns how many requests to Opper were sent.
func (o *ours) requests() (n int64, err error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(o.collector); err != nil {
		return 0, err
	}
	families, err := registry.Gather()
	for _, f := range families {
		if f.GetName() == "opper_exporter_api_requests_total" {
			for _, m := range f.GetMetric() {
				n += int64(m.GetCounter().GetValue())
			}
		}
	}
	return n, err
}

// sync syncs once.
func (o *ours) sync(ctx context.Context) error {
	o.collector.Refresh(ctx, "")
	return ctx.Err()
}

func (o *ours) stop() {
	if o.cancel != nil {
		o.cancel()
	}
	o.done.Wait()
}
