package oppertest

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// world plays one small life, in seconds. Its exporter has a settle delay of
// 30 s, gives up after 1000 s, and each of its looks takes a second.
type world struct {
	t     *testing.T
	c     *clock
	s     *Server
	rules Rules
}

func newWorld(t *testing.T, cfg Config) *world {
	t.Helper()
	c := newClock()
	cfg.Now = c.now
	return &world{t, c, New(cfg), Rules{Settle: 30 * time.Second, Abandon: 1000 * time.Second}}
}

// read is a request that does not belong to a sync that ended well.
func (w *world) read(at int) {
	w.c.set(at)
	list(w.t, w.s, "/v2/traces")
}

func (w *world) look(at int, full bool) {
	w.read(at)
	w.rules.Syncs = append(w.rules.Syncs, Sync{sec(at), w.c.set(at + 1), full})
}

func (w *world) sync(at ...int) {
	for _, at := range at {
		w.look(at, false)
	}
}

func (w *world) sweep(at int) { w.look(at, true) }

func (w *world) baseline(at int) {
	w.read(at)
	w.rules.Baseline, w.rules.BaselineDone = sec(at), w.c.set(at+1)
}

func (w *world) add(at int, t Trace) {
	w.c.set(at)
	w.s.Add(t)
}

func (w *world) update(at int, change func(*Trace)) {
	w.c.set(at)
	if !w.s.Update("x", change) {
		w.t.Fatal("x is not listed")
	}
}

func (w *world) delete(at int) {
	w.c.set(at)
	w.s.Delete("x")
}

func openTrace() Trace { return Trace{ID: "x", Name: new("n"), Start: new(sec(0))} }

func endedTrace() Trace {
	return Trace{ID: "x", Name: new("n"), Status: new("ok"), Start: new(sec(0)), End: new(sec(5)), Tokens: new(int64(1))}
}

func end(t *Trace) {
	e := endedTrace()
	t.End, t.Status, t.Tokens = e.End, e.Status, e.Tokens
}

func tokens(n int64) func(*Trace) { return func(t *Trace) { t.Tokens = &n } }

