package e2e_test

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// quickCompactions makes a server write a block of its head every few seconds, and
// merge blocks up to most of a day.
func quickCompactions() []string {
	return []string{"--storage.tsdb.min-block-duration=4s", "--storage.tsdb.max-block-duration=3d"}
}

// A month of history is moved into a server that runs, and goes on in what it scrapes.
func TestHistoryOnAServer(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n)
	w.serve(t, "", quickCompactions()...)
	live := time.Now()
	w.WaitScrapes(t, "opper", 1)
	blocks := w.backfill(t, n, "--state="+w.state(t), "--from-server="+w.URL())

	// In the history these would be before samples that are without them.
	w.run(t, 20, live)
	before := w.liveSamples(t, time.Hour-patience)
	w.moveIn(t, blocks)
	w.examine(t, "before compactions", n.windows/2, border(live), before)
	w.compactAndRestart(t)
	w.examine(t, "after compactions and a restart", n.windows/2, border(live), before)
}

// A server that has never been started has the history until then, without harm.
func TestHistoryOnANewServer(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n)
	end := time.Now()
	blocks := w.backfill(t, n, "--for=new-prometheus", "--state="+w.state(t),
		"--label=job=opper", "--label=instance="+w.address, "--label=region=eu", "--retention=60d")
	w.serve(t, blocks, quickCompactions()...)
	w.run(t, 20, time.Now())
	before := w.liveSamples(t, time.Hour-patience)
	w.compactAndRestart(t)
	w.examine(t, "after compactions and a restart", n.windows/2, end, before)
}

// compactAndRestart lets the server write four blocks of its head, and starts it again
// between.
func (w *world) compactAndRestart(t *testing.T) {
	t.Helper()
	w.awaitCompactions(t, 2)
	w.Restart(t)
	w.run(t, 10, time.Now())
	w.awaitCompactions(t, 2)
}

// examine looks at all that the history promises. It ends at a time.
func (w *world) examine(t *testing.T, when string, n int, end time.Time, before map[string]model.Matrix) {
	t.Helper()
	if err := w.checkResets(t); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := lost(before, w.liveSamples(t, time.Hour)); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := w.check(t, windows(n, time.Now().Add(-month+2*time.Hour), end, time.Now())); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}
