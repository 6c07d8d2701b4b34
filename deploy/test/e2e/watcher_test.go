package e2e_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
)

// watcher scrapes whatever process is up, and holds each scrape against the one
// before, whichever process gave it.
type watcher struct {
	t *testing.T

	mu       sync.Mutex
	process  *exportertest.Process
	last     *exportertest.Reading // the last one that showed traces
	lastOf   *exportertest.Process // that it is of
	syncEnds []time.Time           // ends of the syncs that were shown
	scrapes  int                   // of this process
	rises    int                   // of these, how many showed more than was known
	// usageRises is how many of these showed more usage.
	usageRises int
}

// newWatcher returns a watcher that watches until the end of the test.
func newWatcher(t *testing.T) *watcher {
	t.Helper()
	w := &watcher{t: t}
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(scrapeEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			w.look(ctx)
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() {
		stop()
		watching.Wait()
	})
	return w
}

func (w *watcher) watch(p *exportertest.Process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.process, w.scrapes, w.rises, w.usageRises = p, 0, 0, 0
}

// await waits until a condition on what was seen of this process is true.
func (w *watcher) await(condition func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		met := condition()
		w.mu.Unlock()
		w.sound()
		if met {
			return
		}
		w.process.MustRun(w.t)
		select {
		case <-ctx.Done():
			w.t.Fatal("the exporter came to a standstill")
		case <-tick.C:
		}
	}
}

// sound ends the test if a scrape was not as it must be.
func (w *watcher) sound() {
	w.t.Helper()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

func (w *watcher) look(ctx context.Context) {
	w.mu.Lock()
	p := w.process
	w.mu.Unlock()
	if p == nil {
		return
	}
	address, ok := p.Address()
	if !ok {
		return
	}
	r, err := exportertest.Scrape(ctx, address)
	if errors.Is(err, exportertest.ErrCut) {
		return
	}
	if err != nil {
		w.t.Errorf("scrape: %v", err)
		return
	}
	if len(r.Undated) > 0 {
		w.t.Errorf("no created timestamp: %q", r.Undated)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p == w.process {
		w.scrapes++
	}
	if w.last == nil && len(r.Lasting) == 0 {
		return // nothing has been published yet
	}
	rose := false
	if w.last != nil {
		rose = w.compare(w.last, r)
	}
	if rose && p == w.process {
		w.rises++
		if r.Lasting.Total("opper_usage_calls_total", "") > w.last.Lasting.Total("opper_usage_calls_total", "") {
			w.usageRises++
		}
	}
	sync := r.LastSuccess()
	if n := len(w.syncEnds); n == 0 || sync.After(w.syncEnds[n-1]) {
		w.syncEnds = append(w.syncEnds, sync)
	}
	// A sync that finds nothing new writes nothing: a process that is killed after one leaves
	// an earlier last sync to the next.
	if w.last != nil && sync.Before(w.last.LastSuccess()) && w.lastOf == p {
		w.t.Errorf("the last good sync was at %v, and is now at %v", w.last.LastSuccess(), sync)
	}
	w.last, w.lastOf = r, p
}

// compare fails the test if anything of before has fallen or is no longer there,
// or if anything that is new is not at 0. It reports whether anything rose.
func (w *watcher) compare(before, now *exportertest.Reading) (rose bool) {
	for key, was := range before.Lasting {
		is, ok := now.Lasting[key]
		switch {
		case !ok:
			w.t.Errorf("%s was %v and has vanished", key, was)
		case is < was:
			w.t.Errorf("%s fell from %v to %v", key, was, is)
		}
		rose = rose || is > was
	}
	for key, is := range now.Lasting {
		if _, known := before.Lasting[key]; !known && is != 0 && !before.MayBeginAbove0(key) {
			w.t.Errorf("%s begins at %v", key, is)
		}
	}
	for key, was := range before.Native {
		// A histogram that lowers its resolution has no such bucket any more.
		if is, ok := now.Native[key]; ok && is < was {
			w.t.Errorf("%s fell from %v to %v", key, was, is)
		}
	}
	for key, was := range before.Created {
		if is := now.Created[key]; !is.Equal(was) {
			w.t.Errorf("%s was created at %v, and now at %v", key, was, is)
		}
	}
	return rose
}
