package aggregate

import (
	"fmt"
	"math"
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
	s.Apply(ev, now)
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
		s.Apply(counted(row(name)), now)
	}
	if s.Overflow != 0 {
		t.Errorf("%d overflow before the initial sync ends", s.Overflow)
	}
	s.EndInitialSync(now)
	equal(t, traces(s), map[string]int{"a": 2, "b": 2, "d": 3, Other: 3})
	equal(t, s.Overflow, 3)
	equal(t, s.Distinct(), 5)

	s.Apply(counted(row("new"), row("c"), row("a")), now)
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
		s.Apply(counted(row(name)), now)
	}
	equal(t, traces(s), map[string]int{"z": 2, "y": 1, "x": 1, Other: 2})
	equal(t, s.Overflow, 2)
}

// A trace that is seen and not counted gives its name a place and zeros.
func TestMetOnly(t *testing.T) {
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
		s.Apply(counted(r), now)
	}
	s.EndInitialSync(now)
	for i := range overflow {
		overflow[i].Name = "one"
	}
	want := New(cfg, now)
	want.Apply(counted(overflow...), now)
	a, b := *s.Find("a"), *want.Find("one")
	a.Label, a.Changes, a.seen, b.Label, b.Changes, b.seen = "", 0, 0, "", 0, 0
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

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		status    string
		null      bool
		abandoned bool
		want      Outcome
		unmapped  uint64
	}{
		{status: "success", want: Success},
		{status: "SUCCESS", want: Success},
		{status: "ok", want: Success},
		{status: "Completed", want: Success},
		{status: "error", want: Failure},
		{status: "Failed", want: Failure},
		{status: "failure", want: Failure},
		{status: "cancelled", want: Unknown, unmapped: 1},
		{status: "", want: Unknown, unmapped: 1},
		{null: true, want: Unknown},
		{status: "success", abandoned: true, want: Abandoned},
		{status: "cancelled", abandoned: true, want: Abandoned},
	} {
		r := row("a")
		r.Status, r.HasStatus = c.status, !c.null
		ev := counted(r)
		ev.Counted[0].Abandoned = c.abandoned
		s := summed(testConfig(), ev)
		for _, o := range Outcomes {
			want := uint64(0)
			if o == c.want {
				want = 1
			}
			if got := s.Find("a").ByOutcome[o].Traces; got != want {
				t.Errorf("%+v: %d in %s", c, got, o)
			}
		}
		if s.Unmapped != c.unmapped {
			t.Errorf("%+v: %d unmapped", c, s.Unmapped)
		}
	}
}

func TestDurations(t *testing.T) {
	good, zero, missing, negative := row("a"), row("a"), row("a"), row("a")
	good.Duration = 1_234_567 * time.Microsecond
	zero.Duration = 0
	missing.HasDuration, missing.Duration = false, 0
	negative.Duration = -time.Microsecond
	ev := counted(good, zero, missing, negative, row("a"), row("a"))
	given, lost := &ev.Counted[4], &ev.Counted[5]
	given.Abandoned = true
	lost.Abandoned, lost.HasDuration = true, false
	s := summed(testConfig(), ev)
	n := s.Find("a")
	d := &n.ByOutcome[Success].Durations
	equal(t, []any{n.ByOutcome[Success].Traces, d.Count, d.Sum, d.Zero}, []any{4, 2, 1_234_567, 1})
	equal(t, n.ByOutcome[Abandoned].Durations.Count, 0)
	equal(t, []any{s.NoDuration, s.BadDuration}, []any{1, 1})
}

func TestTokens(t *testing.T) {
	some, none, zero, given := row("a"), row("a"), row("a"), row("a")
	some.Tokens, some.Status = 123, "error"
	none.HasTokens, none.Tokens = false, 0
	zero.Tokens = 0
	ev := counted(some, none, zero, given)
	ev.Counted[3].Abandoned = true
	n := summed(testConfig(), ev).Find("a")
	equal(t, []any{n.ByOutcome[Success].Tokens, n.ByOutcome[Failure].Tokens, n.ByOutcome[Abandoned].Tokens}, []any{0, 123, 20})
	equal(t, []any{n.Tokens.Count, n.Tokens.Sum, n.Tokens.Zero, n.Tokens.Classic}, []any{3, 143, 1, []int{1, 1, 1, 0}})

	some.Tokens = math.MaxInt64 - 1
	n = summed(testConfig(), counted(some, some)).Find("a")
	equal(t, []any{n.ByOutcome[Failure].Tokens, n.Tokens.Sum, n.Tokens.Count}, []any{math.MaxInt64, math.MaxInt64, 2})
}

func TestExemplars(t *testing.T) {
	exemplars := func(r ledger.Row) (duration, tokens Exemplar) {
		n := summed(testConfig(), counted(r)).Find("a")
		return n.ByOutcome[Success].Durations.Exemplars[3], n.Tokens.Exemplars[1]
	}
	r := row("a")
	duration, tokens := exemplars(r)
	equal(t, duration, Exemplar{r.ID.String(), 1, r.End})
	equal(t, tokens, Exemplar{r.ID.String(), 20, r.End})
	for ref, want := range map[string]string{
		"run 7":                  "run 7",
		strings.Repeat("i", 120): strings.Repeat("i", 120),
		strings.Repeat("i", 121): "", // no room for it beside the label's name
		"\xff":                   "",
		"a\x00b":                 "", // OpenMetrics' parser stops there
	} {
		r.Ref = ref
		if duration, tokens = exemplars(r); duration.TraceID != want || tokens.TraceID != want {
			t.Errorf("id %q: exemplars %q and %q, want %q", ref, duration.TraceID, tokens.TraceID, want)
		}
	}
	r.Ref, r.End = "", time.Time{}
	if duration, tokens = exemplars(r); duration.TraceID != "" || tokens.TraceID != "" {
		t.Error("an exemplar without a time")
	}
}

