package e2e_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// event is a trace that the exporter has counted, and when a server shows it.
type event struct {
	at      int64 // milliseconds
	name    string
	outcome string
	tokens  int64 // -1 if unknown
	micros  int64 // -1 if it is in no histogram
}

// truth is what the series have to show, as lists of what happened.
type truth struct {
	names  []string
	events map[key][]event // in order of time
}

type key struct{ name, outcome string }

var outcomes = []string{"success", "failure", "unknown", "abandoned"}

// newTruth reads what an Opper lists: all of it has ended and settled. Names that
// have no place are counted under another one.
func newTruth(t *testing.T, s *oppertest.Server, hasPlace func(label string) bool) *truth {
	t.Helper()
	now := time.Now()
	verdicts := oracle.NewTruth(s, oracle.Rules{Settle: time.Second, Abandon: time.Hour, InitialSync: now, InitialSyncDone: now}).Traces
	u := &truth{events: map[key][]event{}}
	var all []event
	for _, trace := range s.Snapshot() {
		verdict := verdicts[trace.ID]
		if !verdict.Must || len(verdict.Versions) != 1 {
			t.Fatalf("trace %s may be counted as %+v, want one thing", trace.ID, verdict.Versions)
		}
		v := verdict.Versions[0]
		label := v.Name
		if label != aggregate.Unnamed {
			label = aggregate.Label(label)
		}
		if !hasPlace(label) {
			label = aggregate.Other
		}
		e := event{at: trace.End.Add(time.Millisecond - 1).UnixMilli(), name: label, outcome: v.Outcome, tokens: v.Tokens, micros: v.Micros}
		if v.Unusable != "" {
			e.micros = -1
		}
		all = append(all, e)
	}
	u.add(all...)
	return u
}

func (u *truth) add(events ...event) {
	for _, e := range events {
		k := key{e.name, e.outcome}
		u.events[k] = append(u.events[k], e)
	}
	names := map[string]bool{}
	for k, events := range u.events {
		slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		names[k.name] = true
	}
	u.names = slices.Sorted(maps.Keys(names))
}

// between returns what happened after from, until to.
func (u *truth) between(k key, from, to int64) []event {
	after := func(t int64) int {
		i, _ := slices.BinarySearchFunc(u.events[k], t, func(e event, t int64) int {
			if e.at <= t {
				return -1
			}
			return 1
		})
		return i
	}
	if to <= from {
		return nil
	}
	return u.events[k][after(from):after(to)]
}

// first returns when the first trace of a name ended.
func (u *truth) first(name string) int64 {
	first := int64(math.MaxInt64)
	for _, outcome := range outcomes {
		if events := u.events[key{name, outcome}]; len(events) > 0 {
			first = min(first, events[0].at)
		}
	}
	return first
}

// durations returns those of a name, sorted.
func (u *truth) durations(name string, from, to int64) (seconds []float64) {
	for _, outcome := range outcomes {
		for _, e := range u.between(key{name, outcome}, from, to) {
			if e.micros >= 0 {
				seconds = append(seconds, float64(e.micros)/1e6)
			}
		}
	}
	slices.Sort(seconds)
	return seconds
}

// counter is a series of each name and outcome, and what an event adds to it.
type counter struct {
	expr string
	of   func(event) float64
}

func one(event) float64 { return 1 }

func (e event) isTimed() float64 {
	if e.micros >= 0 {
		return 1
	}
	return 0
}

var counters = []counter{
	{`opper_traces_total`, one},
	{`opper_trace_tokens_total`, func(e event) float64 { return float64(max(0, e.tokens)) }},
	{`opper_trace_duration_seconds_count`, event.isTimed},
}

// native is the same as the last of the counters, from native histograms.
var native = counter{`opper_trace_duration_seconds`, event.isTimed}

func (c counter) sum(events []event) (sum float64) {
	for _, e := range events {
		sum += c.of(e)
	}
	return sum
}

// has reports whether the counter has a series for the outcome.
func (c counter) has(outcome string) bool {
	return outcome != "abandoned" || c.expr == counters[0].expr || c.expr == counters[1].expr
}

// listTraces adds traces that ended at a time, and returns what they will be counted
// as once that has come through.
func listTraces(s *oppertest.Server, n int, ended time.Time) (events []event) {
	ended = ended.Truncate(time.Millisecond)
	for i := range n {
		start := ended.Add(-time.Duration(i+1) * 100 * time.Millisecond)
		name, status, tokens := "agent-00", "success", int64(10*i)
		s.Add(oppertest.Trace{ID: liveID(ended, i), Name: &name, Status: &status, Start: &start, End: &ended, Tokens: &tokens})
		events = append(events, event{at: ended.UnixMilli(), name: name, outcome: status, tokens: tokens, micros: ended.Sub(start).Microseconds()})
	}
	return events
}

// liveID is the identifier of one of the traces that ended at a time.
func liveID(ended time.Time, i int) string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", ended.Unix(), i)
}

// total is the number of all traces.
func (u *truth) total() (n int) {
	for events := range maps.Values(u.events) {
		n += len(events)
	}
	return n
}
