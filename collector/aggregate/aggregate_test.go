package aggregate

import (
	"math"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

// Whatever a status is shown as can be listed, and then it maps.
func TestShownStatusCanBeMapped(t *testing.T) {
	for _, status := range []string{"", " ", "\n", "done ", "\u200bdone", "needs review by a human being before it is closed", strings.Repeat("é", 40), "\xff", "DONE"} {
		cfg := testConfig()
		if _, mapped := cfg.Outcome(status); mapped {
			t.Errorf("%q maps already", status)
		}
		s := summed(cfg, withStatus(status))
		label := s.Unmapped()[0].Label
		if s.MapsNow(s.Unmapped()[0]) {
			t.Errorf("%q maps", label)
		}
		cfg.Failure = append(cfg.Failure, label)
		if outcome, mapped := cfg.Outcome(status); outcome != Failure || !mapped {
			t.Errorf("%q, which is listed as %q, is %v", status, label, outcome)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		status    string
		null      bool
		abandoned bool
		want      Outcome
		unmapped  string
	}{
		{status: "success", want: Success},
		{status: "SUCCESS", want: Success},
		{status: "ok", want: Success},
		{status: "Completed", want: Success},
		{status: "error", want: Failure},
		{status: "Failed", want: Failure},
		{status: "failure", want: Failure},
		{status: "Cancelled", want: Unknown, unmapped: "cancelled"},
		{status: "", want: Unknown, unmapped: emptyStatus},
		{status: "success\n", want: Success},
		{status: " Failed\x00", want: Failure},
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
		unmapped := ""
		for _, u := range s.Unmapped() {
			unmapped += u.Label
		}
		if unmapped != c.unmapped {
			t.Errorf("%+v: unmapped %q", c, unmapped)
		}
	}
}

// A histogram takes memory from its first value on: most names have values of one outcome.
func TestHistogramsAreAllocatedByValues(t *testing.T) {
	r := row("a")
	r.HasTokens = false
	s := summed(testConfig(), counted(r))
	n := s.Find("a")
	equal(t, n.Tokens, Histogram{})
	for _, o := range Outcomes {
		if h := n.ByOutcome[o].Durations; (h.Classic != nil) != (o == Success) || (h.Exemplars != nil) != (o == Success) {
			t.Errorf("%s: %+v", o, h)
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
		return exemplarOf(&n.ByOutcome[Success].Durations, 3), exemplarOf(&n.Tokens, 1)
	}
	r := row("a")
	duration, tokens := exemplars(r)
	equal(t, duration, NewExemplar(r.ID.String(), 1, r.End))
	equal(t, tokens, NewExemplar(r.ID.String(), 20, r.End))
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

// What starts zero-first is exposed at 0, with its times, until that has been read.
func TestZeroPending(t *testing.T) {
	shown := func(n *Aggregate) [3]uint64 {
		n = n.Exposed()
		return [3]uint64{n.ByOutcome[Success].Traces, n.ByOutcome[Success].Durations.Count, n.Tokens.Count}
	}
	s := New(testConfig(), now)
	s.Apply(counted(row("old")), now, now)
	s.ResetDurations(now)
	s.EndInitialSync(now)
	s.Apply(counted(row("old"), row("new")), now, now)
	old, late := s.Find("old"), s.Find("new")
	if old.IsZeroPending() || !late.IsZeroPending() || !late.Exposed().Created.Equal(now) || !late.Exposed().LastEnd.IsZero() {
		t.Errorf("zero pending: %v, %v", old.IsZeroPending(), late.IsZeroPending())
	}
	equal(t, [2]any{shown(old), shown(late)}, [2]any{[3]uint64{2, 1, 2}, [3]uint64{}})
	before := late.Changes
	late.EndZero()
	equal(t, shown(late), [3]uint64{1, 1, 1})
	if late.IsZeroPending() || late.Changes == before {
		t.Error("the end of its zeros is no change")
	}

	s.ResetDurations(now)
	s.Apply(counted(row("old")), now, now)
	equal(t, shown(old), [3]uint64{3, 0, 3})
	s.ResetTokens(now)
	s.Apply(counted(row("old")), now, now)
	equal(t, shown(old), [3]uint64{4, 0, 0})
	old.EndZero()
	equal(t, shown(old), [3]uint64{4, 2, 1})
}
