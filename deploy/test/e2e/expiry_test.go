package e2e_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

// running returns a trace without an end, which keeps its name from expiring.
func running(name string) oppertest.Trace {
	tr := ended(name)
	tr.ID += "-running"
	tr.End, tr.Status, tr.DurationMS, tr.Tokens = nil, nil, nil, nil
	return tr
}

// The series of a name that expires end, and begin at 0 when it returns, so that the
// increase is the sum of both lifetimes, though the exporter was killed between.
func TestExpiredNameIsNoReset(t *testing.T) {
	t.Parallel()
	const name = "retired"
	s := oppertest.New(oppertest.Config{})
	s.Add(many(7, "steady", "success", time.Now().Add(-3*time.Hour))...)
	s.Add(running("steady"))
	url, address, stored := opper(t, s), exportertest.FreeAddress(t), "--storage.path="+t.TempDir()
	run := func() *exportertest.Process {
		p := exportertest.MustStart(t, at(address, command(t, url, stored, fast, noSettle, "--collector.trace-name-expiry=2s")))
		p.AwaitReady(t)
		return p
	}
	p := run()
	all := scrapeJobs(t, "250ms", address)
	scraped(t, all)

	// live counts traces of the name until every job has scraped them.
	live := func(traces []oppertest.Trace) (open oppertest.Trace) {
		open = running(name)
		s.Add(append(traces, open)...)
		for _, a := range all {
			a.reaches(float64(len(traces)), `sum(opper_traces_total{JOB,trace_name="retired"})`)
		}
		scraped(t, all)
		return open
	}
	first := many(5, name, "success", time.Now())
	s.Delete(live(first).ID)
	for _, tr := range first {
		s.Delete(tr.ID)
	}
	p.AwaitLog(t, "trace names expired", "trace_names="+name)
	for _, a := range all {
		a.reaches(0, `count({JOB,trace_name="retired"}) or vector(0)`)
		a.reaches(7, `sum(opper_traces_total{JOB})`)
		a.reaches(1, `opper_exporter_trace_names_expired_total{JOB}`)
	}
	p.Kill()
	p = run()
	scraped(t, all)
	second := append(many(2, name, "success", time.Now()), many(1, name, "error", time.Now())...)
	live(second)

	was, is := seriesOf(first), seriesOf(second)
	for _, a := range all {
		plain, _ := a.raw(fmt.Sprintf("trace_name=%q", name))
		if len(plain) != seriesOfName {
			t.Errorf("%v: %d series, want %d", a, len(plain), seriesOfName)
		}
		samples := 0
		for key, values := range plain {
			rise, falls := float64(values[0].Value), 0
			for i, v := range values[1:] {
				switch before := values[i].Value; {
				case v.Value >= before:
					rise += float64(v.Value - before)
				case v.Value == 0:
					falls++
				default:
					t.Errorf("%v: %s falls from %v to %v", a, key, before, v.Value)
				}
			}
			if want := was[key] + is[key]; values[0].Value != 0 || math.Abs(rise-want) > exportertest.Rounding*want || falls > 1 {
				t.Errorf("%v: %s begins at %v, rises by %v and falls %d times, want a rise by %v", a, key, values[0].Value, rise, falls, want)
			}
			samples = len(values)
		}
		a.increases(8, samples, `sum(increase(opper_traces_total{JOB,trace_name="retired"}[WINDOW]))`)
		a.increases(1, samples, `sum(increase(opper_traces_total{JOB,trace_name="retired",outcome="failure"}[WINDOW]))`)
		a.increases(8, samples, `sum(increase(opper_trace_duration_seconds_count{JOB,trace_name="retired"}[WINDOW]))`)
		if a.created {
			a.increases(8, samples, `histogram_count(sum(increase(opper_trace_duration_seconds{JOB,trace_name="retired"}[WINDOW])))`)
		}
		a.near(0, 0, `sum(increase(opper_traces_total{JOB,trace_name="steady"}[WINDOW]))`)
	}
	p.Stop(t)
}
