package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

func costsConfig() Config {
	cfg := testConfig()
	cfg.Costs = true
	return cfg
}

// waitingFor is a Set in which some traces wait for their cost.
func waitingFor(rows ...ledger.Row) *Set { return summed(costsConfig(), counted(rows...)) }

// costsOf are the numbers of costs under a name, and those of the project.
func costsOf(s *Set, name string) string {
	n := s.Find(name)
	return fmt.Sprintf("%d cost %d and %d+%d tokens, %d wait, %d unknown",
		n.Costs.Count, n.Costs.Sum, n.InputTokens, n.OutputTokens, s.waiting.traces, s.CostsUnknown)
}

// A cost is final at the second read that says the same, or 15 minutes after the count; without one
// it is unknown then.
func TestCostIsFinal(t *testing.T) {
	const none, waits = "0 cost 0 and 0+0 tokens, 1 wait, 0 unknown", "0 cost 0 and 0+0 tokens, 1 wait, 0 unknown"
	const unknown, five = "0 cost 0 and 0+0 tokens, 0 wait, 1 unknown", "1 cost 5 and 2+3 tokens, 0 wait, 0 unknown"
	type read struct {
		after time.Duration
		cost  int64 // negative if there is none
		want  string
	}
	for what, reads := range map[string][]read{
		"two say the same":      {{time.Second, 5, waits}, {time.Minute, 5, five}, {time.Hour, 7, five}},
		"it grows":              {{time.Second, 3, waits}, {time.Minute, 4, waits}, {2 * time.Minute, 5, waits}, {3 * time.Minute, 5, five}},
		"it comes late":         {{time.Second, -1, none}, {10 * time.Minute, -1, none}, {14*time.Minute + 59*time.Second, 5, waits}, {15 * time.Minute, 5, five}},
		"it still grows":        {{time.Second, 3, waits}, {14 * time.Minute, 4, waits}, {15 * time.Minute, 5, five}},
		"first read after":      {{2 * time.Hour, 5, five}},
		"none":                  {{time.Second, -1, none}, {15*time.Minute - 1, -1, none}, {15 * time.Minute, -1, unknown}, {time.Hour, 5, unknown}},
		"none, not read before": {{15 * time.Minute, -1, unknown}},
		"it goes between":       {{time.Second, 5, waits}, {time.Minute, -1, waits}, {2 * time.Minute, 5, waits}, {3 * time.Minute, 5, five}},
	} {
		r := row("a")
		s := waitingFor(r)
		for _, read := range reads {
			costs := map[ledger.ID]TraceCost{ledger.KeyOf("another"): {Cost: 99}}
			if read.cost >= 0 {
				costs[r.ID] = TraceCost{Cost: read.cost, InputTokens: 2, OutputTokens: 3}
			}
			s.ApplyCosts(costs, now.Add(read.after))
			if got := costsOf(s, "a"); got != read.want {
				t.Errorf("%s, after %v: %s, want %s", what, read.after, got, read.want)
			}
		}
	}
}

// The tokens of a cost that stands still may not.
func TestTokensMustStandStill(t *testing.T) {
	r := row("a")
	s := waitingFor(r)
	for _, c := range []struct {
		tokens int64
		want   string
	}{{1, "0 cost 0 and 0+0 tokens, 1 wait, 0 unknown"}, {2, "0 cost 0 and 0+0 tokens, 1 wait, 0 unknown"}, {2, "1 cost 7 and 0+2 tokens, 0 wait, 0 unknown"}} {
		s.ApplyCosts(map[ledger.ID]TraceCost{r.ID: {Cost: 7, OutputTokens: c.tokens}}, now)
		equal(t, costsOf(s, "a"), c.want)
	}
}

// final makes the cost of a trace final.
func final(s *Set, r ledger.Row, cost TraceCost) {
	for range 2 {
		s.ApplyCosts(map[ledger.ID]TraceCost{r.ID: cost}, now)
	}
}

