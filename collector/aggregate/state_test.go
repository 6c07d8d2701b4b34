package aggregate

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

var stateConfig = Config{
	Success: []string{"ok"}, Failure: []string{"error"}, MaxNames: 6,
	DurationBuckets: []float64{0.1, 1, 10}, TokenBuckets: []float64{10, 1000},
}

func randomEvents(rng *rand.Rand, now time.Time) ledger.Events {
	var ev ledger.Events
	ev.Gaps, ev.NoID = uint64(rng.IntN(2)), uint64(rng.IntN(2))
	for range rng.IntN(8) {
		r := ledger.Row{
			Name: fmt.Sprint("name ", rng.IntN(9)), HasStatus: rng.IntN(4) > 0, Status: []string{"ok", "error", "odd"}[rng.IntN(3)],
			Start: now.Add(-time.Minute), End: now, HasDuration: rng.IntN(5) > 0, Duration: time.Duration(rng.Float64() * math.Pow(10, float64(rng.IntN(13)))),
			HasTokens: rng.IntN(5) > 0, Tokens: rng.Int64N(1 << 20),
		}
		r.ID[3] = byte(rng.Uint32())
		if rng.IntN(9) == 0 {
			r.Duration, r.Ref = -r.Duration, "not a uuid"
		}
		ev.FirstSeen = append(ev.FirstSeen, r)
		switch rng.IntN(6) {
		case 0:
			ev.Vanished = append(ev.Vanished, r)
		case 1:
			ev.LateEnds = append(ev.LateEnds, r)
		default:
			ev.Counted = append(ev.Counted, ledger.Counted{Row: r, Abandoned: rng.IntN(7) == 0})
		}
	}
	return ev
}

// Sums that are stored by their changes and restored, at any moment, are the
// same as those that were not.
func TestRestore(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, plain := New(stateConfig, now), New(stateConfig, now)
	stored := State{Names: map[string][]byte{}}
	for step := range 800 {
		now = now.Add(time.Second)
		ev := randomEvents(rng, now)
		for _, one := range []*Set{s, plain} {
			one.Apply(ev, now)
			switch step {
			case 300:
				one.EndInitialSync(now)
			case 500:
				one.ResetDurations(now)
			case 600:
				one.ResetTokens(now)
			}
		}
		if rng.IntN(2) == 0 {
			continue // then the changes add up
		}
		ch := s.Changes()
		for label, b := range ch.Names {
			stored.Names[label] = bytes.Clone(b)
			if b == nil {
				delete(stored.Names, label)
			}
		}
		stored.Project = ch.Project
		if ch.Met != nil {
			stored.Met = ch.Met
		}
		s.Committed()
		if again := s.Changes(); len(again.Names) != 0 || again.Met != nil {
			t.Fatalf("step %d: %v changed after it was saved", step, slices.Collect(maps.Keys(again.Names)))
		}
		if rng.IntN(2) == 0 {
			continue // then it goes on as it is
		}
		var err error
		if s, err = Restore(stateConfig, stored); err != nil {
			t.Fatal(err)
		}
		sameSums(t, step, s, plain)
	}
	if s.places() != stateConfig.MaxNames || s.Overflow == 0 {
		t.Errorf("%d names, %d overflowed", s.places(), s.Overflow)
	}
}

func sameSums(t *testing.T, step int, got, want *Set) {
	t.Helper()
	for i, c := range got.counters() {
		if *c != *want.counters()[i] {
			t.Fatalf("step %d: counter %d is %d, want %d", step, i, *c, *want.counters()[i])
		}
	}
	if got.Distinct() != want.Distinct() || !got.Since.Equal(want.Since) || got.initialSync != want.initialSync || len(got.names) != len(want.names) {
		t.Fatalf("step %d: %d names, want %d", step, len(got.names), len(want.names))
	}
	for label, w := range want.names {
		g := *got.names[label]
		// What only says that something has changed may differ.
		g.Changes, g.saved = w.Changes, w.saved
		if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", *w) { // which takes nil for empty
			t.Fatalf("step %d: %s differs\n%+v\n%+v", step, label, g, *w)
		}
	}
}

// A state of an earlier version may hold times of clients that must not be
// published.
func TestRestoreDropsHostileTimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{time.Date(0, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(1677, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)} {
		s := New(stateConfig, now)
		r := ledger.Row{Name: "a", Start: at, End: at, HasDuration: true, HasTokens: true}
		s.Apply(ledger.Events{FirstSeen: []ledger.Row{r}, Counted: []ledger.Counted{{Row: r}}}, now)
		ch := s.Changes()
		restored, err := Restore(stateConfig, State{Names: ch.Names, Project: ch.Project, Met: ch.Met})
		if err != nil {
			t.Fatal(err)
		}
		n := restored.Find("a")
		if !n.LastEnd.IsZero() || !n.Created.IsZero() {
			t.Errorf("%v: last end %v, created %v", at, n.LastEnd, n.Created)
		}
		for _, h := range []*Histogram{&n.Tokens, &n.ByOutcome[Unknown].Durations} {
			if h.Count != 1 || h.Latest() != (Exemplar{}) {
				t.Errorf("%v: %d values, exemplar %+v", at, h.Count, h.Latest())
			}
		}
	}
}

// Bytes that are not what was stored are an error, never a panic and never
// endless work.
func FuzzRestore(f *testing.F) {
	s := New(stateConfig, time.Unix(1e9, 0))
	s.Apply(randomEvents(rand.New(rand.NewPCG(7, 8)), time.Unix(1e9, 0)), time.Unix(1e9, 0))
	ch := s.Changes()
	for _, b := range ch.Names {
		f.Add(b)
	}
	f.Add(ch.Project)
	f.Add(ch.Met)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, st := range []State{
			{Project: b}, {Project: ch.Project, Met: b}, {Project: ch.Project, Names: map[string][]byte{"x": b}},
		} {
			s, err := Restore(stateConfig, st)
			if (s == nil) == (err == nil) {
				t.Errorf("%v, %v", s, err)
			}
		}
	})
}
