package collector

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/scrape"
	"opper_exporter/collector/syncer"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper"
)

// gate is a list of nothing that answers only while it is open.
type gate struct {
	mu     sync.Mutex
	shut   chan struct{} // nil while the gate is open
	begins int
}

// source begins a sync.
func (g *gate) source(opper.Priority, time.Time) syncer.Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begins++
	return g
}

// syncs is how many syncs have begun.
func (g *gate) syncs() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begins
}

func (g *gate) List(ctx context.Context, _, _ int) (opper.Page, error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return opper.Page{}, ctx.Err()
		}
	}
	return opper.Page{}, nil
}

func (*gate) Get(context.Context, string) (opper.Trace, error) {
	return opper.Trace{}, errors.New("there is none")
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

// inBubble runs a test with a running project, where time passes only when
// everything waits for it.
func inBubble(t *testing.T, interval time.Duration, shut bool, test func(*testing.T, *project, *gate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := new(gate)
		if shut {
			g.close()
		}
		cfg := testConfig()
		cfg.Interval, cfg.Logger = interval, log.NewNopLogger()
		cfg.source, cfg.now = g.source, time.Now
		p := newTestProject(t, cfg, newInstrumentation(cfg.Name, cfg.NativeHistograms))
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { _ = p.run(ctx) })
		synctest.Wait()
		test(t, p, g)
		stop()
		done.Wait()
	})
}

var served = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

// A scrape waits for its sync until half a second before its own timeout, and
// is served then; the sync goes on.
func TestScrapeWaitsForItsSync(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":     9500 * time.Millisecond,
		"5":    4500 * time.Millisecond,
		"0.75": 250 * time.Millisecond,
		"0.3":  0,
		"-1":   9500 * time.Millisecond,
		"soon": 9500 * time.Millisecond,
		"NaN":  9500 * time.Millisecond,
		"Inf":  9500 * time.Millisecond,
		"1e30": 9500 * time.Millisecond,
		"120":  119500 * time.Millisecond,
		"3599": 119500 * time.Millisecond,
	} {
		inBubble(t, 0, false, func(t *testing.T, p *project, g *gate) {
			t.Helper()
			h := scrape.SyncFirst(collectorOf(p), make(chan struct{}, 1), "", served)
			g.close()
			start, before := time.Now(), g.syncs()
			if w := get(t, h, "X-Prometheus-Scrape-Timeout-Seconds", header); w.Code != http.StatusTeapot {
				t.Errorf("%q: status %d", header, w.Code)
			}
			if got := time.Since(start); got != want {
				t.Errorf("%q: served after %v, want %v", header, got, want)
			}
			good := p.lastSuccess
			g.open()
			synctest.Wait()
			if !p.lastSuccess.After(good) && want > 0 {
				t.Errorf("%q: the sync did not go on", header)
			}
			if n := g.syncs() - before; n != 1 {
				t.Errorf("%q: %d syncs", header, n)
			}
			start = time.Now()
			if get(t, h); time.Since(start) != 0 || g.syncs()-before != 2 {
				t.Errorf("%q: the next scrape took %v and %d syncs", header, time.Since(start), g.syncs()-before-1)
			}
		})
	}
}

// Scrapes at the same time share one sync, and syncs never overlap.
func TestScrapesShareASync(t *testing.T) {
	inBubble(t, 0, false, func(t *testing.T, p *project, g *gate) {
		t.Helper()
		g.close()
		before := g.syncs()
		var scrapes sync.WaitGroup
		for range 5 {
			scrapes.Go(func() { p.refresh(t.Context(), false) })
			synctest.Wait()
		}
		if n := g.syncs() - before; n != 1 {
			t.Errorf("%d syncs for scrapes at the same time", n)
		}
		g.open()
		scrapes.Wait()
		p.refresh(t.Context(), false)
		if n := g.syncs() - before; n != 2 {
			t.Errorf("%d syncs after one more scrape", n)
		}
	})
}

// The initial sync is not waited for.
func TestInitialSyncIsNotWaitedFor(t *testing.T) {
	inBubble(t, 0, true, func(t *testing.T, p *project, g *gate) {
		t.Helper()
		start := time.Now()
		if w := get(t, scrape.SyncFirst(collectorOf(p), make(chan struct{}, 1), "", served)); w.Code != http.StatusTeapot || time.Since(start) != 0 {
			t.Errorf("status %d after %v", w.Code, time.Since(start))
		}
		ready := scrape.ReadyHandler(collectorOf(p))
		if w := get(t, ready); w.Code != http.StatusServiceUnavailable {
			t.Errorf("ready during the initial sync: %d", w.Code)
		}
		g.open()
		synctest.Wait()
		if w := get(t, ready); w.Code != http.StatusOK {
			t.Errorf("not ready after the initial sync: %d", w.Code)
		}
		if n := g.syncs(); n != 1 {
			t.Errorf("%d syncs", n)
		}
	})
}

func TestSyncsKeepTheInterval(t *testing.T) {
	inBubble(t, 30*time.Second, false, func(t *testing.T, _ *project, g *gate) {
		t.Helper()
		<-time.After(95 * time.Second)
		synctest.Wait()
		if n := g.syncs(); n != 4 {
			t.Errorf("%d syncs in 95 s at an interval of 30 s", n)
		}
		// A sync that takes longer than the interval is not overtaken.
		g.close()
		<-time.After(100 * time.Second)
		synctest.Wait()
		if n := g.syncs(); n != 5 {
			t.Errorf("%d syncs, want the fifth to last", n)
		}
		g.open()
	})
}

// A sync that is stopped is no failure.
func TestStoppedSyncIsNoFailure(t *testing.T) {
	g := new(gate)
	g.close()
	var logged promtest.Output
	cfg := testConfig()
	cfg.source, cfg.now, cfg.Logger = g.source, time.Now, log.NewLogfmtLogger(&logged)
	p := newTestProject(t, cfg, newInstrumentation(cfg.Name, cfg.NativeHistograms))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_ = p.run(ctx)
	if n := counterOf(t, p.metrics.syncs.WithLabelValues("error")); n != 0 || logged.String() != "" {
		t.Errorf("%v failed syncs, log: %s", n, logged.String())
	}
}