func TestCostIsCountedAsItsTraceWas(t *testing.T) {
	r, negative := row("a"), row("a")
	r.Status = "error"
	s := waitingFor(r, negative)
	s.Apply(counted(row("b")), now, now)
	final(s, r, TraceCost{Cost: 30_000_000, InputTokens: 7, OutputTokens: 8})
	n := s.Find("a")
	equal(t, []any{n.ByOutcome[Failure].Cost, n.ByOutcome[Success].Cost, s.Find("b").Costs.Count}, []any{30_000_000, 0, 0})
	equal(t, []any{n.Costs.Classic, n.Costs.Sum, len(n.Costs.Positive)}, []any{[]int{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 30_000_000, 1})
	equal(t, exemplarOf(&n.Costs, 5), NewExemplar(r.ID.String(), 0.03, r.End))

	final(s, negative, TraceCost{Cost: -5, InputTokens: -6, OutputTokens: -7})
	equal(t, costsOf(s, "a"), "2 cost 30000000 and 7+8 tokens, 1 wait, 0 unknown")
	equal(t, []any{n.ByOutcome[Success].Cost, n.Costs.Zero}, []any{0, 1})
}

// What the initial sync counts is history, also where it is deferred, and so is what is
// counted while costs are off.
func TestCostsOfHistoryAreUnknown(t *testing.T) {
	s := New(costsConfig(), now)
	s.Apply(counted(row("a"), row("b")), now, now)
	equal(t, []any{s.CostsUnknown, s.waiting.traces}, []any{2, 0})
	s.EndInitialSync(now)
	s.Apply(counted(row("a")), now, now)
	equal(t, []any{s.CostsUnknown, s.waiting.traces}, []any{2, 1})
	equal(t, []any{summed(testConfig(), counted(row("a"))).CostsUnknown}, []any{1})

	cfg := costsConfig()
	cfg.MaxNames = 1
	s = New(cfg, now)
	for i := range maxInitialNames + 10 {
		s.Apply(counted(row(fmt.Sprint(i))), now, now)
	}
	s.EndInitialSync(now)
	equal(t, []any{s.CostsUnknown, s.Overflow}, []any{maxInitialNames + 10, maxInitialNames + 9})
	s.Apply(counted(row("more")), now, now)
	final(s, ledger.Row{ID: ledger.KeyOf(fmt.Sprint(rows))}, TraceCost{Cost: 3})
	equal(t, s.names[Other].Costs.Sum, 3)
}

func TestAbandonCosts(t *testing.T) {
	s := waitingFor(row("a"))
	s.Apply(counted(row("a")), now, now.Add(time.Minute))
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{costDelay - time.Second, "0 cost 0 and 0+0 tokens, 2 wait, 0 unknown"},
		{costDelay, "0 cost 0 and 0+0 tokens, 1 wait, 1 unknown"},
		{costDelay + time.Minute, "0 cost 0 and 0+0 tokens, 0 wait, 2 unknown"},
	} {
		s.AbandonCosts(now.Add(c.after))
		equal(t, costsOf(s, "a"), c.want)
	}
}

func TestWaitingSince(t *testing.T) {
	early, late, old, undated := row("a"), row("a"), row("a"), row("a")
	early.Start, late.Start, old.Start, undated.Start = now.Add(-3*time.Hour), now.Add(-time.Hour), now.Add(-100*time.Hour), time.Time{}
	for _, c := range []struct {
		rows []ledger.Row
		want time.Time
	}{
		{nil, time.Time{}},
		{[]ledger.Row{late, early}, early.Start},
		{[]ledger.Row{late, old}, late.Start},
		{[]ledger.Row{undated, late}, now.Add(-maxCostAge)},
	} {
		s := waitingFor(c.rows...)
		if from, ok := s.WaitingSince(); !from.Equal(c.want) || ok != (c.rows != nil) {
			t.Errorf("waiting since %v, %t, want %v", from, ok, c.want)
		}
	}
	// Only a part of what this one cost would be read.
	if s := waitingFor(old); s.CostsWaiting() != 0 || s.CostsUnknown != 1 {
		t.Errorf("of a trace that began long ago, %d wait and %d are unknown", s.CostsWaiting(), s.CostsUnknown)
	}
	s := waitingFor(early, late)
	final(s, early, TraceCost{})
	if from, _ := s.WaitingSince(); !from.Equal(late.Start) {
		t.Errorf("waiting since %v, want %v", from, late.Start)
	}
}