func TestVerdict(t *testing.T) {
	const must, may, no = "must", "may", ""
	// The versions by which the lives are told apart: their tokens, or A for abandoned.
	for _, c := range []struct {
		name string
		cfg  Config
		play func(w *world)
		want string
		as   string
	}{
		{"never served", Config{}, func(w *world) { w.add(1, endedTrace()); w.c.set(100) }, no, ""},
		{"looked at once", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.c.set(100) }, no, ""},
		{"looked at too soon", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 39); w.c.set(100) }, no, ""},
		{"settled as served, not as the first sync surely knew", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 40) }, may, "1"},
		{"settled and looked at", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41) }, must, "1"},
		{"the second sync failed", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.read(41) }, may, "1"},
		{"the first sync failed", Config{}, func(w *world) { w.add(1, endedTrace()); w.read(10); w.sync(41) }, may, "1"},
		{"not read by the syncs", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.c.set(100)
			w.rules.Syncs = []Sync{{sec(10), sec(11), false}, {sec(50), sec(51), false}}
		}, must, ""},
		{"came at the instant of the sync", Config{}, func(w *world) { w.add(10, endedTrace()); w.sync(10, 41) }, may, "1"},
		{"left at the instant of the sync's end", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41); w.delete(42) }, may, "1"},
		{"left later", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41); w.delete(43) }, must, "1"},
		{"slack", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 38); w.rules.Slack = 2 * time.Second }, may, "1"},

		{"late tokens in time", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(20, tokens(2))
			w.sync(30, 41)
		}, must, "2"},
		{"later tokens", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.read(40)
			w.update(41, tokens(2))
			w.sync(50)
			w.update(55, tokens(3))
			w.read(60)
		}, must, "1 2"},
		{"a version that nobody saw", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(41, tokens(2))
			w.update(42, tokens(3))
			w.sync(50)
		}, must, "3"},
		{"changed while the sync ran", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.read(50)
			w.rules.Syncs = append(w.rules.Syncs, Sync{sec(50), sec(60), true})
			w.update(55, tokens(2))
			w.read(56)
		}, may, "1 2"},

		{"gone before it settled", Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.delete(20); w.sync(50) }, may, "1"},
		{"expired before it settled", Config{Retention: 20 * time.Second}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 50) }, may, "1"},
		{"gone while open", Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10); w.delete(20); w.sync(50, 2000) }, no, ""},
		{"ended and gone between two looks", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(20, end)
			w.delete(21)
			w.sync(50)
		}, no, ""},

		{"open, then ended", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(20, end)
			w.sync(30, 70)
		}, must, "1"},
		{"long open: the next look may be an eighth of its age later", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(401, end)
			w.sync(450, 490)
		}, may, "1"},
		{"long open, looked at later", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(401, end)
			w.sync(502, 540)
		}, must, "1"},
		{"not yet abandoned", Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1009) }, no, ""},
		{"may be abandoned", Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1010, 1260) }, may, "A"},
		{"must be abandoned", Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1010, 1261) }, must, "A"},
		{"abandoned, then ended", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10, 1261)
			w.update(1300, end)
			w.sync(1800, 1900)
		}, must, "A"},
		{"perhaps abandoned, then ended", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10, 1010)
			w.update(1020, end)
			w.sync(1500, 1600)
		}, must, "A 1"},
		{"open for ever, but first seen late", Config{}, func(w *world) { w.add(1, openTrace()); w.sync(900, 1200) }, no, ""},

		{"baseline: old", Config{}, func(w *world) { w.add(1, endedTrace()); w.baseline(35) }, must, "1"},
		{"baseline: settled while it ran", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.rules.Baseline, w.rules.BaselineDone = sec(30), sec(40)
			w.read(36)
			w.c.set(41)
		}, may, "1"},
		{"baseline: recent", Config{}, func(w *world) { w.add(1, endedTrace()); w.baseline(20); w.sync(30) }, no, ""},
		{"baseline: recent, then settled by its own time", Config{}, func(w *world) { w.add(1, endedTrace()); w.baseline(20); w.sync(35) }, must, "1"},
		{"baseline: ends in the future", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.update(2, func(t *Trace) { t.End = new(sec(100)) })
			w.baseline(20)
			w.sync(60, 129)
		}, may, "1"},
		{"baseline: ended in the future", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.update(2, func(t *Trace) { t.End = new(sec(100)) })
			w.baseline(20)
			w.sync(60, 130)
		}, must, "1"},
		{"not met by the baseline: its own times do not count", Config{}, func(w *world) {
			w.baseline(10)
			w.add(20, endedTrace())
			w.sync(100, 120)
		}, no, ""},
		{"came while the baseline ran", Config{}, func(w *world) {
			w.rules.Baseline, w.rules.BaselineDone = sec(40), sec(60)
			w.add(50, endedTrace())
			w.read(55)
			w.c.set(70)
		}, may, "1"},
		{"came while the baseline ran, ends in the future", Config{}, func(w *world) {
			w.rules.Baseline, w.rules.BaselineDone = sec(40), sec(60)
			w.add(50, endedTrace())
			w.update(51, func(t *Trace) { t.End = new(sec(200)) })
			w.read(55)
			w.sync(70, 110)
		}, may, "1"},
		{"came while the baseline ran, starts in the future", Config{}, func(w *world) {
			w.rules.Baseline, w.rules.BaselineDone = sec(40), sec(60)
			w.add(50, openTrace())
			w.update(51, func(t *Trace) { t.Start = new(sec(2000)) })
			w.read(55)
			w.sync(70, 1500)
		}, may, "A"},
		{"baseline: open and old", Config{}, func(w *world) { w.add(1, openTrace()); w.baseline(1000) }, must, "A"},
		{"baseline: open and young", Config{}, func(w *world) { w.add(1, openTrace()); w.baseline(999) }, no, ""},
		{"baseline: open and young, may be abandoned", Config{}, func(w *world) { w.add(1, openTrace()); w.baseline(10); w.sync(1249) }, may, "A"},
		{"baseline: open and young, must be abandoned", Config{}, func(w *world) { w.add(1, openTrace()); w.baseline(10); w.sync(1250) }, must, "A"},
		{"baseline: open without a start", Config{}, func(w *world) { w.add(1, Trace{ID: "x"}); w.baseline(20) }, must, "A"},
		{"baseline: ended later", Config{}, func(w *world) {
			w.add(1, openTrace())
			w.baseline(10)
			w.update(20, end)
			w.sync(30, 61)
		}, must, "1"},

		{"behind the head, no sweep", Config{SortBy: ByStart}, func(w *world) {
			w.s.Add(Trace{ID: "y", Start: new(sec(50))})
			w.sync(51)
			w.add(60, endedTrace())
			w.sync(70, 110)
		}, may, "1"},
		{"behind the head, swept", Config{SortBy: ByStart}, func(w *world) {
			w.s.Add(Trace{ID: "y", Start: new(sec(50))})
			w.sync(51)
			w.add(60, endedTrace())
			w.sweep(70)
			w.sync(110)
		}, must, "1"},
		{"behind what nobody has read is not behind", Config{SortBy: ByStart}, func(w *world) {
			w.s.Add(Trace{ID: "y", Start: new(sec(50))})
			w.add(60, endedTrace())
			w.sync(70, 110)
		}, must, "1"},
		{"no order", Config{SortBy: ByID}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41) }, may, "1"},
		{"no order, swept", Config{SortBy: ByID}, func(w *world) { w.add(1, endedTrace()); w.sweep(10); w.sync(41) }, must, "1"},
		{"shuffled and met", Config{Shuffle: true}, func(w *world) { w.add(1, endedTrace()); w.sweep(10); w.sync(41) }, must, "1"},
		{"shuffled and not met", Config{Shuffle: true}, func(w *world) {
			w.add(1, endedTrace())
			w.sweep(10)
			w.read(41)
			w.rules.Syncs = append(w.rules.Syncs, Sync{sec(50), sec(51), true})
		}, may, "1"},

		{"poisoned", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.s.Fail(Fault{Answer: EmptyObject, Row: "x", Times: -1})
			w.sync(10, 41)
		}, no, ""},
		{"poisoned later", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10, 41)
			w.s.Fail(Fault{Answer: EmptyObject, Row: "x", Times: -1})
		}, may, "1"},
		{"healed", Config{}, func(w *world) {
			w.rules.Reread = 10 * time.Second
			w.add(1, endedTrace())
			w.s.Fail(Fault{Answer: EmptyObject, Row: "x", Times: -1})
			w.sync(10)
			w.c.set(20)
			w.s.Heal("x")
			w.sync(31, 62)
		}, must, "1"},
		{"healed a moment ago", Config{}, func(w *world) {
			w.rules.Reread = 10 * time.Second
			w.add(1, endedTrace())
			w.s.Fail(Fault{Answer: EmptyObject, Row: "x", Times: -1})
			w.c.set(20)
			w.s.Heal("x")
			w.sync(29, 60)
		}, may, "1"},
		{"spoiled answers are not served", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.s.Fail(Fault{Answer: Truncated})
			w.c.set(10)
			get(w.t, w.s, "/v2/traces")
			w.read(50)
		}, no, ""},
		{"served by id", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.read(10)
			w.c.set(40)
			get(w.t, w.s, "/v2/traces/x")
		}, may, "1"},
		{"came back", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10, 41)
			w.delete(50)
			w.add(60, endedTrace())
			w.update(61, tokens(2))
			w.sync(70, 110)
		}, may, "1 2"},
		{"open again", Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(20, func(t *Trace) { t.End = nil })
			w.sync(30, 70)
		}, may, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.cfg)
			c.play(w)
			v := w.s.Truth(w.rules).Traces["x"]
			var as []string
			for _, version := range v.Versions {
				if version.Outcome == "abandoned" {
					as = append(as, "A")
				} else {
					as = append(as, fmt.Sprint(version.Tokens))
				}
			}
			got := no
			if v.Must {
				got = must
			} else if len(as) > 0 {
				got = may
			}
			if got != c.want || strings.Join(as, " ") != c.as {
				t.Errorf("got %q as %q, want %q as %q", got, as, c.want, c.as)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	base := Version{Name: "n", Outcome: "success", Tokens: 1, Micros: 5_000_000}
	for name, c := range map[string]struct {
		change func(*Trace)
		want   func(*Version)
	}{
		"plain":            {func(*Trace) {}, func(*Version) {}},
		"null name":        {func(t *Trace) { t.Name = nil }, func(v *Version) { v.Name = "(unnamed)" }},
		"empty name":       {func(t *Trace) { t.Name = new("") }, func(v *Version) { v.Name = "(unnamed)" }},
		"upper case":       {func(t *Trace) { t.Status = new("Failed") }, func(v *Version) { v.Outcome = "failure" }},
		"error":            {func(t *Trace) { t.Status = new("error") }, func(v *Version) { v.Outcome = "failure" }},
		"odd status":       {func(t *Trace) { t.Status = new("running") }, func(v *Version) { v.Outcome = "unknown" }},
		"null status":      {func(t *Trace) { t.Status = nil }, func(v *Version) { v.Outcome = "unknown" }},
		"null tokens":      {func(t *Trace) { t.Tokens = nil }, func(v *Version) { v.Tokens = -1 }},
		"no tokens at all": {tokens(0), func(v *Version) { v.Tokens = 0 }},
		"negative tokens":  {tokens(-5), func(v *Version) { v.Tokens = -1 }},
		"too many tokens":  {tokens(1<<53 + 1), func(v *Version) { v.Tokens = -1 }},
		"duration_ms wins": {func(t *Trace) { t.DurationMS = new(1.0004) }, func(v *Version) { v.Micros = 1000 }},
		"rounded":          {func(t *Trace) { t.DurationMS = new(1.0006) }, func(v *Version) { v.Micros = 1001 }},
		"zero duration":    {func(t *Trace) { t.DurationMS = new(0.0) }, func(v *Version) { v.Micros = 0 }},
		"negative":         {func(t *Trace) { t.DurationMS = new(-1.0) }, func(v *Version) { v.Micros, v.Unusable = 0, "negative" }},
		"ends too early":   {func(t *Trace) { t.Start = new(sec(6)) }, func(v *Version) { v.Micros, v.Unusable = 0, "negative" }},
		"no start":         {func(t *Trace) { t.Start = nil }, func(v *Version) { v.Micros, v.Unusable = 0, "missing" }},
		"too long":         {func(t *Trace) { t.DurationMS = new(1e13) }, func(v *Version) { v.Micros, v.Unusable = 0, "missing" }},
		"abandoned": {func(t *Trace) { t.End = nil; t.DurationMS = new(3.0) }, func(v *Version) {
			v.Outcome, v.Micros = "abandoned", 0
		}},
	} {
		w := newWorld(t, Config{})
		tr := endedTrace()
		c.change(&tr)
		w.add(1, tr)
		w.baseline(5000)
		want := base
		c.want(&want)
		if got := w.s.Truth(w.rules).Traces["x"].Versions; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}

	w := newWorld(t, Config{})
	w.add(1, endedTrace())
	w.baseline(100)
	w.rules.Success, w.rules.Failure, w.rules.NoTokens = []string{"fine"}, []string{"ok"}, true
	if got := w.s.Truth(w.rules).Traces["x"].Versions[0]; got.Outcome != "failure" || got.Tokens != -1 {
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
		t.Errorf("counted without a look: %v", err)
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
	w := newWorld(t, Config{})
	for i, change := range []func(*Trace){
		func(*Trace) {},
		func(t *Trace) { t.DurationMS = new(2.5); t.Tokens = new(int64(10)) },
		func(t *Trace) { t.Status = nil; t.Tokens = nil },
		func(t *Trace) { t.Start = nil },
		func(t *Trace) { t.DurationMS = new(-1.0) },
		func(t *Trace) { t.End = nil; t.Name = nil },
	} {
		tr := endedTrace()
		tr.ID = fmt.Sprint(i)
		change(&tr)
		w.add(1, tr)
	}
	w.add(1, Trace{Name: new("no id")})
	w.baseline(2000)
	got, err := w.s.Truth(w.rules).Sums()
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
	if _, err := w.s.Truth(w.rules).Sums(); err != nil {
		t.Errorf("a trace that nobody can have counted makes the sums uncertain: %v", err)
	}
	w.read(2010)
	w.read(2040)
	if _, err := w.s.Truth(w.rules).Sums(); err == nil {
		t.Error("sums over a trace that need not be counted")
	}
}

// TestSumsAtRest adds up a history by hand, from what the list itself says.
func TestSumsAtRest(t *testing.T) {
	for _, cfg := range []Config{{}, {SortBy: ByStart, OldestFirst: true}, {SortBy: ByID}, {NoRecord: true}} {
		w := newWorld(t, cfg)
		w.s.FillHistory(25_037, 40, sec(-90_000), sec(-100))
		w.c.set(0)
		w.rules.Baseline, w.rules.BaselineDone = sec(0), sec(10)
		for offset := 0; offset < 25_037; offset += 100 {
			get(t, w.s, fmt.Sprintf("/v2/traces?offset=%d", offset))
		}
		w.c.set(20)
		truth := w.s.Truth(w.rules)
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
		w := newWorld(t, Config{})
		w.rules.Slack = 2 * time.Second
		agents := DefaultAgents()
		agents[0].NeverEnds = 0.05
		traffic := NewTraffic(w.s, agents, 1)
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
			w.rules.Syncs = append(w.rules.Syncs, Sync{now, sec(at + 1), true})
			j := judge{success: set([]string{"success"}), failure: set([]string{"error"})}
			for _, l := range w.s.rows {
				if _, done := counted[l.id]; done {
					continue
				}
				since, limit := ended, settle
				if !l.ended() {
					since, limit = open, 1000
				}
				if _, known := since[l.id]; !known {
					since[l.id] = at
				}
				if at-since[l.id] >= limit {
					counted[l.id] = Counted{l.id, j.version(&l.version)}
				}
			}
		}
		return w.s.Truth(w.rules), slices.Collect(maps.Values(counted))
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
