package aggregate

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

// The last failures are known, the latest first, whatever the order in which they are
// counted.
func TestLastFailures(t *testing.T) {
	ended := func(age int, status string) ledger.Row {
		r := row(fmt.Sprint("a", age))
		r.Status, r.End = status, now.Add(-time.Duration(age)*time.Minute)
		return r
	}
	for _, newestFirst := range []bool{true, false} {
		s := New(testConfig(), now)
		for i := range 1000 {
			if !newestFirst {
				i = 999 - i
			}
			s.Apply(counted(ended(2*i, "error"), ended(2*i+1, "success"), ended(2*i+1, "paused")), now)
		}
		s.EndInitialSync(now)
		got := s.Failures()
		if len(got) != maxFailures {
			t.Fatalf("%d failures, want %d", len(got), maxFailures)
		}
		for i, f := range got {
			if want := fmt.Sprint("a", 2*i); f.Label != want || f.Outcome != Failure || f.Duration != time.Second || f.Tokens != 20 || f.TraceID == "" {
				t.Errorf("newest first %t: number %d is %+v, want one of %s", newestFirst, i, f, want)
			}
		}
	}
}

// An abandoned trace has no end, and a failure may lack what it should have.
func TestFailuresWithoutValues(t *testing.T) {
	cfg := testConfig()
	cfg.MaxNames = 1
	abandoned, bare, negative := row("a"), row("b"), row("c")
	abandoned.End, abandoned.HasDuration, abandoned.Start = time.Time{}, false, now.Add(-time.Minute)
	bare.Status, bare.HasDuration, bare.HasTokens, bare.Start, bare.End, bare.Ref = "error", false, false, time.Time{}, time.Time{}, strings.Repeat("i", 121)
	negative.Status, negative.Duration = "error", -time.Second
	ev := counted(bare, abandoned, negative)
	ev.FirstSeen, ev.Counted[1].Abandoned = nil, true // as after a restart
	s := summed(cfg, ev)
	equal(t, s.Failures(), []Failed{
		{Label: "a", TraceID: abandoned.ID.String(), Outcome: Abandoned, Time: abandoned.Start, Duration: time.Second, Tokens: 20, HasTokens: true},
		{Label: "c", TraceID: negative.ID.String(), Outcome: Failure, Time: negative.End, Duration: -time.Second, Tokens: 20, HasTokens: true},
		{Label: "b", Outcome: Failure, Duration: time.Second, Tokens: 20},
	})

	cfg.Exclude = regexp.MustCompile("^b$")
	if got := summed(cfg, counted(bare)).Failures(); len(got) != 0 {
		t.Errorf("an excluded name: %+v", got)
	}
}