// The cost of a trace whose name is gone is unknown, also if another aggregate or the same
// one has the name later.
func TestCostsOfNamesThatAreGone(t *testing.T) {
	cfg := costsConfig()
	cfg.NameExpiry = time.Minute
	for what, again := range map[string]func(s *Set){
		"removed":     func(s *Set) { s.Remove("a"); s.Committed() },
		"taken again": func(s *Set) { s.Remove("a"); s.Ensure("a", now) },
		"revived": func(s *Set) {
			s.names["a"].EndZero()
			s.Expire(now, listing{})
			equal(t, s.Expire(now.Add(time.Hour), listing{}), []string{"a"})
			s.Ensure("a", now)
		},
	} {
		gone := row("a")
		s := summed(cfg, counted(gone))
		again(s)
		s.Apply(counted(row("b")), now, now)
		final(s, gone, TraceCost{Cost: 5})
		equal(t, []any{what, s.CostsUnknown, s.waiting.traces}, []any{what, 1, 1})
		if n := s.names["a"]; n != nil && n.Costs.Count != 0 {
			t.Errorf("%s: the cost of an earlier trace is counted", what)
		}
	}
}

// A name does not expire before a cost that has become final can be read.
func TestFinalCostKeepsItsName(t *testing.T) {
	cfg := costsConfig()
	cfg.NameExpiry = time.Hour
	late := row("a")
	s := summed(cfg, counted(late))
	s.names["a"].EndZero()
	s.Expire(now, listing{})
	s.ApplyCosts(map[ledger.ID]TraceCost{late.ID: {Cost: 5}}, now.Add(time.Hour))
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{{time.Hour, nil}, {2*time.Hour - 1, nil}, {2 * time.Hour, []string{"a"}}} {
		equal(t, s.Expire(now.Add(c.after), listing{}), c.want)
	}
}

// The oldest traces no longer wait if too many do.
func TestMaxWaiting(t *testing.T) {
	first, second, last := row("a"), row("a"), row("a")
	s := waitingFor(first, second)
	var ev ledger.Events
	for i := range maxWaiting - 2 {
		r := ledger.Counted{Row: ledger.Row{Name: "a"}}
		r.ID[0], r.ID[1], r.ID[2], r.ID[15] = byte(i), byte(i>>8), byte(i>>16), 1
		ev.Counted = append(ev.Counted, r)
	}
	s.Apply(ev, now, now.Add(time.Second))
	equal(t, []any{s.waiting.traces, s.CostsUnknown}, []any{maxWaiting, 0})
	s.Apply(counted(last), now, now.Add(2*time.Second))
	equal(t, []any{s.waiting.traces, s.CostsUnknown}, []any{maxWaiting, 1})
	for i, r := range []ledger.Row{first, second, last} {
		final(s, r, TraceCost{Cost: 1 << i})
	}
	equal(t, costsOf(s, "a"), fmt.Sprintf("2 cost 6 and 0+0 tokens, %d wait, 1 unknown", maxWaiting-2))
}

// A batch is written when its traces are counted and when some have left it, not when a
// value was read.
func TestBatchesAreWrittenOnce(t *testing.T) {
	a, b, c := row("a"), row("a"), row("a")
	s := waitingFor(a, b)
	stored := map[string][]byte{}
	commit := func(want ...string) {
		t.Helper()
		written := map[string]string{}
		s.Changes(func(key string, body []byte) {
			if strings.HasPrefix(key, keyWaiting) {
				written[key] = "put"
				if body == nil {
					written[key] = "deleted"
				}
			}
		})
		got := []string{}
		for _, key := range slices.Sorted(maps.Keys(written)) {
			got = append(got, strings.TrimPrefix(key, keyWaiting)+" "+written[key])
		}
		equal(t, got, want)
		save(s, stored)
	}
	commit("00000000 put")
	commit()
	s.Apply(counted(c), now, now)
	commit("00000001 put")
	s.ApplyCosts(map[ledger.ID]TraceCost{a.ID: {}}, now)
	commit()
	s.ApplyCosts(map[ledger.ID]TraceCost{a.ID: {}}, now)
	commit("00000000 put")
	final(s, c, TraceCost{})
	final(s, b, TraceCost{})
	commit("00000000 deleted", "00000001 deleted")
	commit()

	// A commit that fails may have stored a batch all the same.
	d := row("a")
	s.Apply(counted(d), now, now)
	s.Changes(func(string, []byte) {})
	final(s, d, TraceCost{})
	commit("00000000 deleted")
}

