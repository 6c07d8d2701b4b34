package syncer

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// All traces of a small project began within one interval, a while ago: that
// does not make the list of another project ours, once the key goes there.
func TestForeignListOfSmallOldProject(t *testing.T) {
	for _, age := range []time.Duration{2 * time.Minute, 61 * time.Minute, 3 * time.Hour, 3 * 24 * time.Hour} {
		for _, ours := range []int{1, 5, 40, 150} {
			for _, theirs := range []int{1, 40, 150, 400} {
				t.Run(fmt.Sprintf("%d of %v ago against %d", ours, age, theirs), func(t *testing.T) {
					b := newBench(t, oppertest.Config{})
					b.arrive("ours", ours, 100*time.Millisecond)
					b.mustSync()
					for end := b.now().Add(age); b.now().Before(end); {
						b.step(age / 10)
						b.mustSync()
						b.sweep(10)
					}
					counted, listed := len(b.counted), b.ledger.Listed()
					other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
					other.FillHistory(theirs, 3, b.now().Add(-2*time.Hour), b.now())
					b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
					for range 4 {
						b.step(settle + time.Second)
						if err := b.sync(); !errors.Is(err, errForeign) {
							t.Errorf("error %v", err)
						}
					}
					if len(b.counted) != counted || b.ledger.Listed() != listed {
						t.Fatalf("counted %d more, %d listed", len(b.counted)-counted, b.ledger.Listed())
					}
					b.opper.Clear()
					b.mustSync()
					b.quiet()
					b.check()
				})
			}
		}
	}
}

// Pages of another upstream, and then pages of ours behind them: none of their rows is taken
// in, wherever in our list the next page begins.
func TestForeignPagesBeforeOurs(t *testing.T) {
	for _, ours := range []int{250, 450, 700} {
		for pages := 1; pages <= 6; pages++ {
			t.Run(fmt.Sprintf("%d pages before %d rows", pages, ours), func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				b.arrive("ours", ours, 100*time.Millisecond)
				b.mustSync()
				b.quiet()
				other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
				other.FillHistory(2000, 3, b.now().Add(-2*time.Hour), b.now())
				b.opper.Fail(oppertest.Fault{Times: pages, Answer: oppertest.OtherProject(other)})
				_ = b.sync() // it may fail
				for _, theirs := range other.Snapshot() {
					if b.ledger.HasSeen(ledger.KeyOf(theirs.ID)) {
						t.Fatal("a row of another upstream is taken in")
					}
				}
				b.opper.Clear()
				b.mustSync()
				b.quiet()
				b.check()
			})
		}
	}
}

// Nor is any where another upstream answers from some page of a burst on, also one of which
// a sync takes in a part.
func TestForeignPagesBehindOurs(t *testing.T) {
	for _, taken := range []int{0, 250} {
		for _, noGet := range []int{0, 405} {
			for _, rows := range []int{3, 2000} {
				t.Run(fmt.Sprintf("%d taken/%d/%d rows", taken, noGet, rows), func(t *testing.T) {
					for after := 1; after <= 16; after++ {
						b := newBench(t, oppertest.Config{NoGet: noGet})
						b.syncer.cfg.MaxTaken = cmp.Or(taken, maxUntied)
						b.arrive("ours", 150, 100*time.Millisecond)
						b.mustSync()
						b.quiet()
						b.arrive("burst", 800, time.Millisecond)
						b.step(time.Second)
						other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
						other.FillHistory(rows, 3, b.now().Add(-2*time.Hour), b.now())
						b.opper.Fail(oppertest.Fault{After: after, Times: -1, Answer: oppertest.OtherProject(other)})
						_ = b.sync() // it may fail
						for _, theirs := range other.Snapshot() {
							if b.ledger.HasSeen(ledger.KeyOf(theirs.ID)) {
								t.Fatalf("after %d requests: a row of another upstream is taken in", after)
							}
						}
						b.opper.Clear()
						b.mustSync()
						b.quiet()
						b.check()
					}
				})
			}
		}
	}
}

