package e2e_test

import (
	"testing"
	"time"
)

// quickCompactions makes a server write a block of its head every few seconds, and
// merge blocks up to most of a day.
func quickCompactions() []string {
	return []string{"--storage.tsdb.min-block-duration=4s", "--storage.tsdb.max-block-duration=3d"}
}

// A month of history is moved into a server that runs, and goes on in what it scrapes.
func TestHistoryOnAServer(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n, quickCompactions()...)
	live := time.Now()
	w.WaitScrapes(t, "opper", 1)
	blocks := w.backfill(t, n, "--state="+w.state(t), "--from-server="+w.URL())

	// In the history these would be before samples that are without them.
	w.run(t, 20, live)
	before := w.liveSamples(t)
	w.moveIn(t, blocks)

	end := border(live)
	begin := live.Add(-month + 2*time.Hour)
	examine := func(when string) {
		t.Helper()
		if err := w.checkResets(t); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := lost(before, w.liveSamples(t)); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := w.check(t, windows(n.windows/2, begin, end, time.Now())); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	examine("before compactions")
	w.awaitCompactions(t, 2)
	w.Restart(t)
	w.run(t, 10, time.Now())
	w.awaitCompactions(t, 2)
	examine("after compactions, a restart and more compactions")
}
