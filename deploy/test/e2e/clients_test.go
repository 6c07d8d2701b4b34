package e2e_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// Wrong clocks of clients, by much or little, neither reset a series nor keep an
// exemplar from being stored.
func TestClientTimesResetNoSeries(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	var soon time.Time
	odd := func(name string) (out []oppertest.Trace) {
		for i, span := range [][2]time.Time{
			{soon, soon.Add(300 * time.Millisecond)},
			{soon.AddDate(80, 0, 0), soon.AddDate(80, 0, 1)},
			{time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC)},
			{soon, soon.Add(-time.Hour)},
			{{}, soon},
		} {
			tr := many(1, name, "success", span[1])[0]
			tr.ID += fmt.Sprint(i)
			if tr.Start = &span[0]; span[0].IsZero() {
				tr.Start = nil
			}
			out = append(out, tr)
		}
		return out
	}
	var past, future []oppertest.Trace
	// However long the exporter takes to start, its initial sync comes before that time.
	listed := sync.OnceFunc(func() {
		soon = time.Now().Add(15 * time.Second)
		past, future = odd("past"), odd("future")
		s.Add(past...)
	})
	s.OnRequest(func(oppertest.Request) { listed() })
	all := scrapeJobs(t, "250ms", exporter(t, s, fast, noSettle))
	scraped(t, all)
	s.Add(future...)
	for _, a := range all {
		a.reaches(10, `sum(opper_traces_total{JOB})`)
	}
	promtest.Eventually(t, func() error {
		if time.Now().Before(soon.Add(time.Second)) {
			return errors.New("the start times are still in the future")
		}
		return nil
	})
	scraped(t, all)
	last := many(1, "future", "success", time.Now())
	s.Add(last...)
	future = append(future, last...)
	for _, a := range all {
		a.reaches(11, `sum(opper_traces_total{JOB})`)
	}
	scraped(t, all)
	for _, a := range all {
		n := a.exact("future", nil, future)
		a.increases(float64(len(future)), n, `sum(increase(opper_traces_total{JOB,trace_name="future"}[WINDOW]))`)
		a.exact("past", past, past)
		a.near(0, 0, `sum(increase(opper_traces_total{JOB,trace_name="past"}[WINDOW]))`)
		if !a.modern || a.job == "text" {
			continue
		}
		selectors := []string{`opper_trace_duration_seconds_bucket{job=%q,trace_name="future"}`, `opper_tokens_per_trace_bucket{job=%q,trace_name="future"}`}
		if a.job == "protobuf" {
			selectors = append(selectors, `opper_trace_duration_seconds{job=%q,trace_name="future"}`)
		}
		for _, selector := range selectors {
			stored, err := a.Exemplars(t.Context(), fmt.Sprintf(selector, a.job), soon.Add(-time.Hour), soon.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, one := range stored {
				for _, x := range one.Exemplars {
					if x.Timestamp.Time().After(time.Now()) {
						t.Errorf("%v: an exemplar at %v", a, x.Timestamp.Time())
					}
					// A request that was on its way when the trace ended lists it, too, and its
					// time is then the end.
					found = found || string(x.Labels["trace_id"]) == last[0].ID && x.Timestamp.Time().Sub(*last[0].End) <= time.Millisecond
				}
			}
			if !found {
				t.Errorf("%v: the latest trace, %s, which ended at %v, is no exemplar of %s: %v", a, last[0].ID, last[0].End, selector, stored)
			}
		}
	}
}

// Whatever the names of traces are, Prometheus accepts the exposition, no two names
// share a label, and no trace is lost.
func TestHostileNamesStayDistinct(t *testing.T) {
	t.Parallel()
	const maximum = 60
	long := strings.Repeat("日", 4000)
	names := []string{
		"", "(unnamed)", "(other)", `\(other)`, "line\nbreak", `"quoted"`, "back\\slash", "trailing\\", "nul\x00", "{}", `a="b"`, "# HELP x", "\ufffd", " ", "\u2028", "e\u0301", "é",
		"tab\t", "\r\n", long, long + "1", long + "2", strings.Repeat("x", 10_000), "x~0123abcd", "🤖", "\x7f", "\u202eright to left",
	}
	s := oppertest.New(oppertest.Config{})
	for _, name := range names {
		s.Add(many(2, name, "success", time.Now().Add(-time.Hour))...)
	}
	for i := range 5000 {
		s.Add(many(1, fmt.Sprint("made up ", i), "success", time.Now().Add(-time.Hour))...)
	}
	few := []string{"--collector.duration-buckets=1,60", "--collector.token-buckets=100"} // names are what this is about
	all := scrapeJobs(t, "2s", exporter(t, s, append(few, fast, noSettle, fmt.Sprint("--collector.max-trace-names=", maximum))...))
	scraped(t, all)
	late := []string{"late\n", "late\x00", "(late)"}
	for i := range 5000 {
		late = append(late, fmt.Sprint("late ", i))
	}
	for _, name := range late {
		s.Add(many(1, name, "success", time.Now())...)
	}
	traces := float64(2*len(names) + 5000 + len(late))
	want := map[string]float64{"(other)": 0}
	for _, name := range names {
		want[aggregate.Label(name)] = 2
	}
	for _, a := range all {
		a.reaches(traces, `sum(opper_traces_total{JOB})`)
		a.reaches(0, `sum(opper_exporter_trace_names_zero_pending{JOB})`)
		got, err := a.Query(t.Context(), fmt.Sprintf(`sum by (trace_name) (opper_traces_total{job=%q})`, a.job), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != maximum+1 {
			t.Errorf("%v: %d names, want %d", a, len(got), maximum+1)
		}
		found := 0
		for _, sample := range got {
			if n, hostile := want[string(sample.Metric["trace_name"])]; hostile {
				found++
				if n > 0 && float64(sample.Value) != n {
					t.Errorf("%v: %q has %v traces, want %v", a, sample.Metric["trace_name"], sample.Value, n)
				}
			}
		}
		if found != len(want) {
			t.Errorf("%v: %d of %d hostile names", a, found, len(want))
		}
		a.near(0, 0, `sum(opper_exporter_overflow_traces_total{JOB}) - sum(opper_traces_total{JOB,trace_name="(other)"})`)
		asked := float64(len(names) + 5000 + len(late))
		a.near(asked, 0.03*asked, `sum(opper_exporter_trace_names{JOB})`) // an estimate, as they are many
	}
}
