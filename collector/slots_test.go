package collector

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

func TestInitialSyncsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &organization{ownLimit: 5}
		kinds := map[string]int{"huge": 12}
		o.run(t, 0, time.Minute, kinds, slotDuration-time.Second, func(*Collector) {
			// The others have shown that Opper answers them.
			if counts := o.requestsOf("huge"); !slices.Equal(counts[:8], slices.Repeat([]int{1}, 8)) || counts[8] < 40 {
				t.Errorf("the first slot: %v requests, want one each but for the %d that go on", counts, maxInitialSyncs)
			}
		})
		o.run(t, 0, time.Minute, kinds, 3*slotDuration, func(*Collector) {
			if counts := o.requestsOf("huge"); counts[0] < 40 || counts[11] > 400 {
				t.Errorf("three slots: %v requests, want that each project had one", counts)
			}
		})
	})
}

// Projects that Opper refuses, or does not answer any more, leave the slots to others,
// and so do those that have much to read.
func TestInitialSyncsOfOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kinds := map[string]int{"hung": 4, "once": 4, "refused": 4, "huge": 4, "small": 8}
		(&organization{ownLimit: 5}).run(t, 0, time.Minute, kinds, time.Minute, func(c *Collector) {
			for i := range kinds["small"] {
				if name := fmt.Sprint("small-", i); !c.find(name).snapshots.isPublished() {
					t.Errorf("%s has not published within a minute", name)
				}
			}
		})
	})
}

// answering is a Source that answers with full pages.
type answering struct{ syncer.Source }

func (answering) List(_ context.Context, _, limit int) (opper.Page, error) {
	return opper.Page{Traces: make([]opper.Trace, limit)}, nil
}

// A page that was read ahead may arrive when the sync has ended already.
func TestEndedSyncTakesNoSlot(t *testing.T) {
	cfg := testConfig()
	cfg.now = time.Now
	p := newTestProject(t, cfg, newInstrumentation(cfg.Name, false))
	p.deps.slots = newSlots()
	p.source = func(opper.Priority, time.Time) syncer.Source { return answering{} }
	src, end := p.syncSource()
	if _, err := src.List(t.Context(), 0, 1); err != nil || len(p.deps.slots) != 1 {
		t.Errorf("got %v and %d slots are taken, want 1", err, len(p.deps.slots))
	}
	end()
	if _, err := src.List(t.Context(), 0, 1); err != nil || len(p.deps.slots) != 0 {
		t.Errorf("got %v and %d slots are taken after the end", err, len(p.deps.slots))
	}
}

// Waiting for a slot is no trouble with Opper.
func TestProjectIsUpWhileItWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const projects = 40
		o := &organization{ownLimit: 5}
		o.run(t, 0, time.Second, map[string]int{"huge": projects}, 9*slotDuration, func(c *Collector) {
			for i := range projects {
				families, err := c.Gatherer(fmt.Sprint("huge-", i)).Gather()
				if err != nil {
					t.Error(err)
				}
				if up := valuesOf(families)["opper_up{}"]; up != 1 {
					t.Errorf("huge-%d: opper_up is %v, want 1", i, up)
				}
			}
			if counts := o.requestsOf("huge"); counts[0] != 1 {
				t.Errorf("%v requests, want that some projects still wait", counts)
			}
		})
	})
}

func TestPriorities(t *testing.T) {
	cfg := testConfig()
	cfg.SweepInterval = time.Hour
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.FillHistory(300, 1, epoch.Add(-2*time.Hour), epoch.Add(-time.Hour))
	inner, got := b.project.source, []opper.Priority(nil)
	b.project.source = func(p opper.Priority, _ time.Time) syncer.Source {
		got = append(got, p)
		return inner(p, time.Time{})
	}
	b.sync()
	b.sync()
	b.step(2 * time.Hour)
	if !b.project.syncer.IsSweepDue() || !b.project.sweep(t.Context(), time.Time{}) {
		t.Fatal("no sweep")
	}
	if want := []opper.Priority{opper.PriorityInitialSync, opper.PrioritySync, opper.PrioritySweep}; !slices.Equal(got, want) {
		t.Errorf("priorities %v, want %v", got, want)
	}
}

// Many projects begin at once, but no two syncs of most fall on the same moment after
// that.
func TestOffsetsAreSpread(t *testing.T) {
	const projects = 1000
	var bySecond [60]int
	for i := range projects {
		o := offset(fmt.Sprint("customer-", i), time.Minute)
		if o < 0 || o >= time.Minute {
			t.Fatalf("offset %v", o)
		}
		bySecond[o/time.Second]++
	}
	if minimum, maximum := slices.Min(bySecond[:]), slices.Max(bySecond[:]); minimum < 3 || maximum > 40 {
		t.Errorf("from %d to %d projects a second, want about 17", minimum, maximum)
	}
	if o := offset("customer-1", 0); o != 0 {
		t.Errorf("offset %v without an interval", o)
	}
}