// Names that have had no costs expose them at 0 first, others go on.
func TestStartCosts(t *testing.T) {
	off, on := testConfig(), costsConfig()
	stored := map[string][]byte{}
	restart := func(s *Set, cfg Config, at time.Time) (*Set, bool) {
		t.Helper()
		save(s, stored)
		s, err := Restore(cfg, stored)
		if err != nil {
			t.Fatal(err)
		}
		return s, s.StartCosts(at)
	}
	s := summed(off, counted(row("a")))
	s.Find("a").EndZero()
	if s.StartCosts(now) || s.Find("a").IsZeroPending() {
		t.Error("costs begin that are switched off")
	}

	began := now.Add(time.Hour)
	s, started := restart(s, on, began)
	r := row("a")
	s.Apply(counted(r), now, now)
	final(s, r, TraceCost{Cost: 5, InputTokens: 1, OutputTokens: 1})
	shown := func() string {
		n := s.Find("a").Exposed()
		return fmt.Sprint(n.ByOutcome[Success].Traces, n.Tokens.Count, n.ByOutcome[Success].Cost, n.Costs.Count, n.InputTokens, n.OutputTokens)
	}
	if !started || !s.Find("a").CostsCreated.Equal(began) || !s.Find("a").IsZeroPending() {
		t.Errorf("costs began: %t, at %v", started, s.Find("a").CostsCreated)
	}
	equal(t, shown(), "2 2 0 0 0 0")
	s.Find("a").EndZero()
	equal(t, shown(), "2 2 5 1 1 1")

	s, started = restart(s, off, began.Add(time.Hour))
	s.Ensure("b", now)
	s.Find("b").EndZero()
	if started {
		t.Error("costs begin that are switched off")
	}
	s, started = restart(s, on, began.Add(2*time.Hour))
	if a, b := s.Find("a"), s.Find("b"); !started || a.IsZeroPending() || !a.CostsCreated.Equal(began) || !b.IsZeroPending() {
		t.Errorf("began again: %t, at %v", a.IsZeroPending(), a.CostsCreated)
	}
	equal(t, shown(), "2 2 5 1 1 1")
	s.Apply(counted(row("a")), now, now)
	if s, started = restart(s, on, began.Add(3*time.Hour)); started {
		t.Error("costs begin at each start")
	}
	equal(t, s.waiting.traces, 1)
	if s, started = restart(s, on, now.Add(maxCostAge)); !started || s.waiting.traces != 0 || s.CostsUnknown != 2 {
		t.Errorf("%d traces wait for days, %d are unknown", s.waiting.traces, s.CostsUnknown)
	}
}

// The names of the initial sync and the overflow appear at once, with costs from 0 on; later
// names start zero-first.
func TestCostsOfNewNamesStartAtZero(t *testing.T) {
	cfg := costsConfig()
	cfg.MaxNames = 2
	s := New(cfg, now)
	for name := range strings.SplitSeq("a a b b c", " ") {
		s.Apply(counted(row(name)), now, now)
	}
	end := now.Add(time.Minute)
	s.EndInitialSync(end)
	for label, n := range s.names {
		if !n.CostsCreated.Equal(end) || n.zeroPending != 0 {
			t.Errorf("%s: costs began at %v, %b is pending", label, n.CostsCreated, n.zeroPending)
		}
	}
	equal(t, len(s.names), 3)
	s.Remove("a")
	r := row("new")
	s.Apply(counted(r), end, end)
	final(s, r, TraceCost{Cost: 5, OutputTokens: 6})
	if n := s.Find("new").Exposed(); !n.CostsCreated.Equal(end) || n.ByOutcome[Success].Cost != 0 || n.Costs.Count != 0 || n.OutputTokens != 0 {
		t.Errorf("a new name is exposed as %+v", n)
	}
}
