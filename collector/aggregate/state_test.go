package aggregate

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
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
	stored := map[string][]byte{}
	for step := range 800 {
		now = now.Add(time.Second)
		ev := randomEvents(rng, now)
		for _, one := range []*Set{s, plain} {
			one.Apply(ev, now, now)
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
		save(s, stored)
		s.Changes(func(key string, _ []byte) {
			if key != keyProject {
				t.Fatalf("step %d: %s changed after it was saved", step, key)
			}
		})
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

// save adds what has changed in a set to what is stored of it.
func save(s *Set, stored map[string][]byte) {
	s.Changes(func(key string, body []byte) {
		if stored[key] = bytes.Clone(body); body == nil {
			delete(stored, key)
		}
	})
	s.Committed()
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
	if g, w := exposedStatuses(got), exposedStatuses(want); !maps.Equal(g, w) {
		t.Fatalf("step %d: statuses %v, want %v", step, g, w)
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

// Bytes that are not what was stored are an error, never a panic and never
// endless work.
func FuzzRestore(f *testing.F) {
	began, cfg := time.Unix(1e9, 0), stateConfig
	cfg.Costs = true
	s, rng := New(cfg, began), rand.New(rand.NewPCG(7, 8))
	s.Apply(randomEvents(rng, began), began, began)
	s.EndInitialSync(began)
	s.Apply(randomEvents(rng, began), began, began)
	stored := map[string][]byte{}
	save(s, stored)
	for key, b := range stored {
		f.Add(key, b)
		f.Add(key, b[:len(b)/2])
		f.Add(key, []byte("\xff\xff\xff\xff\xff\x7f")) // very many values follow
	}
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		entries := maps.Clone(stored)
		entries[key] = b
		s, err := Restore(cfg, entries)
		if (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
		if err == nil && s.CheckBuckets() == nil {
			s.ApplyCosts(nil, began.Add(time.Minute))
			s.Changes(func(string, []byte) {})
		}
	})
}
