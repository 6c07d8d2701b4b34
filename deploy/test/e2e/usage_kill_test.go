package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// However often and whenever it is killed while hours of usage grow, an exporter never
// exposes a cost that falls later, and in the end all usage is counted once, and each
// trace once with what it cost.
func TestCostsSurviveSIGKILL(t *testing.T) {
	t.Parallel()
	a := newAccount(oppertest.UsageTroubles{
		RollUp: 50 * time.Millisecond, RollUpSpread: 500 * time.Millisecond,
		Nulls: 0.05, NullsAbsent: true, Duplicates: 0.3, Shuffle: true, Shapes: true, UnknownFields: true, Latency: 2 * time.Millisecond,
	})
	s := oppertest.New(oppertest.Config{Usage: a.Usage, Project: uuidOf("shop"), Latency: 2 * time.Millisecond})
	const past = 40
	s.FillHistory(past, 3, time.Now().Add(-5*time.Hour), time.Now().Add(-2*time.Hour))
	a.call("shop", "history", "", 123_456_789, time.Hour)
	url, address, dir := opper(t, s), exportertest.FreeAddress(t), t.TempDir()
	run := func() *exportertest.Process {
		return exportertest.MustStart(t, at(address, command(t, url, "--storage.path="+dir, fast, "--collector.settle-delay=200ms", readOften)))
	}
	server := promtest.Start(t, promtest.Config{YAML: fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs: [{job_name: opper, static_configs: [{targets: [%q]}]}]
`, address)})

	// What is listed at first has no known cost, so that must be all of it.
	w := newWatcher(t)
	p := run()
	w.watch(p)
	w.await(func() bool { return w.last != nil && len(usageOf(w.last)) > 1 })
	stop := a.grow(t, s)
	var left atomic.Int64
	s.OnRequest(func(oppertest.Request) { left.Add(-1) }, oppertest.UsageEndpoint)
	rng := rand.New(rand.NewPCG(uint64(*kills), 3))
	for i := range *kills {
		switch i % 4 {
		case 0: // in the middle of a read, or at its end
			left.Store(1 + rng.Int64N(3))
			w.await(func() bool { return left.Load() <= 0 })
		case 1: // when a scrape has just shown more usage than any before
			w.await(func() bool { return w.usageRises > 0 })
		case 2: // soon after it
			w.await(func() bool { return w.usageRises > 0 })
			<-time.After(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
		default: // while it starts, and in its first syncs
			<-time.After(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
		}
		p.MustRun(t)
		p.Kill()
		p = run()
		w.watch(p)
	}
	w.await(func() bool { return w.usageRises > 0 })
	stop()
	// Old hours are read when it starts.
	p.Kill()
	p = run()
	w.watch(p)
	last := eventually(t, p, func(r *exportertest.Reading) error {
		traces, costs := r.Lasting.Total("opper_traces_total", ""), r.Lasting.Total("opper_cost_usd_per_trace_count", "")
		var err error
		if unknown := r.Lasting.Project("opper_exporter_trace_costs_unknown_total"); unknown != past || traces != past+costs || traces != float64(s.Len()) {
			err = fmt.Errorf("of %v traces, %v have a cost and %v none, want %d of %d", traces, costs, unknown, past, s.Len())
		}
		return errors.Join(err, a.counts(ownOnly("default"))(r), a.countsAgents(s)(r))
	})
	w.sound()
	if n := last.Lasting.Project("opper_exporter_usage_corrections_total"); n != 0 {
		t.Errorf("%v corrections", n)
	}
	server.WaitScrapes(t, "opper", 2)
	stream := raw(t, server)
	for key, value := range usageOf(last) {
		ends(t, stream, key, value)
	}
	for key, value := range last.Lasting {
		if strings.HasPrefix(key, "opper_trace_cost") || strings.HasPrefix(key, "opper_cost") && !strings.Contains(key, "_bucket") {
			ends(t, stream, key, value)
		}
	}
	p.Stop(t)
}

// grow lets traffic with usage go on, of which some is in hours that are long over, until
// stop is called. All traces have then ended.
func (a *account) grow(t *testing.T, s *oppertest.Server) (stop func()) {
	t.Helper()
	var agents []oppertest.Agent
	for i, name := range []string{"quick", "steady", "rare"} {
		agents = append(agents, oppertest.Agent{
			Name: name, Rate: 10 / float64(1+i*i), Median: 100 * time.Millisecond, Spread: 0.5, Failure: 0.1, Tokens: 500, Running: 0.7, Untraced: 0.2,
			Model: oppertest.Model{Name: fmt.Sprint("model-", i%2), Input: 151, Output: 607},
		})
	}
	traffic := oppertest.NewTraffic(s, agents, 5)
	ctx, end := context.WithCancel(t.Context())
	var stepping sync.WaitGroup
	stepping.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		rng := rand.New(rand.NewPCG(5, 6))
		for ctx.Err() == nil {
			traffic.Step(time.Now())
			if rng.IntN(10) == 0 {
				a.call("shop", fmt.Sprint("model-", rng.IntN(5)), "", rng.Int64N(1e9), time.Duration(rng.Int64N(int64(40*time.Hour))))
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	stop = sync.OnceFunc(func() {
		end()
		stepping.Wait()
		for _, tr := range s.Snapshot() {
			if tr.End == nil {
				s.Update(tr.ID, func(tr *oppertest.Trace) {
					tr.End, tr.DurationMS, tr.Status = new(time.Now()), new(1.0), new("success")
				})
			}
		}
	})
	t.Cleanup(stop)
	return stop
}
