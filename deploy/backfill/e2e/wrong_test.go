package e2e_test

import (
	"slices"
	"testing"
	"time"

	"opper_exporter/deploy/backfill/block"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/test/exportertest"
)

// What the other test asks for is missing as soon as a block overlaps with the live samples:
// its series seem to fall between the live ones, and when the server starts again it
// drops the live samples of every series up to the end of the block.
func TestBlocksThatEndTooLateAreSeen(t *testing.T) {
	n := sizeOf(t)
	w := newWorld(t, n)
	w.serve(t, "")
	live := time.Now()
	w.WaitScrapes(t, "opper", 1)
	w.run(t, 20, live)
	before := w.liveSamples(t)
	reader := w.history(t, live).NewReader()
	write := func(from, to time.Time) (dir string) {
		t.Helper()
		dir = t.TempDir()
		if _, _, err := block.Write(t.Context(), dir, from.UnixMilli(), to.UnixMilli(), reader.Series(from.UnixMilli(), to.UnixMilli())); err != nil {
			t.Fatal(err)
		}
		return dir
	}

	end := border(live)
	w.moveIn(t, write(end.Add(-2*time.Hour), end))
	if err := w.checkResets(t); err != nil {
		t.Errorf("a block that ends in time: %v", err)
	}
	w.Restart(t)
	if err := lost(before, w.liveSamples(t)); err != nil {
		t.Errorf("a block that ends in time: %v", err)
	}

	w.moveIn(t, write(end, time.Now()))
	if err := w.checkResets(t); err == nil {
		t.Error("a block that overlaps with the live samples: no resets")
	} else {
		t.Logf("a block that overlaps with the live samples: %v", err)
	}
	w.Restart(t)
	if err := lost(before, w.liveSamples(t)); err == nil {
		t.Error("a block that ends in the head: no live samples are missing")
	} else {
		t.Logf("a block that ends in the head: %v", err)
	}
}

// history is that of what the exporter has counted, with the labels that the server
// adds. The live traces have ended at a time.
func (w *world) history(t *testing.T, liveEnded time.Time) *history.History {
	t.Helper()
	families, err := exportertest.Families(t.Context(), w.address)
	if err != nil {
		t.Fatal(err)
	}
	p := history.Project{Name: "default", Names: w.truth.names}
	for _, family := range families {
		p.Now = append(p.Now, family)
	}
	for k, events := range w.truth.events {
		for _, e := range events {
			p.Events = append(p.Events, history.Event{
				End: min(e.at, liveEnded.UnixMilli()), Duration: e.micros, Tokens: e.tokens,
				Name: uint32(slices.Index(w.truth.names, k.name)), Outcome: uint8(slices.Index(outcomes, k.outcome)),
			})
		}
	}
	h, err := history.New([]history.Project{p}, history.Options{
		Step: step, Labels: map[string]string{"job": "opper", "instance": w.address, "region": "eu"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
