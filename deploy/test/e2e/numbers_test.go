package e2e_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// audience is a server that reads an exporter in one format.
type audience struct {
	*promtest.Server
	t       *testing.T
	job     string
	modern  bool // it has all features that help to read our numbers
	created bool // it takes created timestamps for zeros
}

// formats are the jobs of each server.
var formats = map[string]string{"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0", "protobuf": "PrometheusProto"}

const features = "--enable-feature=created-timestamp-zero-ingestion,exemplar-storage"

// audiences are two servers, with and without features, that scrape addresses in
// each format.
func audiences(t *testing.T, interval string, addresses ...string) (all []audience) {
	t.Helper()
	for _, modern := range []bool{false, true} {
		yaml := fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %[1]s}\nscrape_configs:\n", interval)
		var flags []string
		if modern {
			flags = []string{features}
		}
		for job, protocol := range formats {
			yaml += fmt.Sprintf("- {job_name: %s, scrape_protocols: [%s], scrape_native_histograms: %v, always_scrape_classic_histograms: %[3]v, static_configs: [{targets: [%s]}]}\n",
				job, protocol, modern, strings.Join(addresses, ", "))
		}
		server := promtest.Start(t, promtest.Config{YAML: yaml, Flags: flags})
		for job := range formats {
			all = append(all, audience{Server: server, t: t, job: job, modern: modern, created: modern && job == "protobuf"})
		}
	}
	return all
}

func (a audience) String() string { return fmt.Sprintf("%s, features: %v", a.job, a.modern) }

// scraped waits until everybody has what is exposed now.
func scraped(t *testing.T, all []audience) {
	t.Helper()
	for _, a := range all {
		a.WaitScrapes(t, a.job, 2)
	}
}

// ask evaluates an expression in which JOB stands for the matcher of the job. A
// result of several series is an error, and none is NaN.
func (a audience) ask(promql string) (float64, error) {
	v, err := a.Query(a.t.Context(), strings.ReplaceAll(promql, "JOB", fmt.Sprintf("job=%q", a.job)), time.Now())
	switch {
	case err != nil:
		return 0, err
	case len(v) == 0:
		return math.NaN(), nil
	case len(v) > 1:
		return 0, fmt.Errorf("%d series of %s", len(v), promql)
	}
	return float64(v[0].Value), nil
}

// reaches waits until an expression has a value.
func (a audience) reaches(want float64, promql string) {
	a.t.Helper()
	promtest.Eventually(a.t, func() error {
		got, err := a.ask(promql)
		if err == nil && got != want {
			err = fmt.Errorf("%v: %s is %v, want %v", a, promql, got, want)
		}
		return err
	})
}

// window is longer than any test.
const window = 15 * time.Minute

// raw returns the raw samples of the traces' series by the names that they have
// in the exposition, plain ones and those of native histograms.
func (a audience) raw(matchers string) (plain map[string][]model.SamplePair, native map[string][]model.SampleHistogramPair) {
	a.t.Helper()
	m, err := a.Samples(a.t.Context(), fmt.Sprintf(`{job=%q,__name__=~"opper_(trace_|traces_t|tokens_).*",__name__!~".*_timestamp_.*",%s}`, a.job, matchers), window)
	if err != nil {
		a.t.Fatal(err)
	}
	plain, native = map[string][]model.SamplePair{}, map[string][]model.SampleHistogramPair{}
	for _, stream := range m {
		labels := make([]string, 0, 4)
		for name, value := range stream.Metric {
			switch name {
			case model.MetricNameLabel, model.JobLabel, model.InstanceLabel:
				continue
			case model.BucketLabel:
				bound, err := strconv.ParseFloat(string(value), 64)
				if err != nil {
					a.t.Fatal(err)
				}
				value = model.LabelValue(fmt.Sprint(bound))
			}
			labels = append(labels, fmt.Sprintf("%s=%q", name, string(value)))
		}
		// As in the exposition, le is the last.
		slices.SortFunc(labels, func(x, y string) int {
			return strings.Compare(strings.Replace(x, "le=", "~", 1), strings.Replace(y, "le=", "~", 1))
		})
		key := string(stream.Metric[model.MetricNameLabel]) + "{" + strings.Join(labels, ",") + "}"
		if len(stream.Values) > 0 {
			plain[key] = stream.Values
		}
		if len(stream.Histograms) > 0 {
			native[key] = stream.Histograms
		}
	}
	return plain, native
}

// worthOf returns what traces add to the series.
func worthOf(t *testing.T, traces []oppertest.Trace) exportertest.Series {
	t.Helper()
	want := exportertest.Series{}
	for _, tr := range traces {
		v := oracle.Version{Name: aggregate.Label(*tr.Name), Outcome: map[string]string{"success": "success", "error": "failure"}[*tr.Status], Tokens: *tr.Tokens, Micros: int64(*tr.DurationMS * 1e3)}
		for key, add := range worth(v) {
			want[key] += add
		}
	}
	for key, n := range maps.Clone(want) {
		if name, labels, ok := strings.Cut(key, "_count{"); ok {
			want[name+"_bucket{"+strings.TrimSuffix(labels, "}")+`,le="+Inf"}`] = n
		}
	}
	return want
}

