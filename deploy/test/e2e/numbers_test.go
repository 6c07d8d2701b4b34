package e2e_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// The first counts of a new name, and the first failure of an old one, are not
// lost to any scraper, in whatever format.
func TestFirstIncrementIsNotLost(t *testing.T) {
	t.Parallel()
	t.Run("on an interval", func(t *testing.T) { firstCounts(t, fast) })
	t.Run("on every scrape", func(t *testing.T) { firstCounts(t, "--collector.interval=0s") })
}

func firstCounts(t *testing.T, interval string) {
	t.Helper()
	s := oppertest.New(oppertest.Config{})
	old := many(40, "old", "success", time.Now().Add(-3*time.Hour))
	s.Add(old...)
	all := scrapeJobs(t, "250ms", exporter(t, s, interval, noSettle))
	scraped(t, all)

	late := slices.Concat(many(1, "new", "success", time.Now()), many(3, "new", "error", time.Now()))
	failure := many(1, "old", "error", time.Now())
	s.Add(slices.Concat(late, failure)...)
	for _, a := range all {
		a.reaches(45, `sum(opper_traces_total{JOB})`)
	}
	scraped(t, all)
	for _, a := range all {
		n := a.exact("new", nil, late)
		a.increases(4, n, `sum(increase(opper_traces_total{JOB,trace_name="new"}[WINDOW]))`)
		a.increases(3, n, `sum(increase(opper_traces_total{JOB,trace_name="new",outcome="failure"}[WINDOW]))`)
		a.increases(4*70, n, `sum(increase(opper_trace_tokens_total{JOB,trace_name="new"}[WINDOW]))`)
		a.near(0.75, exportertest.Rounding, `sum(increase(opper_traces_total{JOB,trace_name="new",outcome="failure"}[WINDOW])) / sum(increase(opper_traces_total{JOB,trace_name="new"}[WINDOW]))`)
		a.near(0.375, 0.125, `histogram_quantile(0.95, sum by (le) (increase(opper_trace_duration_seconds_bucket{JOB,trace_name="new"}[WINDOW])))`)
		a.near(0.3, exportertest.Rounding, `sum(increase(opper_trace_duration_seconds_sum{JOB,trace_name="new"}[WINDOW])) / sum(increase(opper_trace_duration_seconds_count{JOB,trace_name="new"}[WINDOW]))`)
		if a.created {
			a.near(0.3, 0.03, `histogram_quantile(0.95, sum(increase(opper_trace_duration_seconds{JOB,trace_name="new"}[WINDOW])))`)
			a.increases(4, n, `histogram_count(sum(increase(opper_trace_duration_seconds{JOB,trace_name="new"}[WINDOW])))`)
		}
		n = a.exact("old", old, slices.Concat(old, failure))
		a.increases(1, n, `sum(increase(opper_traces_total{JOB,trace_name="old",outcome="failure"}[WINDOW]))`)
	}
}

// at makes an exporter's command listen at a fixed address.
func at(address string, cmd *exec.Cmd) *exec.Cmd {
	for i, arg := range cmd.Args {
		if strings.HasPrefix(arg, "--web.listen-address=") {
			cmd.Args[i] = "--web.listen-address=" + address
		}
	}
	return cmd
}

// After a restart or a crash no number falls, and only traces that ended meanwhile
// are an increase.
func TestRestartIsNoIncrease(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	history := many(500, "steady", "success", time.Now().Add(-3*time.Hour))
	s.Add(history...)
	url, address, stored := opper(t, s), exportertest.FreeAddress(t), "--storage.path="+t.TempDir()
	run := func() *exportertest.Process {
		return exportertest.MustStart(t, at(address, command(t, url, stored, fast, noSettle)))
	}
	p := run()
	p.AwaitReady(t)
	all := scrapeJobs(t, "250ms", address)
	scraped(t, all)

	p.Stop(t)
	meanwhile := many(10, "steady", "success", time.Now())
	s.Add(meanwhile...)
	p = run()
	p.AwaitReady(t)
	for _, a := range all {
		a.reaches(510, `sum(opper_traces_total{JOB})`)
	}
	p.Kill()
	later := many(10, "steady", "success", time.Now())
	s.Add(later...)
	p = run()
	p.AwaitReady(t)
	for _, a := range all {
		a.reaches(520, `sum(opper_traces_total{JOB})`)
	}
	scraped(t, all)
	for _, a := range all {
		n := a.exact("steady", history, slices.Concat(history, meanwhile, later))
		a.increases(20, n, `sum(increase(opper_traces_total{JOB}[WINDOW]))`)
	}
	p.Stop(t)
}

// A name whose traces have all expired stays, and goes on from where it was.
func TestQuietNameKeepsItsSeries(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	quiet := many(3, "quiet", "success", time.Now().Add(-3*time.Hour))
	s.Add(quiet...)
	s.Add(many(3, "other", "success", time.Now().Add(-3*time.Hour))...)
	all := scrapeJobs(t, "250ms", exporter(t, s, fast, noSettle))
	scraped(t, all)
	for _, tr := range quiet {
		s.Delete(tr.ID)
	}
	for _, a := range all {
		a.reaches(3, `sum(opper_traces_listed{JOB})`)
	}
	scraped(t, all)
	back := many(2, "quiet", "success", time.Now())
	s.Add(back...)
	for _, a := range all {
		a.reaches(5, `sum(opper_traces_total{JOB,trace_name="quiet"})`)
	}
	scraped(t, all)
	for _, a := range all {
		n := a.exact("quiet", quiet, slices.Concat(quiet, back))
		a.increases(2, n, `sum(increase(opper_traces_total{JOB,trace_name="quiet"}[WINDOW]))`)
	}
}

