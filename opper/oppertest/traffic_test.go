package oppertest

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestFillHistory(t *testing.T) {
	s := New(Config{SortBy: ByStart, Retention: 2000 * time.Second, Now: func() time.Time { return sec(0) }})
	s.FillHistory(25_037, 40, sec(-1000), sec(0))
	if s.Len() != 25_037 {
		t.Fatalf("%d traces", s.Len())
	}
	if !slices.IsSortedFunc(s.rows, func(a, b *life) int { return s.compare(a.place, b.place) }) {
		t.Error("not sorted by start")
	}
	names, statuses, kinds := map[string]int{}, map[string]int{}, map[string]int{}
	for _, tr := range s.Snapshot() {
		name := "(unnamed)"
		if tr.Name != nil && *tr.Name != "" {
			name = *tr.Name
		} else if tr.Name == nil {
			kinds["null name"]++
		} else {
			kinds["empty name"]++
		}
		names[name]++
		if tr.Status == nil {
			statuses["null"]++
		} else {
			statuses[*tr.Status]++
		}
		if tr.End == nil || tr.End.After(sec(0)) {
			t.Fatalf("%+v has not ended", tr)
		}
		if tr.DurationMS == nil {
			kinds["null duration"]++
			if tr.Start == nil {
				kinds["no duration"]++
			} else if tr.Start.After(*tr.End) {
				kinds["negative difference"]++
			}
		} else if *tr.DurationMS < 0 {
			kinds["negative duration"]++
		}
		if tr.Tokens == nil {
			kinds["null tokens"]++
		}
	}
	if len(names) != 40 {
		t.Errorf("%d names", len(names))
	}
	for _, status := range []string{"success", "ok", "completed", "SUCCESS", "error", "failed", "Failure", "cancelled", "null"} {
		if statuses[status] < 500 {
			t.Errorf("status %s: %d of %d", status, statuses[status], s.Len())
		}
	}
	for _, kind := range []string{"null name", "empty name", "null duration", "no duration", "negative difference", "negative duration", "null tokens"} {
		if kinds[kind] == 0 {
			t.Errorf("there is no trace with %s", kind)
		}
	}
}

// TestTraffic checks that each of the lives that an agent can be asked for occurs.
func TestTraffic(t *testing.T) {
	c := newClock()
	s := New(Config{Now: c.now})
	agent := Agent{
		Name: "a", Rate: 1, Median: 10 * time.Second, Spread: 0.5, Failure: 0.1, Tokens: 1000,
		Running: 0.5, NeverEnds: 0.1, Rename: 0.1,
		LateTokens: 5 * time.Second, LateTokensRatio: 0.2, LateStatus: 5 * time.Second, LateStatusRatio: 0.2,
		BackDate:      20 * time.Second,
		IncidentEvery: 1000 * time.Second, IncidentFor: 100 * time.Second,
		IncidentPhase: time.Duration(epoch.Unix()%1000)*time.Second + 500*time.Second, IncidentFailure: 0.9,
	}
	traffic := NewTraffic(s, []Agent{agent}, 1)
	for i := range 4001 {
		traffic.Step(c.set(i))
	}
	n := s.Len()
	if math.Abs(float64(n)-4000) > 200 {
		t.Errorf("%d traces in 4000 s", n)
	}
	ratio := func(what string, want float64, has func(*life) bool) {
		t.Helper()
		count := 0
		for _, l := range s.rows {
			if has(l) {
				count++
			}
		}
		if got := float64(count) / float64(n); math.Abs(got-want) > 0.03 {
			t.Errorf("%s: ratio %.3f, want %.3f", what, got, want)
		}
	}
	some := func(has func(a, b version) bool) func(*life) bool {
		return func(l *life) bool {
			all := []version{l.version}
			if l.past != nil {
				all = append(slices.Clone(l.past.versions), l.version)
			}
			return slices.ContainsFunc(all, func(a version) bool {
				return slices.ContainsFunc(all, func(b version) bool { return has(a, b) })
			})
		}
	}
	ratio("open for ever", 0.1, func(l *life) bool { return !l.ended() })
	ratio("seen running", 0.55, some(func(a, _ version) bool { return !a.ended() }))
	ratio("renamed", 0.1, some(func(a, b version) bool { return a.name == nil && b.name != nil }))
	ratio("late tokens", 0.18, some(func(a, b version) bool { return a.ended() && a.has&hasTokens == 0 && b.has&hasTokens != 0 }))
	ratio("late status", 0.18, some(func(a, b version) bool { return a.ended() && a.status == nil && b.status != nil }))
	ratio("slower than the median", 0.45, func(l *life) bool { return l.ms > 10_000 })
	ratio("started over 10 s before it was listed", 0.73, func(l *life) bool { return l.from-l.start > 10_000_000 })
	var failed, all [2]float64
	for _, l := range s.rows {
		in := 0
		if into := (l.from - micros(epoch)) / 1_000_000 % 1000; into >= 510 && into < 590 && !l.listedLate() {
			in = 1
		}
		if l.status != nil {
			all[in]++
			if *l.status == "error" {
				failed[in]++
			}
		}
	}
	if in := failed[1] / all[1]; in < 0.75 {
		t.Errorf("failure ratio in an incident: %.2f", in)
	}
	if out := failed[0] / all[0]; out > 0.2 {
		t.Errorf("failure ratio outside of incidents: %.2f", out)
	}
}

// listedLate reports whether a trace was listed at its end only: when it
// began, no incident may have been on.
func (l *life) listedLate() bool { return l.past == nil || l.past.versions[0].ended() }

func TestBackfill(t *testing.T) {
	c := newClock()
	s := New(Config{Now: c.now, Retention: time.Hour})
	traffic := NewTraffic(s, DefaultAgents(), 1)
	c.set(7200)
	traffic.Backfill(sec(0), sec(7200))
	s.mu.Lock()
	for _, l := range s.byID {
		if l.from < micros(sec(0)) || l.from > micros(sec(7200)) || l.at < l.from || !l.listed() && l.to-l.from != time.Hour.Microseconds() {
			t.Errorf("listed from %v to %v, changed at %v", fromMicros(l.from), fromMicros(l.to), fromMicros(l.at))
		}
	}
	s.mu.Unlock()
	n := s.Len()
	if n < 5000 || n > 9000 {
		t.Errorf("%d traces are left of two an each second for an hour", n)
	}
	slow := New(Config{Now: c.now, Retention: time.Hour})
	NewTraffic(slow, []Agent{{Name: "slow", Rate: 1, Median: 100 * time.Minute, Running: 1}}, 1).Backfill(sec(0), sec(7200))
	for id, l := range slow.byID {
		if l.ended() {
			t.Errorf("trace %s ended after it had expired", id)
		}
	}
	names := map[string]bool{}
	for _, tr := range s.Snapshot() {
		if tr.Name != nil {
			names[*tr.Name] = true
		}
	}
	if len(names) != 12 {
		t.Errorf("%d names", len(names))
	}
	traffic.Step(c.set(7260))
	if s.RequestCount() != 0 || s.Len() == n {
		t.Error("the traffic stops after the backfill")
	}
}
