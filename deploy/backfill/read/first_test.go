package read

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/backfill/server"
	"opper_exporter/opper/oppertest"
)

// count makes an exporter that goes on from a state count all that has ended.
func (b *bench) count(dir string) {
	b.t.Helper()
	state, err := store.Open(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := collector.New(b.projects("--collector.settle-delay=0s"), collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Store: state})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmp.Or(c.ReadOnce(b.t.Context()), state.Close()); err != nil {
		b.t.Fatal(err)
	}
}

// With the first scrape of a server, the history ends with that, whatever has been counted,
// deleted or changed since: it has the events that were counted then.
func TestHistoryEndsWithTheFirstScrape(t *testing.T) {
	b := newBench(t)
	b.fill(2_000, 5)
	add := func(id, name string, ago time.Duration) {
		end := b.began.Add(-ago)
		b.opper.Add(oppertest.Trace{ID: id, Name: &name, Start: &end, End: &end, Status: new("success"), Tokens: new(int64(5))})
	}
	add("in time", "one clock is slow", 40*time.Second)
	made, dir := b.read("")
	first := server.First{At: b.began, Exposed: made.Projects[0].Now}

	// It had ended before the latest that was counted, and was listed after that.
	add("slow clock", "one clock is slow", 50*time.Second)
	for i := range 100 {
		add(fmt.Sprint("live ", i), "agent-00", time.Duration(-i)*time.Millisecond)
		add(fmt.Sprint("of a new name ", i), "new", time.Duration(-i)*time.Millisecond)
	}
	b.count(dir)
	for i := range 60 {
		b.opper.Delete(fmt.Sprint("live ", i))
		b.opper.Update(fmt.Sprint("of a new name ", i), func(tr *oppertest.Trace) { tr.Name, tr.Status = new("agent-01"), new("error") })
	}
	later, _ := b.read(dir)
	if maps.Equal(traceValues(later.Projects[0].Now), traceValues(first.Exposed)) {
		t.Fatal("nothing was counted")
	}
	got, err := Run(t.Context(), Config{
		Projects: b.projects(), State: dir, Directory: t.TempDir(), Logger: log.NewNopLogger(), Progress: func(int, int) {},
		First: map[string]server.First{"default": first},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Projects[0]; !maps.Equal(traceValues(p.Now), traceValues(first.Exposed)) {
		t.Error("the history does not end with the first scrape")
	}
	// One of two traces was counted: which one cannot be known.
	events, want := eventsOf(got.Projects[0]), eventsOf(made.Projects[0])
	for _, all := range [][]event{events, want} {
		for i := range all {
			if all[i].name == "one clock is slow" {
				all[i].end = 0
			}
		}
	}
	b.same(events, want)

	_, err = Run(t.Context(), Config{
		Projects: b.projects(), State: dir, Directory: t.TempDir(), Logger: log.NewNopLogger(), Progress: func(int, int) {},
		First: map[string]server.First{"another": first},
	})
	if want := `project "default": --from-server has no series of it with these labels`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}