// The series of one name: outcomes, and buckets with +Inf, sum and count.
var seriesOfName = 2*4 + 3*(len(durationBounds)+3) + len(tokenBounds) + 3

// exact fails the test unless the raw samples of a name begin, all in one scrape,
// at what the first traces say, never fall, and end at what all of them say.
func (a audience) exact(name string, first, all []oppertest.Trace) (samples int) {
	a.t.Helper()
	begin, end := worthOf(a.t, first), worthOf(a.t, all)
	plain, native := a.raw(fmt.Sprintf("trace_name=%q", name))
	if len(plain) != seriesOfName {
		a.t.Errorf("%v: %s has %d series, want %d", a, name, len(plain), seriesOfName)
	}
	starts := map[model.Time]bool{}
	for key, values := range plain {
		starts[values[0].Timestamp] = true
		samples = len(values)
		if got := float64(values[0].Value); math.Abs(got-begin[key]) > rounding*begin[key] {
			a.t.Errorf("%v: %s begins at %v, want %v", a, key, got, begin[key])
		}
		if got := float64(values[len(values)-1].Value); math.Abs(got-end[key]) > rounding*end[key] {
			a.t.Errorf("%v: %s ends at %v, want %v", a, key, got, end[key])
		}
		for i, v := range values[1:] {
			if v.Value < values[i].Value {
				a.t.Errorf("%v: %s falls from %v to %v", a, key, values[i].Value, v.Value)
			}
		}
	}
	if len(starts) != 1 {
		a.t.Errorf("%v: the series of %s begin at %d times", a, name, len(starts))
	}
	if (a.modern && a.job == "protobuf") != (len(native) > 0) {
		a.t.Errorf("%v: %d native histograms", a, len(native))
	}
	for key, values := range native {
		family, labels, _ := strings.Cut(key, "{")
		count := family + "_count{" + labels
		if got := float64(values[len(values)-1].Histogram.Count); got != end[count] {
			a.t.Errorf("%v: %s ends at %v, want %v", a, key, got, end[count])
		}
		for i, v := range values[1:] {
			if v.Histogram.Count < values[i].Histogram.Count {
				a.t.Errorf("%v: %s falls", a, key)
			}
		}
	}
	return samples
}

// increases fails the test unless the increase of a selector is what the raw
// samples say, within what the extrapolation explains: at most 1.1 times the
// mean distance of the samples at each end.
func (a audience) increases(want float64, samples int, expression string) {
	a.t.Helper()
	got, err := a.ask(strings.ReplaceAll(expression, "WINDOW", model.Duration(window).String()))
	if err != nil {
		a.t.Fatal(err)
	}
	if most := want * (1 + 2.2/float64(samples-1)); !(got >= want-want*rounding && got <= most+most*rounding) {
		a.t.Errorf("%v: %s is %v, want %v to %v", a, expression, got, want, most)
	}
}

// near fails the test unless an expression has a value, or is near it.
func (a audience) near(want, within float64, expression string) {
	a.t.Helper()
	got, err := a.ask(strings.ReplaceAll(expression, "WINDOW", model.Duration(window).String()))
	if err != nil {
		a.t.Fatal(err)
	}
	if !(math.Abs(got-want) <= within) {
		a.t.Errorf("%v: %s is %v, want %v within %v", a, expression, got, want, within)
	}
}

// many makes traces that ended at a time.
func many(n int, name, status string, end time.Time) []oppertest.Trace {
	out := make([]oppertest.Trace, n)
	for i := range out {
		out[i] = ended(name)
		out[i].ID += fmt.Sprint("-", status, "-", i)
		out[i].Status, out[i].Start, out[i].End = &status, new(end.Add(-300*time.Millisecond)), &end
	}
	return out
}

// The first counts of a new name, and the first failure of an old one, are not
// lost to anybody who scrapes, in whatever format.
func TestFirstCounts(t *testing.T) {
	t.Parallel()
	t.Run("on an interval", func(t *testing.T) { firstCounts(t, fast) })
	t.Run("on every scrape", func(t *testing.T) { firstCounts(t, "--collector.interval=0s") })
}

