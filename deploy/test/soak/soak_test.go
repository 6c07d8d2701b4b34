package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// Without any trouble, all promises are kept. What the slowest scrape took is measured.
func TestCalmSoakKeepsAllPromises(t *testing.T) {
	promtest.DependOnSources(t)
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	code, err := run(t.Context(), []string{"--for=10s", "--seed=1", "--calm"}, &out)
	if err != nil || code != 0 || !strings.Contains(out.String(), "all promises were kept") || strings.Contains(out.String(), "slowest 0s") {
		t.Errorf("status %d, error %v\n%s", code, err, &out)
	}
}

// An exporter that ends, and can't be started, is no good one.
func TestSoakFailsWithoutAnExporter(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, binary := range []string{filepath.Join(t.TempDir(), "nothing"), "false"} {
		if path, err := exec.LookPath(binary); err == nil {
			binary = path
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if code, err := run(ctx, []string{"--for=10s", "--exporter=" + binary}, io.Discard); err == nil || code != 1 {
			t.Errorf("%s: status %d, error %v", binary, code, err)
		}
	}
}

func TestWrongFlagsAreRefused(t *testing.T) {
	for _, flag := range []string{"--for=1s", "--without=everything", "--sort=x", "x"} {
		if code, err := run(t.Context(), []string{flag}, io.Discard); err == nil || code != 2 {
			t.Errorf("%s: status %d, error %v", flag, code, err)
		}
	}
}

// Each kind of trouble comes, in the same order with the same seed.
func TestEachKindOfTroubleComes(t *testing.T) {
	c := &conductor{settings: &settings{lasts: time.Minute, seed: 1}, world: &world{}}
	topicsOf := map[string]bool{}
	for _, track := range c.tracks() {
		for _, e := range track.episodes {
			topicsOf[e.topic] = true
		}
	}
	if got := slices.Sorted(maps.Keys(topicsOf)); !slices.Equal(got, slices.Sorted(slices.Values(topics))) {
		t.Errorf("%v, want %v", got, topics)
	}
	c.without = topics
	for _, track := range c.tracks() {
		if len(track.episodes) > 0 {
			t.Errorf("%v are left", track.episodes)
		}
	}
}

func TestChains(t *testing.T) {
	at := time.Unix(1000, 0)
	pages := []struct {
		offset int
		ids    string
		end    bool
		want   bool
	}{
		{5, "f g h", false, false}, // leads nowhere
		{0, "a b c d", false, false},
		{6, "g h i", true, false}, // no scraper has read e and f
		{3, "d e f", false, false},
		{0, "z a b c", false, false}, // a sync
		{6, "e f g", false, false},   // the list has moved
		{9, "g h i", true, true},
		{9, "g h i", true, false},
		{0, "a", true, true},
		{0, "", true, true},
	}
	var c chains
	for i, p := range pages {
		at = at.Add(time.Second)
		if s, ok := c.add(at, p.offset, strings.Fields(p.ids), p.end); ok != p.want {
			t.Errorf("page %d: %v %v", i, s, ok)
		} else if i == 6 && !s.start.Equal(time.Unix(1002, 0)) {
			t.Errorf("the scan began at %v", s.start)
		}
	}
}

// newTestWatcher returns one of an Opper with n settled traces of the agent a,
// and a scrape that is right.
func newTestWatcher(t *testing.T, n int) *watcher {
	t.Helper()
	now := time.Now().Add(-time.Hour)
	w := &world{opper: oppertest.New(oppertest.Config{Now: func() time.Time { return now }})}
	w.upstream = newUpstream(w.opper, &timeline{})
	rng := rand.New(rand.NewPCG(1, 1))
	v := newWatcher(&settings{lasts: whole}, nil, w, &promises{out: io.Discard}, &timeline{})
	now = now.Add(time.Minute)
	v.begun = now
	v.syncs = append(v.syncs, now.Add(time.Second))
	now = now.Add(2 * time.Second)
	for range n {
		w.opper.Add(newTrace(rng, "a", time.Minute))
	}
	for range 20 {
		now = now.Add(5 * time.Second)
		if _, _, ok := w.opper.List(0, 100); !ok {
			t.Fatal("no list")
		}
		now = now.Add(time.Second)
		v.syncs = append(v.syncs, now)
	}
	v.last = &reading{Reading: &exportertest.Reading{Lasting: series{}}}
	least, most := exportertest.Bounds(oracle.NewTruth(w.opper, v.rules(false)))
	if !maps.Equal(least, most) || least.Total("opper_traces_total", "") != float64(n) {
		t.Fatalf("%v, %v", least, most)
	}
	maps.Copy(v.last.Lasting, least)
	return v
}

func TestWrongCountsAreFound(t *testing.T) {
	const key = `opper_traces_total{outcome="success",project="default",trace_name="a"}`
	for name, c := range map[string]struct {
		change func(series)
		want   string
	}{
		"right":           {func(series) {}, ""},
		"one too many":    {func(s series) { s[key]++ }, "too much: " + key},
		"one too few":     {func(s series) { s[key]-- }, "too little: " + key},
		"another project": {func(s series) { s[strings.Replace(key, `"a"`, `"foreign-1"`, 1)] = 1 }, "too much: "},
		"a bucket": {func(s series) {
			s[`opper_trace_duration_seconds_bucket{outcome="success",project="default",trace_name="a",le="3600"}`]++
		}, "too much: opper_trace_duration_seconds_bucket"},
		"all missing": {func(s series) { clear(s) }, "too little: "},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTestWatcher(t, 60)
			c.change(v.last.Lasting)
			v.reported["final"] = true
			v.check(true)
			if got := strings.Join(v.promises.list(), "\n"); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A name that another one begins with is a name of its own.
func TestZeroTellsNamesApart(t *testing.T) {
	const traces = `opper_traces_total{outcome="success",project="default",trace_name=%q}`
	names := map[string]float64{"le": 0, "lead": 1, `",le="x"`: 0, "": 0}
	r := &reading{Reading: &exportertest.Reading{Lasting: series{}}}
	for name, n := range names {
		r.Lasting[fmt.Sprintf(traces, name)] = n
	}
	for name, n := range names {
		for _, key := range []string{traces, `opper_tokens_per_trace_bucket{project="default",trace_name=%q,le="16"}`} {
			if key = fmt.Sprintf(key, name); r.zero(key) != (n == 0) {
				t.Errorf("%s: %v", key, n != 0)
			}
		}
	}
}

func TestBrokenPromisesAreFound(t *testing.T) {
	created := time.Unix(1, 0)
	before := func() *reading {
		return &reading{Reading: &exportertest.Reading{Lasting: series{"a": 1}, Native: series{"n": 1}, Created: map[string]time.Time{"a": created}}}
	}
	for want, change := range map[string]func(*reading){
		"":            func(r *reading) { r.Lasting["a"], r.Lasting["b"] = 2, 0; delete(r.Native, "n") },
		"fell":        func(r *reading) { r.Lasting["a"] = 0 },
		"vanished":    func(r *reading) { delete(r.Lasting, "a") },
		"zeros first": func(r *reading) { r.Lasting["b"] = 1 },
		"created":     func(r *reading) { r.Created["a"] = created.Add(time.Second) },
		"fell: n":     func(r *reading) { r.Native["n"] = 0 },
	} {
		v := newWatcher(&settings{lasts: whole}, nil, nil, &promises{out: io.Discard}, &timeline{})
		now := before()
		change(now)
		v.compare(before(), now)
		if got := strings.Join(v.promises.list(), "\n"); (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A soak succeeds only if it kept all promises and proves something; it ends with its figures.
func TestVerdict(t *testing.T) {
	grow := func(v *watcher) {
		for i := range 100 {
			v.samples = append(v.samples, sample{life: 1, at: time.Unix(int64(10*i), 0), values: [3]float64{float64(10 * i)}})
		}
	}
	for name, c := range map[string]struct {
		change func(*watcher)
		want   string
	}{
		"all kept":           {func(*watcher) {}, "all promises were kept"},
		"a promise broken":   {func(v *watcher) { v.promises.offend("fell", "a") }, "fell: a"},
		"a leak":             {grow, "leak: goroutines"},
		"down in the end":    {func(v *watcher) { v.last.Rest[`opper_up{project="default"}`] = 0 }, "up: opper_up is 0"},
		"little was certain": {func(v *watcher) { v.most = 4 * v.least }, "soak: only 60 of up to 240"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTestWatcher(t, 60)
			var out strings.Builder
			v.settings.out = &out
			v.last.Rest = series{`opper_up{project="default"}`: 1}
			v.slowest = 1234 * time.Millisecond
			v.check(true)
			c.change(v)
			if broken := v.verdict(); broken != (name != "all kept") {
				t.Errorf("broken: %t", broken)
			}
			for _, want := range []string{c.want, "counted          60; certain are 60,", "slowest 1.234s;", "leaks  "} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
		})
	}
}

func TestLeaksAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		grow [3]float64 // over the life of the process
		want string
	}{
		"none":        {[3]float64{5, 5, 20 << 20}, ""},
		"goroutines":  {[3]float64{100, 0, 0}, "leak: goroutines"},
		"descriptors": {[3]float64{0, 100, 0}, "leak: descriptors"},
		"memory":      {[3]float64{0, 0, 200 << 20}, "leak: memory"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newWatcher(&settings{lasts: whole}, nil, nil, &promises{out: io.Discard}, &timeline{})
			v.samples = []sample{{life: 1, at: time.Unix(0, 0)}}
			for i := range 100 {
				s := sample{life: 2, at: time.Unix(int64(100+10*i), 0)}
				for k := range s.values {
					s.values[k] = 50 + c.grow[k]*float64(i)/99
				}
				v.samples = append(v.samples, s)
			}
			v.leaks()
			if got := strings.Join(v.promises.list(), "\n"); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
