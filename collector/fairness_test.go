package collector

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// organization is an Opper without a network. What it answers depends on the first
// word of a project's name, which is its key.
type organization struct {
	ownLimit      float64       // requests per second of a project
	sweepInterval time.Duration // 0 for no sweeps

	mu       sync.Mutex
	heads    map[string][]time.Time // when a project asked for the head of its list
	requests map[string]int         // of a project
}

// listed is how many traces there are, by the first word of a project's name. The list
// of "once" is answered only from its start.
var listed = map[string]int{"calm": 30, "huge": 1_000_000, "once": 1000, "small": 950}

// RoundTrip implements http.RoundTripper.
func (o *organization) RoundTrip(r *http.Request) (*http.Response, error) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	kind, _, _ := strings.Cut(key, "-")
	query := r.URL.Query()
	offset, _ := strconv.Atoi(query.Get("offset"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	o.mu.Lock()
	o.requests[key]++
	if offset == 0 {
		o.heads[key] = append(o.heads[key], time.Now())
	}
	o.mu.Unlock()
	took := time.After(100 * time.Millisecond)
	if kind == "hung" || kind == "once" && offset > 0 {
		took = nil
	}
	select {
	case <-took:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	status, body := http.StatusOK, ""
	if kind == "refused" {
		status = http.StatusUnauthorized
	} else {
		body = pageOf(listed[kind], offset, limit)
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// pageOf returns a page of a list of total traces, newest first, that ended at least an
// hour ago.
func pageOf(total, offset, limit int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"meta":{"total_count":%d},"data":[`, total)
	for i := offset; i < min(offset+limit, total); i++ {
		if i > offset {
			b.WriteByte(',')
		}
		// The clock of a bubble begins in 2000.
		at := time.Date(1999, 12, 31, 23, 0, 0, 0, time.UTC).Add(-time.Duration(i) * time.Millisecond).Format(time.RFC3339Nano)
		fmt.Fprintf(&b, `{"id":"00000000-0000-4000-8000-%012x","name":"agent","status":"success","start_time":%q,"end_time":%q,"duration_ms":1,"total_tokens":1}`, i, at, at)
	}
	b.WriteString("]}")
	return b.String()
}

// run runs the given number of projects of each kind, and calls check when the length
// has passed in the bubble.
func (o *organization) run(t *testing.T, limit float64, interval time.Duration, kinds map[string]int, length time.Duration, check func(*Collector)) {
	t.Helper()
	o.heads, o.requests = map[string][]time.Time{}, map[string]int{}
	var projects []config.Project
	for kind, n := range kinds {
		for i := range n {
			cfg := testConfig().Project
			cfg.Name, cfg.Interval = fmt.Sprintf("%s-%d", kind, i), interval
			cfg.SweepInterval = o.sweepInterval
			key, err := opper.FixedKey(cfg.Name)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Opper = opper.Options{URL: "https://opper.example", Key: key, RequestsPerSecond: o.ownLimit, Transport: opper.Transport{
				Build: func(func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) { return o, nil },
			}}
			projects = append(projects, cfg)
		}
	}
	c, err := New(projects, Deps{Logger: log.NewNopLogger(), Clock: NewClock(), Limit: opper.NewSharedLimit(limit)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	<-time.After(length)
	synctest.Wait()
	check(c)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(c.deps.slots); n != 0 {
		t.Errorf("%d slots are taken after the end", n)
	}
}

// requestsOf returns how many requests the projects of a kind made, the least first.
func (o *organization) requestsOf(kind string) []int {
	var counts []int
	for name, n := range o.requests {
		if strings.HasPrefix(name, kind+"-") {
			counts = append(counts, n)
		}
	}
	slices.Sort(counts)
	return counts
}

// A project with little to do keeps its interval beside those that hang, are refused
// or have much to read.
func TestCalmProjectsKeepTheirInterval(t *testing.T) {
	for name, test := range map[string]struct {
		ownLimit float64
		kinds    map[string]int
	}{
		"one of each":                 {5, map[string]int{"calm": 997, "hung": 1, "refused": 1, "huge": 1}},
		"without limits of their own": {0, map[string]int{"calm": 985, "hung": 5, "refused": 5, "huge": 5}},
	} {
		kinds := test.kinds
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const warmUp, length = 3 * time.Minute, 5 * time.Minute
				o, began := &organization{ownLimit: test.ownLimit}, time.Now()
				o.run(t, 50, time.Minute, kinds, length, func(c *Collector) {
					shortest, longest := time.Hour, time.Duration(0)
					for i := range kinds["calm"] {
						name := fmt.Sprint("calm-", i)
						if p := c.find(name); !p.snapshots.isPublished() || p.hasFailed.Load() {
							t.Errorf("%s: published %t, failed %t", name, p.snapshots.isPublished(), p.hasFailed.Load())
						}
						var last time.Time
						for _, head := range o.heads[name] {
							if late := (head.Sub(began) - offset(name, time.Minute)) % time.Minute; !last.IsZero() && late > 6*time.Second {
								t.Errorf("%s: a sync is %v late", name, late)
							}
							if head.Sub(began) >= warmUp {
								if !last.IsZero() {
									shortest, longest = min(shortest, head.Sub(last)), max(longest, head.Sub(last))
								}
								last = head
							}
						}
						longest = max(longest, time.Since(last)) // until the next one
					}
					t.Logf("the shortest interval is %v, the longest %v", shortest, longest)
					if shortest < 54*time.Second || longest > 66*time.Second {
						t.Errorf("intervals from %v to %v, want 1m0s within 10 %%", shortest, longest)
					}
					if counts := o.requestsOf("huge"); len(counts) != kinds["huge"] || counts[0] < 200 {
						t.Errorf("the initial syncs made %v requests, want that they go on", counts)
					}
					families, err := c.Gatherer("huge-0").Gather()
					if err != nil || valuesOf(families)["opper_exporter_api_limit_wait_seconds_total{}"] < 1 {
						t.Errorf("got %v and %v, want that waits are counted", err, valuesOf(families).of("opper_exporter_api_limit_wait_seconds_total"))
					}
				})
			})
		})
	}
}

// A page of a sweep that waits for the syncs of others does not hold up those of its own
// project.
func TestSweepsWaitForNoSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, length = 30 * time.Second, 20 * time.Minute
		o, began := &organization{ownLimit: 5, sweepInterval: 5 * time.Minute}, time.Now()
		o.run(t, 10, interval, map[string]int{"small": 130}, length, func(c *Collector) {
			longest := time.Duration(0)
			for name, heads := range o.heads {
				for i := 1; i < len(heads); i++ {
					if heads[i-1].Sub(began) >= length/2 {
						longest = max(longest, heads[i].Sub(heads[i-1]))
					}
				}
				if p := c.find(name); p.metrics.stall.update() != 0 || valueOf(p.metrics.up).GetGauge().GetValue() != 1 {
					t.Errorf("%s is down", name)
				}
			}
			if longest > interval+interval/10 {
				t.Errorf("%v between two syncs, want %v within 10 %%", longest, interval)
			}
			t.Logf("at most %v between two syncs, %d requests", longest, len(o.requestsOf("small")))
		})
	})
}
