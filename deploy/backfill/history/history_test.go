package history_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/historytest"
)

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newHistory(t *testing.T, projects []history.Project) *history.History {
	t.Helper()
	h, err := history.New(projects, history.Options{Step: time.Minute, Labels: map[string]string{"job": "opper"}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// read returns all samples in a range as text, by labels.
func read(s func(func(history.Series) bool)) map[string][]string {
	all := map[string][]string{}
	for s := range s {
		var out []string
		if s.Native {
			for t, h := range s.Histograms() {
				out = append(out, fmt.Sprint(t, h))
			}
		} else {
			for t, v := range s.Floats() {
				out = append(out, fmt.Sprint(t, v))
			}
		}
		if s.Len() < len(out) {
			out = append(out, fmt.Sprintf("more than %d", s.Len()))
		}
		all[s.Labels.String()] = out
	}
	return all
}

// A Reader has the same samples whatever the ranges are in which it is asked, and those it
// is not asked for.
func TestRangesDoNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 6 {
		w := historytest.Random(rng, start, start.Add(10*time.Hour), 1, 100)
		h := newHistory(t, w.Projects())
		first, last, ok := h.Range()
		if !ok || first < start.Add(-time.Minute).UnixMilli() || last > start.Add(10*time.Hour).UnixMilli() {
			t.Fatalf("from %d to %d, %t", first, last, ok)
		}
		whole := read(h.NewReader().Series(first, last+1))
		parts := map[string][]string{}
		readers := []*history.Reader{h.NewReader(), h.NewReader(), h.NewReader()}
		for from := first; from <= last; {
			to := from + 1 + rng.Int64N(2*3600*1000)
			for l, s := range read(readers[rng.IntN(len(readers))].Series(from, min(to, last+1))) {
				parts[l] = append(parts[l], s...)
			}
			from = to
		}
		for l := range whole {
			// The layout of native buckets depends on the end of the range.
			if !strings.Contains(l, `__name__="opper_trace_duration_seconds",`) && !strings.Contains(l, `__name__="opper_tokens_per_trace",`) && !reflect.DeepEqual(whole[l], parts[l]) {
				t.Fatalf("%s:\n%v, in parts\n%v", l, whole[l], parts[l])
			}
			if len(whole[l]) != len(parts[l]) {
				t.Fatalf("%s: %d samples, in parts %d", l, len(whole[l]), len(parts[l]))
			}
		}
		if early := read(h.NewReader().Series(first-1000, first)); len(early) > 0 {
			t.Errorf("before the first sample: %v", early)
		}
	}
}

// Each series ends with what is exposed now, never falls, and starts at 0 or more, whatever
// the list has: here what was counted has nothing to do with it.
func TestNowIsRight(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for i := range 12 {
		listed := historytest.Random(rng, start, start.Add(3*time.Hour), 1, 60).Projects()
		counted := historytest.Random(rng, start, start.Add(3*time.Hour), 1, 60)
		listed[0].Now = counted.Projects()[0].Now
		h := newHistory(t, listed)
		if h.Clamped() == 0 {
			t.Errorf("%d: nothing is left out", i)
		}
		scraped, err := counted.Scraped(map[string]string{"job": "opper"})
		if err != nil {
			t.Fatal(err)
		}
		first, last, _ := h.Range()
		for s := range h.NewReader().Series(first, last+1) {
			if strings.HasPrefix(s.Labels.Get("__name__"), "opper_trace_last_end") {
				continue
			}
			if err := checkSeries(&s, scraped[s.Labels.String()]); err != nil {
				t.Fatalf("%d: %s: %v", i, s.Labels, err)
			}
		}
		checkBuckets(t, h, first, last+1)
	}
}

func checkSeries(s *history.Series, now historytest.Sample) error {
	before := 0.0
	if s.Native {
		for t, h := range s.Histograms() {
			if err := h.Validate(); err != nil {
				return fmt.Errorf("at %d: %w", t, err)
			}
			if h.Sum < before {
				return fmt.Errorf("falls to %v at %d", h.Sum, t)
			}
			before, now.Float = h.Sum, now.Histogram.Sum
		}
	} else {
		for t, v := range s.Floats() {
			if v < before {
				return fmt.Errorf("falls to %v at %d", v, t)
			}
			before = v
		}
	}
	if before != now.Float {
		return fmt.Errorf("ends with %v, exposed is %v", before, now.Float)
	}
	return nil
}

// checkBuckets checks that no classic bucket has less than one below it.
func checkBuckets(t *testing.T, h *history.History, mint, maxt int64) {
	t.Helper()
	type place struct {
		labels string
		t      int64
	}
	counts := map[place]map[string]float64{}
	for s := range h.NewReader().Series(mint, maxt) {
		le := s.Labels.Get("le")
		if le == "" {
			continue
		}
		l := labels.NewBuilder(s.Labels).Del("le").Labels().String()
		for at, v := range s.Floats() {
			if counts[place{l, at}] == nil {
				counts[place{l, at}] = map[string]float64{}
			}
			counts[place{l, at}][le] = v
		}
	}
	bounds := [][]string{{"0.1", "0.5", "1.0", "10.0", "30.0", "600.0", "+Inf"}, {"16.0", "256.0", "4096.0", "1.048576e+06", "+Inf"}}
	for p, c := range counts {
		before := 0.0
		for _, le := range bounds[map[bool]int{true: 0, false: 1}[len(c) == len(bounds[0])]] {
			v, ok := c[le]
			if !ok || v < before {
				t.Fatalf("%s at %d: %v", p.labels, p.t, c)
			}
			before = v
		}
	}
	if len(counts) == 0 {
		t.Error("there are no classic buckets")
	}
}

// The series that are exposed without a listed trace have no history, and neither have
// listed traces of which nothing is exposed.
func TestOnlyWhatIsBoth(t *testing.T) {
	end := start.UnixMilli()
	w := &historytest.World{Classic: true, Traces: []historytest.Trace{
		{Project: "a", Name: "expired", End: start, HasTokens: true, Tokens: 5},
		{Project: "a", Name: "listed", End: start, HasTokens: true, Tokens: 5, Listed: true},
	}}
	p := w.Projects()
	p[0].Names = append(p[0].Names, "gone")
	p[0].Events = append(p[0].Events, history.Event{End: end, Name: 1, Duration: -1, Tokens: -1})
	h := newHistory(t, p)
	for l := range read(h.NewReader().Series(0, end+1)) {
		if !strings.Contains(l, `trace_name="listed"`) {
			t.Errorf("there is %s", l)
		}
	}
	if series, samples := h.Size(end-10*60_000, end+1, true); series == 0 || samples != uint64(2*series) {
		t.Errorf("%d series with %d samples, want two of each", series, samples)
	}
}

// An exporter whose histograms restarted has counted less in them than is listed.
func TestRestartedHistograms(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(3, 1)), start, start.Add(3*time.Hour), 1, 200)
	half := &historytest.World{Classic: true, Native: true}
	restart := start.Add(90 * time.Minute)
	for _, tr := range w.Traces {
		if tr.End.After(restart) {
			half.Traces = append(half.Traces, tr)
		}
	}
	p := w.Projects()
	for i, f := range p[0].Now {
		for _, later := range half.Projects()[0].Now {
			if f.GetName() == later.GetName() && f.GetType() == dto.MetricType_HISTOGRAM {
				p[0].Now[i] = later
			}
		}
	}
	h := newHistory(t, p)
	if h.Clamped() == 0 {
		t.Error("nothing is left out")
	}
	for s := range h.NewReader().Series(0, restart.UnixMilli()) {
		if name := s.Labels.Get("__name__"); name == "opper_trace_duration_seconds_count" || name == "opper_tokens_per_trace_count" {
			for at, v := range s.Floats() {
				if v != 0 {
					t.Fatalf("%s: %v at %d, before the restart", s.Labels, v, at)
				}
			}
		}
	}
}