// Of two exporters of the same project the greater increase is the truth, also if
// one of them starts later.
func TestGreaterIncreaseOfReplicasIsTheTruth(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	s.Add(many(100, "old", "success", time.Now().Add(-40*24*time.Hour))...)
	first := exporter(t, s, fast, noSettle)
	second := exportertest.FreeAddress(t)
	all := scrapeJobs(t, "250ms", first, second)
	for _, a := range all {
		a.reaches(1, fmt.Sprintf(`count(sum_over_time(up{JOB,instance=%q}[1m]) > 1)`, first))
	}
	s.Add(many(10, "old", "success", time.Now())...)
	for _, a := range all {
		a.reaches(110, `sum(opper_traces_total{JOB})`)
	}
	p := exportertest.MustStart(t, at(second, command(t, opper(t, s), "--storage.path="+t.TempDir(), fast, noSettle)))
	p.AwaitReady(t)
	scraped(t, all)
	s.Add(slices.Concat(many(10, "old", "success", time.Now()), many(5, "new", "error", time.Now()))...)
	for _, a := range all {
		a.reaches(250, `sum(opper_traces_total{JOB})`)
	}
	scraped(t, all)
	for _, a := range all {
		plain, _ := a.raw(fmt.Sprintf(`instance=%q,trace_name="old",outcome="success"`, first))
		n := len(plain[`opper_traces_total{outcome="success",project="default",trace_name="old"}`])
		a.increases(20, n, `sum(max without (instance) (increase(opper_traces_total{JOB,trace_name="old"}[WINDOW])))`)
		a.increases(10, n/3, fmt.Sprintf(`sum(increase(opper_traces_total{JOB,trace_name="old",instance=%q}[WINDOW]))`, second))
		plain, _ = a.raw(fmt.Sprintf(`instance=%q,trace_name="new",outcome="failure"`, second))
		n = len(plain[`opper_traces_total{outcome="failure",project="default",trace_name="new"}`])
		a.increases(5, n, `sum(max without (instance) (increase(opper_traces_total{JOB,trace_name="new"}[WINDOW])))`)
		a.increases(10, n, `sum(increase(opper_traces_total{JOB,trace_name="new"}[WINDOW]))`)
	}
	p.Stop(t)
}

// History is no recent increase: a server that ingests created timestamps as zeros
// puts it where it was, and other servers see no increase.
func TestHistoryIsNoIncrease(t *testing.T) {
	t.Parallel()
	const created = `count({__name__=~"opper_.*_created",JOB})`
	young, aged := "young", "aged"
	s := oppertest.New(oppertest.Config{})
	now := time.Now()
	for i := range 100 {
		s.Add(many(1, young, "success", now.Add(-4*time.Minute+time.Duration(i)*time.Second))...)
		s.Add(many(1, aged, "success", now.Add(-20*24*time.Hour+time.Duration(i)*4*time.Hour))...)
	}
	oldest := model.TimeFromUnixNano(now.Add(-4*time.Minute - 300*time.Millisecond).UnixNano())
	all := scrapeJobs(t, "250ms", exporter(t, s, fast, noSettle, "--web.openmetrics-created"))
	scraped(t, all)
	for _, a := range all {
		a.created = a.modern && a.job != "text"
		a.near(100, 0, `sum(opper_traces_total{JOB,trace_name="aged"})`)
		a.near(100, 0, `sum(opper_traces_total{JOB,trace_name="young"})`)
		for _, sel := range []string{`opper_traces_total{JOB,trace_name="aged"}`, `opper_trace_duration_seconds_bucket{JOB,trace_name="aged",le="+Inf"}`} {
			a.near(0, 0, "sum(increase("+sel+"[WINDOW]))")
			a.near(0, 0, "sum(increase("+sel+"[1h]))")
		}
		plain, native := a.raw(fmt.Sprintf("trace_name=%q", young))
		samples := plain[`opper_traces_total{outcome="success",project="default",trace_name="young"}`]
		if !a.created {
			a.near(0, 0, `sum(increase(opper_traces_total{JOB,trace_name="young"}[WINDOW]))`)
			if samples[0].Value != 100 {
				t.Errorf("%v: begins at %v", a, samples[0])
			}
		} else {
			a.increases(100, len(samples), `sum(increase(opper_traces_total{JOB,trace_name="young"}[WINDOW]))`)
			a.increases(100, len(samples), `sum(increase(opper_trace_duration_seconds_bucket{JOB,trace_name="young",le="0.5"}[WINDOW]))`)
			a.increases(7000, len(samples), `sum(increase(opper_tokens_per_trace_sum{JOB,trace_name="young"}[WINDOW]))`)
			for key, values := range plain {
				if values[0].Value != 0 || values[0].Timestamp != oldest {
					t.Errorf("%v: %s begins at %v, want 0 at %v", a, key, values[0], oldest)
				}
			}
			for key, values := range native {
				if values[0].Histogram.Count != 0 || values[0].Timestamp != oldest {
					t.Errorf("%v: %s begins at %v, want 0 at %v", a, key, values[0], oldest)
				}
			}
		}
		// A server that does not ingest them as zeros stores them as series.
		promtest.Eventually(t, func() error {
			stored, err := a.ask(created)
			if err == nil && (stored > 0) != (a.job == "openmetrics" && !a.modern) {
				err = fmt.Errorf("%v: %v series of created timestamps", a, stored)
			}
			return err
		})
	}
}
