package aggregate

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
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
			s.Apply(counted(ended(2*i, "error"), ended(2*i+1, "success"), ended(2*i+1, "paused")), now, now)
		}
		s.EndInitialSync(now)
		got := s.Failures()
		if len(got) != maxFailures {
			t.Fatalf("%d failures, want %d", len(got), maxFailures)
		}
		for i, f := range got {
			if want := fmt.Sprint("a", 2*i); f.Name != want || f.Outcome != "failure" || f.Duration != time.Second || f.Tokens != 20 || f.ID == "" {
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
	equal(t, s.Failures(), []status.Failure{
		{Name: "a", ID: abandoned.ID.String(), Outcome: "abandoned", Time: abandoned.Start, Duration: time.Second, Tokens: 20, HasTokens: true},
		{Name: "c", ID: negative.ID.String(), Outcome: "failure", Time: negative.End, Duration: -time.Second, Tokens: 20, HasTokens: true},
		{Name: "b", Outcome: "failure", Duration: time.Second, Tokens: 20},
	})

	cfg.Exclude = regexp.MustCompile("^b$")
	if got := summed(cfg, counted(bare)).Failures(); len(got) != 0 {
		t.Errorf("an excluded name: %+v", got)
	}
}