// A sum has the same bits, however large it is.
func TestSumsHaveTheSameBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	for range 100_000 {
		micros := int64(math.Exp2(63 * rng.Float64()))
		if rng.IntN(100) == 0 {
			micros = math.MaxInt64
		}
		now := float64(micros) / 1e6
		if got := float64(history.Units(now, 1e6)) / 1e6; got != now {
			t.Fatalf("%d microseconds are %v, and then %v", micros, now, got)
		}
		if got := history.Units(now, 1e6); micros < 1<<50 && got != micros {
			t.Fatalf("%d microseconds, want %d", got, micros)
		}
	}
}

func TestRefused(t *testing.T) {
	w := &historytest.World{Classic: true, Traces: []historytest.Trace{{Project: "a", Name: "n", End: start, Listed: true}}}
	noName := w.Projects()
	noName[0].Events[0].Name = 1
	twice := w.Projects()
	twice[0].Names = append(twice[0].Names, "n")
	twice[0].Events = append(twice[0].Events, history.Event{Name: 1, End: 1})
	outcome := (&historytest.World{Traces: w.Traces}).Projects()
	strange := "strange"
	outcome[0].Now[0].Metric[0].Label[0].Value = &strange
	for _, c := range []struct {
		projects []history.Project
		step     time.Duration
		labels   map[string]string
		want     string
	}{
		{w.Projects(), 0, nil, "step 0s: expected 1s to 4m0s"},
		{w.Projects(), 5 * time.Minute, nil, "step 5m0s: expected 1s to 4m0s"},
		{w.Projects(), time.Minute, map[string]string{"project": "x"}, `label "project" is the exporter's own`},
		{w.Projects(), time.Minute, map[string]string{"le": "x"}, `label "le" is the exporter's own`},
		{w.Projects(), time.Minute, map[string]string{"__name__": "x"}, `label "__name__" is not a valid name`},
		{w.Projects(), time.Minute, map[string]string{"": "x"}, `label "" is not a valid name`},
		{w.Projects(), time.Minute, map[string]string{"job": "\xff"}, `label "job": its value is not valid UTF-8`},
		{append(w.Projects(), w.Projects()...), time.Minute, nil, `there are two series {`},
		{noName, time.Minute, nil, `project "a": an event has no name`},
		{twice, time.Minute, nil, `project "a": trace name "n" is there twice`},
		{outcome, time.Minute, nil, `project "a": opper_traces_total: unknown outcome "strange"`},
	} {
		_, err := history.New(c.projects, history.Options{Step: c.step, Labels: c.labels})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestNoEvents(t *testing.T) {
	h := newHistory(t, (&historytest.World{Classic: true, Native: true, Traces: []historytest.Trace{{Project: "a", Name: "n", End: start}}}).Projects())
	if first, last, ok := h.Range(); ok {
		t.Errorf("from %d to %d", first, last)
	}
	if all := read(h.NewReader().Series(0, start.UnixMilli())); len(all) > 0 {
		t.Errorf("there are %v", all)
	}
}

// A name whose first trace ends after the history has a 0 in it. The exporter exposes what it
// has counted at once, which would be in no increase otherwise.
func TestNamesThatBeginAfterTheEndStartAt0(t *testing.T) {
	w := &historytest.World{Classic: true, Native: true, Traces: []historytest.Trace{
		{Project: "a", Name: "early", End: start, HasTokens: true, Tokens: 5, Listed: true},
		{Project: "a", Name: "late", End: start.Add(5 * time.Hour), HasTokens: true, Tokens: 5, HasDuration: true, Duration: time.Second, Listed: true},
	}}
	h := newHistory(t, w.Projects())
	end := start.Add(2 * time.Hour).UnixMilli()
	h.EndAt(end)
	if first, _, _ := h.Range(); first != start.Add(-time.Minute).UnixMilli() {
		t.Errorf("it begins at %d", first)
	}
	reader := h.NewReader()
	for l := range read(reader.Series(end-2*3_600_000, end-3_600_000)) {
		if strings.Contains(l, `trace_name="late"`) {
			t.Errorf("an hour before the end, there is %s", l)
		}
	}
	scraped, err := w.Scraped(map[string]string{"job": "opper"})
	if err != nil {
		t.Fatal(err)
	}
	got := read(reader.Series(end-3_600_000, end))
	for l := range scraped {
		if !strings.Contains(l, `trace_name="late"`) || strings.Contains(l, "opper_trace_last_end") {
			continue
		}
		want := fmt.Sprint(end-1000, 0)
		if s := got[l]; len(s) != 1 || s[0] != want && s[0] != fmt.Sprint(end-1000, &histogram.Histogram{}) {
			t.Errorf("%s has %v, want %s", l, s, want)
		}
	}
}
