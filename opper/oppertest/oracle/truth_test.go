package oracle

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

func TestVersions(t *testing.T) {
	base := Version{Name: "n", Outcome: "success", Tokens: 1, Micros: 5_000_000}
	for name, c := range map[string]struct {
		change func(*oppertest.Trace)
		want   func(*Version)
	}{
		"plain":            {func(*oppertest.Trace) {}, func(*Version) {}},
		"null name":        {func(t *oppertest.Trace) { t.Name = nil }, func(v *Version) { v.Name = "(unnamed)" }},
		"empty name":       {func(t *oppertest.Trace) { t.Name = new("") }, func(v *Version) { v.Name = "(unnamed)" }},
		"upper case":       {func(t *oppertest.Trace) { t.Status = new("Failed") }, func(v *Version) { v.Outcome = "failure" }},
		"error":            {func(t *oppertest.Trace) { t.Status = new("error") }, func(v *Version) { v.Outcome = "failure" }},
		"odd status":       {func(t *oppertest.Trace) { t.Status = new("running") }, func(v *Version) { v.Outcome = "unknown" }},
		"null status":      {func(t *oppertest.Trace) { t.Status = nil }, func(v *Version) { v.Outcome = "unknown" }},
		"null tokens":      {func(t *oppertest.Trace) { t.Tokens = nil }, func(v *Version) { v.Tokens = -1 }},
		"no tokens at all": {tokens(0), func(v *Version) { v.Tokens = 0 }},
		"negative tokens":  {tokens(-5), func(v *Version) { v.Tokens = -1 }},
		"too many tokens":  {tokens(1<<53 + 1), func(v *Version) { v.Tokens = -1 }},
		"duration_ms wins": {func(t *oppertest.Trace) { t.DurationMS = new(1.0004) }, func(v *Version) { v.Micros = 1000 }},
		"rounded":          {func(t *oppertest.Trace) { t.DurationMS = new(1.0006) }, func(v *Version) { v.Micros = 1001 }},
		"zero duration":    {func(t *oppertest.Trace) { t.DurationMS = new(0.0) }, func(v *Version) { v.Micros = 0 }},
		"negative":         {func(t *oppertest.Trace) { t.DurationMS = new(-1.0) }, func(v *Version) { v.Micros, v.Unusable = 0, "negative" }},
		"ends too early":   {func(t *oppertest.Trace) { t.Start = new(sec(6)) }, func(v *Version) { v.Micros, v.Unusable = 0, "negative" }},
		"no start":         {func(t *oppertest.Trace) { t.Start = nil }, func(v *Version) { v.Micros, v.Unusable = 0, "missing" }},
		"too long":         {func(t *oppertest.Trace) { t.DurationMS = new(1e13) }, func(v *Version) { v.Micros, v.Unusable = 0, "missing" }},
		"abandoned": {func(t *oppertest.Trace) { t.End = nil; t.DurationMS = new(3.0) }, func(v *Version) {
			v.Outcome, v.Micros = "abandoned", 0
		}},
	} {
		w := newWorld(t, oppertest.Config{})
		tr := endedTrace()
		c.change(&tr)
		w.add(1, tr)
		w.initialSync(5000)
		want := base
		c.want(&want)
		if got := NewTruth(w.s, w.rules).Traces["x"].Versions; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}

	w := newWorld(t, oppertest.Config{})
	w.add(1, endedTrace())
	w.initialSync(100)
	w.rules.Success, w.rules.Failure, w.rules.NoTokens = []string{"fine"}, []string{"ok"}, true
	if got := NewTruth(w.s, w.rules).Traces["x"].Versions[0]; got.Outcome != "failure" || got.Tokens != -1 {
		t.Errorf("other rules: %+v", got)
	}
}

