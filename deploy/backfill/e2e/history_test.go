package e2e_test

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// quickCompactions makes a server write a block of its head every few seconds, and
// merge blocks up to most of a day.
func quickCompactions() []string {
	shortest := "4s"
	if *full {
		shortest = "30s" // or it would do nothing else
	}
	return []string{"--storage.tsdb.min-block-duration=" + shortest, "--storage.tsdb.max-block-duration=3d"}
}

// The blocks of the history are moved into a running server, and its live series continue them.
func TestHistoryOnAServer(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n)
	w.serve(t, "")
	live := time.Now()
	w.WaitScrapes(t, "opper", 1)
	// If the blocks contained these too, live samples without them would follow: a reset.
	w.run(t, 100, live)
	w.changeAtOpper(t, live)
	blocks := w.backfill(t, n, "--state="+w.state(t), "--from-server="+w.URL())
	before := w.liveSamples(t)
	w.moveIn(t, blocks)
	w.examine(t, "at first", n.windows/2, border(live), before)
	// The head has all live samples still.
	w.Restart(t, quickCompactions()...)
	w.run(t, 10, time.Now())
	w.awaitCompactions(t, 2)
	w.examine(t, "after a restart and compactions", n.windows/2, border(live), before)
}

// A server that has never been started has the history until then, without harm.
func TestHistoryOnANewServer(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n)
	end := time.Now()
	blocks := w.backfill(t, n, "--for=new-prometheus", "--state="+w.state(t),
		"--label=job=opper", "--label=instance="+w.address, "--label=region=eu", "--retention=60d")
	w.serve(t, blocks, quickCompactions()...)
	w.addPastOfRules(t, end)
	w.run(t, 20, time.Now())
	before := w.liveSamples(t)
	w.awaitCompactions(t, 2)
	w.Restart(t)
	w.run(t, 10, time.Now())
	w.awaitCompactions(t, 2)
	w.examine(t, "after compactions, a restart and more compactions", max(n.windows/10, 20), end, before)
}

// examine looks at all that the history promises. It ends at a time.
func (w *world) examine(t *testing.T, when string, n int, end time.Time, before map[string]model.Matrix) {
	t.Helper()
	if err := w.checkResets(t); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := lost(before, w.liveSamples(t)); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := w.check(t, windows(n, w.began.Add(time.Hour), end, time.Now())); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}