func TestLastEnd(t *testing.T) {
	early, late, open := row("a"), row("a"), row("a")
	early.End, late.End, open.End = now.Add(-2*time.Hour), now.Add(-time.Hour), time.Time{}
	for _, order := range [][]ledger.Row{{early, late, open}, {open, late, early}} {
		equal(t, summed(testConfig(), counted(order...)).Find("a").LastEnd, late.End)
	}
}

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
				s.Apply(counted(r), began)
			}
			s.EndInitialSync(now)
			equal(t, s.Find("a").Created, c.want)

			// It stays, whatever comes later.
			older := row("a")
			older.Start = now.Add(-20 * day)
			s.Apply(counted(older), now.Add(time.Minute))
			s.EndInitialSync(now.Add(time.Hour))
			equal(t, s.Find("a").Created, c.want)
		})
	}
	t.Run("later names", func(t *testing.T) {
		s := summed(testConfig(), ledger.Events{})
		before := now.Add(30 * time.Second)
		s.Apply(ledger.Events{FirstSeen: []ledger.Row{row("a")}}, before)
		s.Apply(counted(row("a"), row("b")), now.Add(time.Minute))
		equal(t, s.Find("a").Created, before)
		equal(t, s.Find("b").Created, now.Add(time.Minute))
	})
	t.Run("overflow", func(t *testing.T) {
		cfg := testConfig()
		cfg.MaxNames = 1
		s := New(cfg, began)
		old := row("b")
		old.Start = now.Add(-3 * day)
		s.Apply(counted(row("a"), row("a"), row("c"), old), began)
		s.EndInitialSync(now)
		equal(t, s.Find("b").Created, old.Start)
	})
}

// Each change of an aggregate shows in Changes, and nothing else does.
func TestChanges(t *testing.T) {
	s := summed(testConfig(), counted(row("a"), row("b")))
	a, b := s.Find("a").Changes, s.Find("b").Changes
	s.Apply(counted(row("a")), now)
	if s.Find("a").Changes == a || s.Find("b").Changes != b {
		t.Error("a change does not show, or one shows where there is none")
	}
}

func TestProjectCounters(t *testing.T) {
	s := summed(testConfig(), ledger.Events{Gaps: 2, NoID: 3})
	s.Apply(ledger.Events{Gaps: 1, NoID: 1, Vanished: []ledger.Row{row("a")}}, now)
	equal(t, []any{s.Gaps, s.NoID, s.VanishedOpen, s.LateEnds}, []any{3, 4, 1, 0})
}

// If the initial sync counts only some traces, a name was created when the first
// of these started, or are 0 now.
func TestCreatedOfPartialInitialSync(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := New(Config{MaxNames: 10, Partial: true}, now)
	old := ledger.Row{Name: "a", Start: now.Add(-48 * time.Hour)}
	young := ledger.Row{Name: "a", Start: now.Add(-time.Hour)}
	none := ledger.Row{Name: "b", Start: now.Add(-48 * time.Hour)}
	s.Apply(ledger.Events{FirstSeen: []ledger.Row{old, young, none}, Counted: []ledger.Counted{{Row: young}}}, now)
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

// What starts zero-first is exposed at 0, with its times, until that has been read.
func TestZeroPending(t *testing.T) {
	shown := func(n *Aggregate) [3]uint64 {
		n = n.Exposed()
		return [3]uint64{n.ByOutcome[Success].Traces, n.ByOutcome[Success].Durations.Count, n.Tokens.Count}
	}
	s := New(testConfig(), now)
	s.Apply(counted(row("old")), now)
	s.ResetDurations(now)
	s.EndInitialSync(now)
	s.Apply(counted(row("old"), row("new")), now)
	old, late := s.Find("old"), s.Find("new")
	if old.IsZeroPending() || !late.IsZeroPending() || !late.Exposed().Created.Equal(now) || !late.Exposed().LastEnd.IsZero() {
		t.Errorf("zero pending: %v, %v", old.IsZeroPending(), late.IsZeroPending())
	}
	equal(t, [2]any{shown(old), shown(late)}, [2]any{[3]uint64{2, 1, 2}, [3]uint64{}})
	before := late.Changes
	late.EndZero()
	equal(t, shown(late), [3]uint64{1, 1, 1})
	if late.IsZeroPending() || late.Changes == before {
		t.Error("its release is no change")
	}

	s.ResetDurations(now)
	s.Apply(counted(row("old")), now)
	equal(t, shown(old), [3]uint64{3, 0, 3})
	s.ResetTokens(now)
	s.Apply(counted(row("old")), now)
	equal(t, shown(old), [3]uint64{4, 0, 0})
	old.EndZero()
	equal(t, shown(old), [3]uint64{4, 2, 1})
}
