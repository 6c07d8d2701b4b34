package aggregate

import (
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

// A series was 0 when the oldest trace of its name began; a start that can't be
// is moved to where it does no harm.
func TestCreated(t *testing.T) {
	const day = 24 * time.Hour
	began := now.Add(-time.Minute)
	for what, c := range map[string]struct {
		starts []time.Time
		want   time.Time
	}{
		"the oldest":                 {[]time.Time{now.Add(-2 * day), now.Add(-5 * day), now.Add(-day)}, now.Add(-5 * day)},
		"in the future":              {[]time.Time{now.Add(day)}, now},
		"future and past":            {[]time.Time{now.Add(day), now.Add(-day)}, now.Add(-day)},
		"before anything was kept":   {[]time.Time{now.Add(-2000 * day), now.Add(-day)}, now.Add(-31 * day)},
		"without a start":            {[]time.Time{{}}, now.Add(-31 * day)},
		"with and without a start":   {[]time.Time{{}, now.Add(-2 * day)}, now.Add(-2 * day)},
		"one that ended just before": {[]time.Time{now.Add(-time.Second)}, now.Add(-time.Second)},
	} {
		t.Run(what, func(t *testing.T) {
			s := New(testConfig(), began)
			for _, start := range c.starts {
				r := row("a")
				r.Start = start
				s.Apply(counted(r), began, began)
			}
			s.EndInitialSync(now)
			equal(t, s.Find("a").Created, c.want)

			// It stays, whatever comes later.
			older := row("a")
			older.Start = now.Add(-20 * day)
			s.Apply(counted(older), now.Add(time.Minute), now.Add(time.Minute))
			s.EndInitialSync(now.Add(time.Hour))
			equal(t, s.Find("a").Created, c.want)
		})
	}
	t.Run("later names", func(t *testing.T) {
		s := summed(testConfig(), ledger.Events{})
		before := now.Add(30 * time.Second)
		s.Apply(ledger.Events{FirstSeen: []ledger.Row{row("a")}}, before, before)
		s.Apply(counted(row("a"), row("b")), now.Add(time.Minute), now.Add(time.Minute))
		equal(t, s.Find("a").Created, before)
		equal(t, s.Find("b").Created, now.Add(time.Minute))
	})
	t.Run("overflow", func(t *testing.T) {
		cfg := testConfig()
		cfg.MaxNames = 1
		s := New(cfg, began)
		old := row("b")
		old.Start = now.Add(-3 * day)
		s.Apply(counted(row("a"), row("a"), row("c"), old), began, began)
		s.EndInitialSync(now)
		equal(t, s.Find("b").Created, old.Start)
	})
}

// If the initial sync counts only some traces, a name was created when the first
// of these started, or are 0 now.
func TestCreatedOfPartialInitialSync(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := New(Config{MaxNames: 10, Partial: true}, now)
	old := ledger.Row{Name: "a", Start: now.Add(-48 * time.Hour)}
	young := ledger.Row{Name: "a", Start: now.Add(-time.Hour)}
	none := ledger.Row{Name: "b", Start: now.Add(-48 * time.Hour)}
	s.Apply(ledger.Events{FirstSeen: []ledger.Row{old, young, none}, Counted: []ledger.Counted{{Row: young}}}, now, now)
	s.EndInitialSync(now)
	for _, c := range []struct {
		name string
		want time.Time
	}{{"a", young.Start}, {"b", now}} {
		if got := s.Find(c.name).Created; !got.Equal(c.want) {
			t.Errorf("%s was created at %s, want %s", c.name, got, c.want)
		}
	}
}