func firstCounts(t *testing.T, interval string) {
	t.Helper()
	s := oppertest.New(oppertest.Config{})
	old := many(40, "old", "success", time.Now().Add(-3*time.Hour))
	s.Add(old...)
	all := audiences(t, "250ms", exporter(t, s, interval, noSettle))
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
		a.near(0.75, rounding, `sum(increase(opper_traces_total{JOB,trace_name="new",outcome="failure"}[WINDOW])) / sum(increase(opper_traces_total{JOB,trace_name="new"}[WINDOW]))`)
		a.near(0.375, 0.125, `histogram_quantile(0.95, sum by (le) (increase(opper_trace_duration_seconds_bucket{JOB,trace_name="new"}[WINDOW])))`)
		a.near(0.3, rounding, `sum(increase(opper_trace_duration_seconds_sum{JOB,trace_name="new"}[WINDOW])) / sum(increase(opper_trace_duration_seconds_count{JOB,trace_name="new"}[WINDOW]))`)
		if a.created {
			a.near(0.3, 0.03, `histogram_quantile(0.95, sum(increase(opper_trace_duration_seconds{JOB,trace_name="new"}[WINDOW])))`)
			a.increases(4, n, `histogram_count(sum(increase(opper_trace_duration_seconds{JOB,trace_name="new"}[WINDOW])))`)
		}
		n = a.exact("old", old, slices.Concat(old, failure))
		a.increases(1, n, `sum(increase(opper_traces_total{JOB,trace_name="old",outcome="failure"}[WINDOW]))`)
	}
}

// fixedAddress returns an address that an exporter can come back to: its port is
// not among those that the system gives to others meanwhile.
func fixedAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address); err == nil {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			return address
		}
	}
	t.Fatal("no free port")
	return ""
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

// A restart, a crash, and what ends meanwhile make no number fall, and are news
// only as far as they are.
func TestRestartIsNoNews(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	history := many(500, "steady", "success", time.Now().Add(-3*time.Hour))
	s.Add(history...)
	url, address, stored := opper(t, s), fixedAddress(t), "--storage.path="+t.TempDir()
	run := func() *exportertest.Process {
		return exportertest.MustStart(t, at(address, command(t, url, stored, fast, noSettle)))
	}
	p := run()
	p.AwaitReady(t)
	all := audiences(t, "250ms", address)
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
	news := many(10, "steady", "success", time.Now())
	s.Add(news...)
	p = run()
	p.AwaitReady(t)
	for _, a := range all {
		a.reaches(520, `sum(opper_traces_total{JOB})`)
	}
	scraped(t, all)
	for _, a := range all {
		n := a.exact("steady", history, slices.Concat(history, meanwhile, news))
		a.increases(20, n, `sum(increase(opper_traces_total{JOB}[WINDOW]))`)
	}
	p.Stop(t)
}

// A name whose traces have all expired stays, and goes on from where it was.
func TestQuietName(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	quiet := many(3, "quiet", "success", time.Now().Add(-3*time.Hour))
	s.Add(quiet...)
	s.Add(many(3, "other", "success", time.Now().Add(-3*time.Hour))...)
	all := audiences(t, "250ms", exporter(t, s, fast, noSettle))
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
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	s.Add(many(100, "old", "success", time.Now().Add(-40*24*time.Hour))...)
	first := exporter(t, s, fast, noSettle)
	second := fixedAddress(t)
	all := audiences(t, "250ms", first, second)
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

// History is no news to anybody: a server that takes created timestamps for
// zeros puts it where it was, and others don't see it grow.
func TestHistoryIsNoNews(t *testing.T) {
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
	all := audiences(t, "250ms", exporter(t, s, fast, noSettle, "--web.openmetrics-created"))
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
		// Who does not read them as such stores them.
		if stored, err := a.ask(created); err != nil || (stored > 0) != (a.job == "openmetrics" && !a.modern) {
			t.Errorf("%v: %v series of created timestamps, %v", a, stored, err)
		}
	}
}

// Clients that are out of their time, by much or little, neither reset a series
// nor keep an exemplar from being stored.
func TestClientTimes(t *testing.T) {
	t.Parallel()
	s := oppertest.New(oppertest.Config{})
	soon := time.Now().Add(4 * time.Second)
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
	past, future := odd("past"), odd("future")
	s.Add(past...)
	all := audiences(t, "250ms", exporter(t, s, fast, noSettle))
	scraped(t, all)
	s.Add(future...)
	for _, a := range all {
		a.reaches(10, `sum(opper_traces_total{JOB})`)
	}
	promtest.Eventually(t, func() error {
		if time.Now().Before(soon.Add(time.Second)) {
			return errors.New("the future has not come")
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
					found = found || string(x.Labels["trace_id"]) == last[0].ID && x.Timestamp.Time().Sub(*last[0].End).Abs() <= time.Millisecond
				}
			}
			if !found {
				t.Errorf("%v: the latest trace is no exemplar of %s: %v", a, selector, stored)
			}
		}
	}
}

// Whatever names programs make up, a server takes the exposition, no two names
// become one, and no trace is lost.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	const most = 60
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
	all := audiences(t, "1s", exporter(t, s, fast, noSettle, fmt.Sprint("--collector.max-trace-names=", most)))
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
		if len(got) != most+1 {
			t.Errorf("%v: %d names, want %d", a, len(got), most+1)
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
