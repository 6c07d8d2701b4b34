package aggregate

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testConfig() Config {
	return Config{
		Success: []string{"success", "ok", "completed"}, Failure: []string{"error", "failed", "failure"},
		MaxNames: 200, DurationBuckets: someBounds, TokenBuckets: []float64{16, 64, 256},
	}
}

var rows int

// row returns a trace of its own that ended well.
func row(name string) ledger.Row {
	rows++
	return ledger.Row{
		ID: ledger.KeyOf(fmt.Sprint(rows)), Name: name, Status: "success", HasStatus: true,
		Start: now.Add(-time.Hour), End: now.Add(-time.Hour + time.Second), Duration: time.Second, HasDuration: true,
		Tokens: 20, HasTokens: true,
	}
}

// counted are the events of traces that are seen and counted at once.
func counted(rows ...ledger.Row) (ev ledger.Events) {
	for _, r := range rows {
		ev.FirstSeen = append(ev.FirstSeen, r)
		ev.Counted = append(ev.Counted, ledger.Counted{Row: r})
	}
	return ev
}

// summed is a Set of some traces, seen after the initial sync.
func summed(cfg Config, ev ledger.Events) *Set {
	s := New(cfg, now)
	s.EndInitialSync(now)
	s.Apply(ev, now, now)
	return s
}

// traces returns how many traces each label has.
func traces(s *Set) map[string]int {
	out := map[string]int{}
	for _, n := range s.All() {
		out[n.Label] = 0
		for _, t := range n.ByOutcome {
			out[n.Label] += int(t.Traces)
		}
	}
	return out
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

// The names with most traces get the places, ties by name; later ones come as
// they arrive. What is known and what overflows are all.
func TestPlaces(t *testing.T) {
	cfg := testConfig()
	cfg.MaxNames = 3
	s := New(cfg, now)
	for name := range strings.SplitSeq("d d d b b c c a a e", " ") {
		s.Apply(counted(row(name)), now, now)
	}
	if s.Overflow != 0 {
		t.Errorf("%d overflow before the initial sync ends", s.Overflow)
	}
	s.EndInitialSync(now)
	equal(t, traces(s), map[string]int{"a": 2, "b": 2, "d": 3, Other: 3})
	equal(t, s.Overflow, 3)
	equal(t, s.Distinct(), 5)

	s.Apply(counted(row("new"), row("c"), row("a")), now, now)
	equal(t, traces(s), map[string]int{"a": 3, "b": 2, "d": 3, Other: 5})
	equal(t, s.Overflow, 5)
	equal(t, s.Distinct(), 6)
	if s.Find("c").Label != Other || s.Find("a").Label != "a" {
		t.Error("a name is not found where it is counted")
	}

	s = summed(cfg, ledger.Events{})
	if s.Find("z") != nil {
		t.Error("a name without an aggregate is found")
	}
	for name := range strings.SplitSeq("z y x w z v", " ") {
		s.Apply(counted(row(name)), now, now)
	}
	equal(t, traces(s), map[string]int{"z": 2, "y": 1, "x": 1, Other: 2})
	equal(t, s.Overflow, 2)
}

// A trace that is seen and not counted gives its name a place and zeros.
func TestNamesWithoutCountsGetPlaces(t *testing.T) {
	s := summed(testConfig(), ledger.Events{FirstSeen: []ledger.Row{row("a")}})
	equal(t, traces(s), map[string]int{"a": 0})
	equal(t, s.Distinct(), 1)

	cfg := testConfig()
	cfg.Exclude = regexp.MustCompile("^b$")
	s = summed(cfg, ledger.Events{})
	s.Ensure("a", now.Add(time.Second))
	s.Ensure("a", now.Add(time.Minute))
	s.Ensure("b", now)
	equal(t, traces(s), map[string]int{"a": 0})
	equal(t, s.Find("a").Created, now.Add(time.Second))
}

// Whatever is put together as the overflow at the end of the initial sync is what
// it would be if it had been counted there at once.
func TestOverflowSums(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	cfg := testConfig()
	cfg.MaxNames = 1
	s := New(cfg, now)
	var overflow []ledger.Row
	for i := range 2000 {
		r := row([]string{"most", "most", "a", "b", "c"}[rng.IntN(5)])
		r.Tokens = rng.Int64N(10_000)
		r.Duration = time.Duration(rng.IntN(1e6)) * time.Millisecond
		r.Status = []string{"success", "error", "?"}[rng.IntN(3)]
		r.End = now.Add(time.Duration(i) * time.Second)
		if r.Name != "most" {
			overflow = append(overflow, r)
		}
		s.Apply(counted(r), now, now)
	}
	s.EndInitialSync(now)
	for i := range overflow {
		overflow[i].Name = "one"
	}
	want := New(cfg, now)
	want.Apply(counted(overflow...), now, now)
	a, b := *s.Find("a"), *want.Find("one")
	a.Label, a.Changes, a.seen, b.Label, b.Changes, b.seen = "", 0, 0, "", 0, 0
	b.raws, b.latest, b.latestAt = a.raws, a.latest, a.latestAt
	b.Created = a.Created
	equal(t, a, b)
	equal(t, s.Overflow, len(overflow))
}

func TestIncludeExclude(t *testing.T) {
	names := []string{"agent-1", "agent-2", "test-agent", "", "(unnamed)"}
	for _, c := range []struct {
		include, exclude string
		want             []string
	}{
		{"", "", []string{"agent-1", "agent-2", "test-agent", Unnamed, `\` + Unnamed}},
		{"agent-.*", "", []string{"agent-1", "agent-2"}},
		{"", "agent-.*", []string{"test-agent", Unnamed, `\` + Unnamed}},
		{"agent-.*", ".*2", []string{"agent-1"}},
		{".unnamed.", "", []string{Unnamed, `\` + Unnamed}},
	} {
		cfg := testConfig()
		compile := func(s string) *regexp.Regexp {
			if s == "" {
				return nil
			}
			return regexp.MustCompile("^(?:" + s + ")$")
		}
		cfg.Include, cfg.Exclude = compile(c.include), compile(c.exclude)
		var rows []ledger.Row
		for _, name := range names {
			rows = append(rows, row(name))
		}
		ev := counted(rows...)
		ev.Vanished, ev.LateEnds = rows, rows
		s := summed(cfg, ev)
		want := map[string]int{}
		for _, name := range c.want {
			want[name] = 1
		}
		equal(t, traces(s), want)
		equal(t, []any{s.VanishedOpen, s.LateEnds, s.Distinct()}, []any{len(want), len(want), len(want)})
	}
}

// Each change of an aggregate shows in Changes, and nothing else does.
func TestChanges(t *testing.T) {
	s := summed(testConfig(), counted(row("a"), row("b")))
	a, b := s.Find("a").Changes, s.Find("b").Changes
	s.Apply(counted(row("a")), now, now)
	if s.Find("a").Changes == a || s.Find("b").Changes != b {
		t.Error("a change does not show, or one shows where there is none")
	}
}

func TestProjectCounters(t *testing.T) {
	s := summed(testConfig(), ledger.Events{Gaps: 2, NoID: 3})
	s.Apply(ledger.Events{Gaps: 1, NoID: 1, Vanished: []ledger.Row{row("a")}}, now, now)
	equal(t, []any{s.Gaps, s.NoID, s.VanishedOpen, s.LateEnds}, []any{3, 4, 1, 0})
}