func TestCheck(t *testing.T) {
	v := func(tokens int64) Version { return Version{Name: "(unnamed)", Outcome: "success", Tokens: tokens} }
	truth := Truth{Traces: map[string]Verdict{
		"must": {true, []Version{v(1)}},
		"may":  {false, []Version{v(1), v(2)}},
		"no":   {false, nil},
		"lost": {true, nil},
	}}
	delete(truth.Traces, "lost")
	for _, c := range []struct {
		counted []Counted
		want    string
	}{
		{[]Counted{{"must", v(1)}}, ""},
		{[]Counted{{"must", v(1)}, {"may", v(2)}}, ""},
		{[]Counted{{"must", Version{Outcome: "success", Tokens: 1}}}, ""},
		{nil, "trace must is not counted"},
		{[]Counted{{"must", v(1)}, {"must", v(1)}}, "trace must is counted twice"},
		{[]Counted{{"must", v(1)}, {"may", v(3)}}, "trace may is counted as {Name:(unnamed) Outcome:success Tokens:3"},
		{[]Counted{{"must", v(1)}, {"no", v(1)}}, "must not be yet"},
		{[]Counted{{"must", v(1)}, {"other", v(1)}}, "never listed"},
	} {
		err := truth.Check(c.counted)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.counted, err, c.want)
		}
	}
	truth.Traces["lost"] = Verdict{Must: true}
	if err := truth.Check([]Counted{{"must", v(1)}, {"lost", v(1)}}); err == nil || !strings.Contains(err.Error(), "not read again") {
		t.Errorf("counted without a second read: %v", err)
	}
	var many []Counted
	for i := range 30 {
		many = append(many, Counted{fmt.Sprint(i), v(1)})
	}
	if err := truth.Check(many); err == nil || strings.Count(err.Error(), "\n") != 10 || !strings.Contains(err.Error(), "and 22 more") {
		t.Errorf("many offences: %v", err)
	}
}

