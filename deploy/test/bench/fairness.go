package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// fairness measures how regularly projects with little to do are synced beside one
// that hangs, one that is refused and one in its initial sync of a million traces. With
// --scale, intervals are shorter and the limits higher.
func (b *bench) fairness(ctx context.Context) error {
	const calm, intervals = 997, 3
	interval := time.Minute / time.Duration(b.scale)
	o := &organization{heads: map[string][]time.Time{}}
	server := httptest.NewUnstartedServer(o)
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			o.connections.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport := opper.Transport{ID: "bench", Build: func(newTransport func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) {
		return newTransport(&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12})
	}}

	names := []string{"hung", "refused", "huge"}
	for i := range calm {
		names = append(names, fmt.Sprint("calm-", i))
	}
	var projects []config.Project
	for _, name := range names {
		key, err := opper.FixedKey(name)
		if err != nil {
			return err
		}
		projects = append(projects, config.Project{
			Name: name, Interval: interval, AbandonAfter: time.Hour, Concurrency: concurrency, ClassicHistograms: true, NativeHistograms: true,
			Aggregate: aggregate.Config{Success: []string{"success"}, MaxNames: 200, DurationBuckets: durationBuckets, TokenBuckets: tokenBuckets},
			Opper:     opper.Options{URL: server.URL, Key: key, Transport: transport, RequestsPerSecond: 5 * float64(b.scale)},
		})
	}
	c, err := collector.New(projects, collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Limit: opper.NewSharedLimit(50 * float64(b.scale))})
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { _ = c.Run(running) })
	defer ended.Wait()
	defer cancel()

	printf(b.progress, "fairness: %d projects, initial syncs\n", len(names))
	began := time.Now()
	for _, name := range names[3:] {
		for !c.IsReady(name) {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	ready := time.Since(began)
	if err := pause(ctx, interval); err != nil { // the first syncs of all
		return err
	}
	from, used, connections := time.Now(), processorTime(), o.connections.Load()
	printf(b.progress, "fairness: %d intervals of %s\n", intervals, interval)
	if err := pause(ctx, intervals*interval+interval/10); err != nil {
		return err
	}
	used = processorTime() - used
	gaps := o.gaps(from, time.Now())
	b.table(fmt.Sprintf("Syncs of %d calm projects beside one that hangs, one that is refused, and one in its initial sync of 1000000", calm),
		[]string{"", "initial syncs of all", "shortest interval", "median", "longest", "processor, both sides", "connections made, those before"},
		[][]string{{
			fmt.Sprintf("interval %s, %d requests a second", interval, 50*b.scale), short(ready),
			short(gaps[0]), short(gaps[len(gaps)/2]), short(gaps[len(gaps)-1]), fmt.Sprintf("%.0f %%", 100*used.Seconds()/time.Since(from).Seconds()), fmt.Sprintf("%d, %d", o.connections.Load()-connections, connections),
		}})
	return nil
}

// pause waits, and returns the error of ctx if that ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// organization is an Opper of many projects. What it answers depends on their key.
type organization struct {
	connections atomic.Int64

	mu    sync.Mutex
	heads map[string][]time.Time // when a project asked for the head of its list
}

// ServeHTTP implements http.Handler.
func (o *organization) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	total := 1000
	switch name {
	case "hung":
		<-r.Context().Done()
		return
	case "refused":
		w.WriteHeader(http.StatusUnauthorized)
		return
	case "huge":
		total = 1_000_000
	default:
		if offset == 0 {
			o.mu.Lock()
			o.heads[name] = append(o.heads[name], time.Now())
			o.mu.Unlock()
		}
	}
	page := fmt.Appendf(nil, `{"meta":{"total_count":%d},"data":[`, total)
	newest := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := offset; i < min(offset+limit, total); i++ {
		if i > offset {
			page = append(page, ',')
		}
		at := newest.Add(-time.Duration(i) * time.Second).Format(time.RFC3339)
		page = fmt.Appendf(page, `{"id":"00000000-0000-4000-8000-%012x","name":"agent-%d","status":"success","start_time":%q,"end_time":%q,"duration_ms":1,"total_tokens":1}`, i, i%10, at, at)
	}
	_, _ = w.Write(append(page, "]}"...))
}

// gaps returns the times between the syncs of each project, sorted: those that ended
// between two times, and those that had not ended by the second.
func (o *organization) gaps(from, to time.Time) (gaps []time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, heads := range o.heads {
		for i, head := range heads {
			switch {
			case i+1 < len(heads) && heads[i+1].After(from):
				gaps = append(gaps, heads[i+1].Sub(head))
			case i+1 == len(heads) && len(gaps) > 0:
				// Until the next one, which may be late already.
				gaps[len(gaps)-1] = max(gaps[len(gaps)-1], to.Sub(head))
			}
		}
	}
	slices.Sort(gaps)
	return gaps
}