// The time for which the process stands still while it reads another upstream says
// nothing about what the list held when its start was read.
func TestForeignListBeforePause(t *testing.T) {
	for _, noGet := range []int{0, http.StatusMethodNotAllowed} {
		b := newBench(t, oppertest.Config{NoGet: noGet})
		b.arrive("ours", 150, 100*time.Millisecond)
		b.mustSync()
		b.quiet()
		b.step(time.Minute)
		counted := len(b.counted)
		paused := false
		src := &wrongLists{inner: b.client.WithRetries(0), list: func(_, offset, limit int) opper.Page {
			if offset > 100 && !paused {
				paused = true
				b.step(12 * time.Hour)
			}
			var rows []oppertest.Trace
			for i := offset; i < min(offset+limit, 250); i++ {
				rows = append(rows, endedTrace(fmt.Sprint("theirs ", i), b.now().Add(-time.Second)))
			}
			return pageOf(rows, 250, true)
		}}
		ev, err := syncAll(t.Context(), b.syncer, src)
		b.take(ev)
		if !errors.Is(err, errForeign) || !paused {
			t.Errorf("single traces %d: error %v, paused: %t", noGet, err, paused)
		}
		if got := b.ledger.Listed(); got != 150 || len(b.counted) != counted {
			t.Errorf("single traces %d: %d listed, %d counted", noGet, got, len(b.counted)-counted)
		}
	}
}

// A row without an id and a start is the same in each project.
func TestRowWithoutIDTiesNoList(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("ours", 10, time.Second)
	withoutID := oppertest.Trace{End: new(b.now())}
	b.opper.Add(withoutID)
	b.mustSync()
	b.quiet()
	listed := b.ledger.Listed()
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(30, 3, b.now().Add(-time.Hour), b.now())
	other.Add(withoutID)
	b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
	b.step(sweepEvery)
	for range 3 {
		ev, err := b.syncer.Sweep(t.Context(), b.client.WithRetries(0))
		b.take(ev)
		if err == nil || b.ledger.Listed() != listed {
			t.Fatalf("error %v, %d listed, want %d", err, b.ledger.Listed(), listed)
		}
	}
}

// Rows without an id say nothing about whose list they are of: the error says what is
// wrong with them.
func TestNoRowHasAnID(t *testing.T) {
	for _, unproven := range []bool{false, true} {
		b := newBench(t, oppertest.Config{})
		b.arrive("ours", 30, time.Second)
		b.mustSync()
		b.syncer.unproven = unproven
		other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
		for range 150 {
			tr := endedTrace("without an id", b.now())
			tr.ID = ""
			other.Add(tr)
		}
		b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other), Match: func(r oppertest.Request) bool { return r.ID == "" }})
		b.step(time.Minute)
		if err := b.sync(); !errors.Is(err, errNoIDs) || b.ledger.Listed() != 30 {
			t.Errorf("unproven %t: error %v, %d listed", unproven, err, b.ledger.Listed())
		}
	}
}

// A list that may be another one is ours only if one of its rows is known:
// neither expiry nor an empty list shows it.
func TestUnprovenList(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bench)
		want   error
	}{
		"same list":               {func(*bench) {}, nil},
		"same list with many new": {func(b *bench) { b.arrive("new", 350, time.Second) }, nil},
		"all expired":             {func(b *bench) { deleteAll(b); b.step(32 * 24 * time.Hour); b.arrive("new", 30, time.Second) }, ErrOtherUpstream},
		"empty list":              {deleteAll, ErrOtherUpstream},
		"another upstream": {func(b *bench) {
			other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
			other.FillHistory(250, 3, b.now().Add(-2*time.Hour), b.now())
			b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
		}, ErrOtherUpstream},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.arrive("ours", 150, time.Second)
			b.mustSync()
			b.quiet()
			counted := len(b.counted)
			b.syncer.unproven = true
			c.change(b)
			for range 2 {
				if err := b.sync(); !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			}
			if b.syncer.unproven != (c.want != nil) || c.want != nil && (len(b.counted) != counted || b.ledger.Listed() != 150) {
				t.Errorf("unproven %v, %d counted, %d listed", b.syncer.unproven, len(b.counted)-counted, b.ledger.Listed())
			}
			if c.want == nil {
				b.quiet()
				b.check()
			}
		})
	}
}

func deleteAll(b *bench) {
	for _, trace := range b.opper.Snapshot() {
		b.opper.Delete(trace.ID)
	}
}