func TestSums(t *testing.T) {
	w := newWorld(t, oppertest.Config{})
	for i, change := range []func(*oppertest.Trace){
		func(*oppertest.Trace) {},
		func(t *oppertest.Trace) { t.DurationMS = new(2.5); t.Tokens = new(int64(10)) },
		func(t *oppertest.Trace) { t.Status = nil; t.Tokens = nil },
		func(t *oppertest.Trace) { t.Start = nil },
		func(t *oppertest.Trace) { t.DurationMS = new(-1.0) },
		func(t *oppertest.Trace) { t.End = nil; t.Name = nil },
	} {
		tr := endedTrace()
		tr.ID = fmt.Sprint(i)
		change(&tr)
		w.add(1, tr)
	}
	w.add(1, oppertest.Trace{Name: new("no id")})
	w.initialSync(2000)
	got, err := NewTruth(w.s, w.rules).Sums()
	if err != nil {
		t.Fatal(err)
	}
	want := Sums{
		By: map[Key]Sum{
			{"n", "success"}:           {Traces: 4, Tokens: 13, Durations: 2, Micros: 5_002_500},
			{"n", "unknown"}:           {Traces: 1, Durations: 1, Micros: 5_000_000},
			{"(unnamed)", "abandoned"}: {Traces: 1, Tokens: 1},
		},
		Tokens:  map[string]TokenSum{"n": {4, 13}, "(unnamed)": {1, 1}},
		Missing: 1, Negative: 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	w.add(2001, endedTrace())
	if _, err := NewTruth(w.s, w.rules).Sums(); err != nil {
		t.Errorf("a trace that cannot have been counted makes the sums uncertain: %v", err)
	}
	w.read(2010)
	w.read(2040)
	if _, err := NewTruth(w.s, w.rules).Sums(); err == nil {
		t.Error("sums over a trace that need not be counted")
	}
}

// TestSumsAtRest adds up a history by hand, from what the list itself says.
func TestSumsAtRest(t *testing.T) {
	for _, cfg := range []oppertest.Config{{}, {SortBy: oppertest.ByStart, OldestFirst: true}, {SortBy: oppertest.ByID}, {NoRecord: true}} {
		w := newWorld(t, cfg)
		w.s.FillHistory(25_037, 40, sec(-90_000), sec(-100))
		w.c.set(0)
		w.rules.InitialSync, w.rules.InitialSyncDone = sec(0), sec(10)
		for offset := 0; offset < 25_037; offset += 100 {
			get(t, w.s, fmt.Sprintf("/v2/traces?offset=%d", offset))
		}
		w.c.set(20)
		truth := NewTruth(w.s, w.rules)
		got, err := truth.Sums()
		if err != nil {
			t.Fatal(err)
		}
		var traces, tokens, durations, known int64
		var ms float64
		for _, s := range got.By {
			traces += s.Traces
			tokens += s.Tokens
			durations += s.Durations
			ms += float64(s.Micros) / 1000
		}
		for _, s := range got.Tokens {
			known += s.Traces
			tokens -= s.Tokens
		}
		for _, tr := range w.s.Snapshot() {
			traces--
			switch {
			case tr.DurationMS != nil && *tr.DurationMS >= 0:
				durations--
				ms -= *tr.DurationMS
			case tr.DurationMS == nil && tr.Start != nil && !tr.End.Before(*tr.Start):
				durations--
				ms -= float64(tr.End.Sub(*tr.Start)) / 1e6
			}
			if tr.Tokens != nil {
				known--
			}
		}
		if traces != 0 || tokens != 0 || durations != 0 || known != 0 || math.Abs(ms) > 1 || len(got.Tokens) != 40 {
			t.Errorf("%+v: off by %d traces, %d tokens, %d durations of %f ms, %d with tokens; %d names",
				cfg, traces, tokens, durations, ms, known, len(got.Tokens))
		}
		var counted []Counted
		for id, v := range truth.Traces {
			counted = append(counted, Counted{id, v.Versions[0]})
		}
		if err := truth.Check(counted); err != nil || !reflect.DeepEqual(SumOf(counted), got) {
			t.Errorf("%+v: the sums of what has to be counted differ; %v", cfg, err)
		}
	}
}

// TestTruthOfTraffic runs a simple exporter that is right against live
// traffic, then the same one with mistakes: the truth must tell them apart.
func TestTruthOfTraffic(t *testing.T) {
	run := func(settle int) (Truth, []Counted) {
		w := newWorld(t, oppertest.Config{})
		w.rules.Slack = 2 * time.Second
		agents := oppertest.DefaultAgents()
		agents[0].NeverEnds = 0.05
		traffic := oppertest.NewTraffic(w.s, agents, 1)
		open, ended := map[string]int{}, map[string]int{} // the second at which each was first seen so
		counted := map[string]Counted{}
		for at := range 1500 {
			now := w.c.set(at)
			if at%15 != 5 && at%15 != 6 {
				traffic.Step(now)
			}
			if at%15 != 5 {
				continue
			}
			for offset := 0; offset < w.s.Len(); offset += 100 {
				get(t, w.s, fmt.Sprintf("/v2/traces?offset=%d", offset))
			}
			w.rules.Syncs = append(w.rules.Syncs, Sync{Start: now, End: sec(at + 1), Full: true})
			e := evaluator{success: set([]string{"success"}), failure: set([]string{"error"})}
			w.s.Lives(func(_ int64, l oppertest.Life) {
				if _, done := counted[l.ID]; done || l.To != oppertest.Forever {
					return
				}
				present := &l.States[len(l.States)-1]
				since, limit := ended, settle
				if !present.HasEnd {
					since, limit = open, 1000
				}
				if _, known := since[l.ID]; !known {
					since[l.ID] = at
				}
				if at-since[l.ID] >= limit {
					counted[l.ID] = Counted{l.ID, e.version(present)}
				}
			})
		}
		return NewTruth(w.s, w.rules), slices.Collect(maps.Values(counted))
	}

	truth, counted := run(30)
	if err := truth.Check(counted); err != nil {
		t.Errorf("a right exporter: %v", err)
	}
	musts := 0
	for _, v := range truth.Traces {
		if v.Must {
			musts++
		}
	}
	if all := len(truth.Traces); musts < all*9/10 || len(counted) < musts {
		t.Errorf("%d of %d traces must be counted, %d are", musts, all, len(counted))
	}
	if truth, counted := run(10); truth.Check(counted) == nil {
		t.Error("an exporter that does not wait until traces have settled passes")
	}
	if truth, counted := run(400); truth.Check(counted) == nil {
		t.Error("an exporter that waits too long passes")
	}
}
