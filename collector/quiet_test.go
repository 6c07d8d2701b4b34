package collector

import (
	"testing"
	"time"

	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// entryCounts notes how many entries each commit has.
type entryCounts struct {
	*storetest.Memory
	entries []int
}

func (w *entryCounts) Commit(project string, changes map[string][]byte, fresh bool) error {
	w.entries = append(w.entries, len(changes))
	return w.Memory.Commit(project, changes, fresh)
}

// A sync in which nothing changes writes nothing, but says now and then when it was.
func TestQuietSyncWritesNothing(t *testing.T) {
	stored := &entryCounts{Memory: new(storetest.Memory)}
	cfg := testConfig()
	cfg.Store, cfg.SweepInterval = stored, time.Hour
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.FillHistory(300, 3, epoch.Add(-day), epoch.Add(-day/2))
	b.sync()
	sync := func(after time.Duration) int {
		t.Helper()
		b.step(after)
		before := len(stored.entries)
		b.sync()
		if n := len(stored.entries) - before; n != 1 {
			t.Fatalf("%d commits in a sync, want 1", n)
		}
		return stored.entries[before]
	}
	sync(time.Second) // the first one after an initial sync has its entries to compare
	for range 4 {
		if n := sync(time.Minute); n != 0 {
			t.Errorf("%d entries written by a quiet sync", n)
		}
	}
	if n := sync(time.Minute); n != entriesEachTime+2 {
		t.Errorf("%d entries written after %s, want %d", n, documentsInterval, entriesEachTime+2)
	}
	known, err := ReadKnown(stored, cfg.Name)
	if err != nil {
		t.Fatal(err)
	}
	if age := b.now().Sub(known.LastSync); age > time.Second {
		t.Errorf("the state says that the last sync was %s ago", age)
	}

	b.opper.Add(b.trace(1, "agent"))
	if n := sync(time.Second); n <= entriesEachTime+2 {
		t.Errorf("%d entries written with a new trace", n)
	}
	sync(2 * settle)
	sync(time.Second)
	if n := sync(time.Second); n != 0 {
		t.Errorf("%d entries written when the trace has settled", n)
	}
	b.step(time.Hour)
	b.sync()
	if !b.project.syncer.IsSweepDue() || !b.project.sweep(t.Context(), time.Time{}) {
		t.Fatal("no sweep")
	}
	if n := sync(time.Second); n == 0 {
		t.Error("the progress of a sweep is not written")
	}
}

// Nor does usage in which nothing changes.
func TestQuietUsageWritesNothing(t *testing.T) {
	stored := &entryCounts{Memory: new(storetest.Memory)}
	cfg := usageConfig()
	cfg.Store = stored
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.opper.FillHistory(300, 3, epoch.Add(-day), epoch.Add(-day/2))
	u.call("openai/gpt-4o", "", oppertest.Amounts{Cost: 1000, InputTokens: 1, OutputTokens: 1})
	u.sync()
	u.read()
	u.step(time.Second)
	u.sync()
	u.read()
	full := 0
	for range 20 {
		u.step(time.Minute)
		for _, step := range []func(){u.sync, u.read} {
			before := len(stored.entries)
			step()
			for _, n := range stored.entries[before:] {
				if n > 0 {
					full++
				}
			}
		}
	}
	if full > 4 { // each five minutes, one says when the last sync was
		t.Errorf("%d of %d commits write", full, len(stored.entries))
	}
}
