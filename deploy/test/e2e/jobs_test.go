package e2e_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

// scrapeJob is a job of a Prometheus server that scrapes an exporter in one format.
type scrapeJob struct {
	*promtest.Server
	t       *testing.T
	job     string
	modern  bool // the server has all features that concern the exporter
	created bool // it ingests created timestamps as zeros
}

// formats are the jobs of each server, and what they scrape.
var formats = map[string]string{"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0", "protobuf": "PrometheusProto"}

const features = "--enable-feature=created-timestamp-zero-ingestion,exemplar-storage"

// scrapeJobs starts two servers, with and without features, that scrape addresses
// in each format.
func scrapeJobs(t *testing.T, interval string, addresses ...string) (all []scrapeJob) {
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
			all = append(all, scrapeJob{Server: server, t: t, job: job, modern: modern, created: modern && job == "protobuf"})
		}
	}
	return all
}

func (a scrapeJob) String() string { return fmt.Sprintf("%s, features: %v", a.job, a.modern) }

// scraped waits until every job has scraped what is exposed now.
func scraped(t *testing.T, all []scrapeJob) {
	t.Helper()
	for _, a := range all {
		a.WaitScrapes(t, a.job, 2)
	}
}

// ask evaluates an expression in which JOB stands for the matcher of the job. A
// result of several series is an error, and none is NaN.
func (a scrapeJob) ask(promql string) (float64, error) {
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
func (a scrapeJob) reaches(want float64, promql string) {
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
// in the exposition, plain ones and those of native histograms. Their cost is left out:
// it has no history, and so another begin.
func (a scrapeJob) raw(matchers string) (plain map[string][]model.SamplePair, native map[string][]model.SampleHistogramPair) {
	a.t.Helper()
	m, err := a.Samples(a.t.Context(), fmt.Sprintf(`{job=%q,__name__=~"opper_(trace_|traces_t|tokens_).*",__name__!~".*_timestamp_.*|opper_trace_(cost|model)_.*",%s}`, a.job, matchers), window)
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

// seriesOf returns the series of traces.
func seriesOf(traces []oppertest.Trace) exportertest.Series {
	truth := oracle.Truth{Traces: map[string]oracle.Verdict{}}
	for i, tr := range traces {
		truth.Traces[strconv.Itoa(i)] = oracle.Verdict{Versions: []oracle.Version{{
			Name: *tr.Name, Outcome: map[string]string{"success": "success", "error": "failure"}[*tr.Status], Tokens: *tr.Tokens, Micros: int64(*tr.DurationMS * 1e3),
		}}}
	}
	_, series := exportertest.Bounds(truth)
	for key, n := range maps.Clone(series) {
		if name, labels, ok := strings.Cut(key, "_count{"); ok {
			series[name+"_bucket{"+strings.TrimSuffix(labels, "}")+`,le="+Inf"}`] = n
		}
	}
	return series
}

// The series of one name: outcomes, and buckets with +Inf, sum and count.
var seriesOfName = 2*4 + 3*(len(exportertest.DurationBuckets)+3) + len(exportertest.TokenBuckets) + 3

// exact fails the test unless the raw samples of a name begin, all in one scrape,
// at what the first traces say, never fall, and end at what all of them say.
func (a scrapeJob) exact(name string, first, all []oppertest.Trace) (samples int) {
	a.t.Helper()
	begin, end := seriesOf(first), seriesOf(all)
	plain, native := a.raw(fmt.Sprintf("trace_name=%q", name))
	if len(plain) != seriesOfName {
		a.t.Errorf("%v: %s has %d series, want %d", a, name, len(plain), seriesOfName)
	}
	starts := map[model.Time]bool{}
	for key, values := range plain {
		starts[values[0].Timestamp] = true
		samples = len(values)
		if got := float64(values[0].Value); math.Abs(got-begin[key]) > exportertest.Rounding*begin[key] {
			a.t.Errorf("%v: %s begins at %v, want %v", a, key, got, begin[key])
		}
		if got := float64(values[len(values)-1].Value); math.Abs(got-end[key]) > exportertest.Rounding*end[key] {
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
func (a scrapeJob) increases(want float64, samples int, expression string) {
	a.t.Helper()
	got, err := a.ask(strings.ReplaceAll(expression, "WINDOW", model.Duration(window).String()))
	if err != nil {
		a.t.Fatal(err)
	}
	if maximum := want * (1 + 2.2/float64(samples-1)); !(got >= want-want*exportertest.Rounding && got <= maximum+maximum*exportertest.Rounding) {
		a.t.Errorf("%v: %s is %v, want %v to %v", a, expression, got, want, maximum)
	}
}

// near fails the test unless an expression has a value, or is near it. After a scrape
// that failed there are no series until the next one.
func (a scrapeJob) near(want, within float64, expression string) {
	a.t.Helper()
	var got float64
	promtest.Eventually(a.t, func() (err error) {
		got, err = a.ask(strings.ReplaceAll(expression, "WINDOW", model.Duration(window).String()))
		if err == nil && math.IsNaN(got) {
			err = fmt.Errorf("%v: %s has no value", a, expression)
		}
		return err
	})
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
