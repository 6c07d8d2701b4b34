package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/sums"
	"opper_exporter/collector/walk"
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
	project  *collector.Project
	requests atomic.Int64
	done     sync.WaitGroup
	cancel   context.CancelFunc
}

// newOurs returns an exporter that has read nothing yet. If kept is nil, it
// stores nothing.
func newOurs(url string, kept collector.Store) (*ours, error) {
	o := &ours{}
	key, err := opper.FixedKey("key")
	if err != nil {
		return nil, err
	}
	client, err := opper.New(opper.Options{
		URL: url, Key: key, MaxConnections: concurrency,
		Observe: func(string, time.Duration) { o.requests.Add(1) },
	})
	if err != nil {
		return nil, err
	}
	o.project, err = collector.NewProject(collector.Config{
		Project: "default", Abandon: time.Hour, Concurrency: concurrency, Classic: true, Native: true,
		SweepEvery: 24 * time.Hour,
		Sums: sums.Config{
			Success: []string{"success", "ok", "completed"}, Failure: []string{"error", "failed", "failure"},
			MaxNames: 200, DurationBuckets: durationBuckets, TokenBuckets: tokenBuckets,
		},
		Logger: log.NewNopLogger(),
		Source: func() walk.Source { return client },
		Store:  kept,
		List:   collector.List{URL: client.URL()},
	})
	return o, err
}

// run begins to sync and returns when the first walk is published.
func (o *ours) run(ctx context.Context) error {
	ctx, o.cancel = context.WithCancel(ctx)
	o.done.Go(func() { _ = o.project.Run(ctx) })
	select {
	case <-o.project.Ready():
		return nil
	case <-time.After(10 * time.Minute):
		return errors.New("the first walk does not end")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sync syncs once.
func (o *ours) sync(ctx context.Context) error {
	o.project.Refresh(ctx)
	return ctx.Err()
}

func (o *ours) stop() {
	if o.cancel != nil {
		o.cancel()
	}
	o.done.Wait()
}
