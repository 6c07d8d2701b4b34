package collector

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // as in main
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/scrape"
	"opper_exporter/opper/oppertest"
)

// handler serves the project as main does. The log of errors goes to that of
// the project.
func (b *bench) handler(created bool, others ...prometheus.Collector) http.Handler {
	b.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(benchCollector{b})
	registry.MustRegister(others...)
	logger := log.NewLogfmtLogger(&b.log)
	return scrape.NewResponses(logger, time.Minute, 1<<20).Buffer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: printer{&b.log}, ErrorHandling: promhttp.PanicOnError,
		EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: created,
	}))
}

type printer struct{ io.Writer }

func (p printer) Println(v ...any) { _, _ = fmt.Fprintln(p, v...) }

// The formats that can be asked for.
var accepts = map[string]string{
	"text":                   "text/plain;version=0.0.4",
	"any":                    "*/*",
	"OpenMetrics":            "application/openmetrics-text;version=1.0.0",
	"OpenMetrics 0":          "application/openmetrics-text;version=0.0.1",
	"protobuf":               "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
	"protobuf text":          "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
	"protobuf short":         "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text",
	"what a server asks for": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
}

// What can't be gathered is an error of the whole scrape, in the log and in the
// answer, whichever project it is of.
func TestGatherErrorFailsTheScrape(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.sync()
	twice := prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		for range 2 {
			ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("twice", "", nil, nil), prometheus.GaugeValue, 1)
		}
	})
	check := func(what string, h http.Handler) {
		t.Helper()
		mark := len(b.log.String())
		w := get(t, h)
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "# TYPE") {
			t.Errorf("%s: answered %d: %.200s", what, w.Code, w.Body)
		}
		if n := strings.Count(b.log.String()[mark:], "error gathering metrics"); n != 1 {
			t.Errorf("%s: logged %d times: %s", what, n, b.log.String()[mark:])
		}
	}
	check("of others", b.handler(false, twice))
	shot := *b.project.snapshots.published.Load()
	b.project.snapshots.published.Store(&snapshot{shot[0], shot[0]})
	check("published", b.handler(false))
}

// brokenMetric is a counter that client_golang would not construct.
type brokenMetric struct {
	desc    *prometheus.Desc
	counter *dto.Counter
}

// Desc implements prometheus.Metric.
func (m *brokenMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *brokenMetric) Write(out *dto.Metric) error {
	out.Counter = m.counter
	return nil
}

// What an encoder cannot write is an error of the whole scrape, wherever in it
// that is; a format that leaves it out is complete.
func TestEncodingErrorFailsTheScrape(t *testing.T) {
	counter := func(c *dto.Counter) prometheus.Metric {
		return &brokenMetric{prometheus.NewDesc("zz_broken_total", "", nil, nil), c}
	}
	at := func(seconds int64) prometheus.Metric {
		return counter(&dto.Counter{Value: new(1.0), Exemplar: &dto.Exemplar{
			Label: []*dto.LabelPair{{Name: new("trace_id"), Value: new("1")}}, Value: new(1.0), Timestamp: &timestamppb.Timestamp{Seconds: seconds},
		}})
	}
	for what, c := range map[string]struct {
		metric prometheus.Metric
		fails  string // in what is asked for
	}{
		"exemplar in year 0":     {at(-62_135_600_400), "openmetrics"},
		"exemplar in year 10000": {at(253_402_300_800), "openmetrics"},
		"no value":               {counter(nil), ""},
	} {
		b := newBench(t, oppertest.Config{}, testConfig())
		b.sync()
		broken := prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) { ch <- c.metric })
		for format, accept := range accepts {
			for _, created := range []bool{false, true} {
				t.Run(fmt.Sprint(what, "/", format, "/", created), func(t *testing.T) {
					fails := strings.Contains(accept, c.fails)
					for _, encoding := range []string{"identity", "gzip", "zstd"} {
						mark := len(b.log.String())
						w := get(t, b.handler(created, broken), "Accept", accept, "Accept-Encoding", encoding)
						logged := strings.Count(b.log.String()[mark:], "\n")
						if fails && (w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "opper_up") || w.Header().Get("Content-Encoding") != "" || logged == 0) {
							t.Errorf("%d, %v, %d lines logged: %.100s", w.Code, w.Header(), logged, w.Body)
						}
						if !fails && (w.Code != http.StatusOK || logged > 0) {
							t.Errorf("%d, %d lines logged: %.100s", w.Code, logged, w.Body)
						}
						if n := strings.Count(b.log.String()[mark:], "error gathering") + strings.Count(b.log.String()[mark:], "error encoding"); fails != (n == 1) {
							t.Errorf("logged %d times: %s", n, b.log.String()[mark:])
						}
					}
				})
			}
		}
	}
}

// BenchmarkExposition says how large an exposition of 200 names is, all of whose
// outcomes occur, in bytes and in series: samples of the text, and native
// histograms as one each.
func BenchmarkExposition(b *testing.B) {
	for _, shown := range []struct {
		what            string
		classic, native bool
	}{{"all", true, true}, {"without native", true, false}, {"without classic", false, true}, {"without both", false, false}} {
		cfg := testConfig()
		cfg.ClassicHistograms, cfg.NativeHistograms = shown.classic, shown.native
		bench := newBench(b, oppertest.Config{Seed: 1, NoRecord: true}, cfg)
		bench.opper.FillHistory(100_000, 200, epoch.Add(-20*24*time.Hour), epoch.Add(-time.Hour))
		bench.sync()
		families, handler := bench.families(), bench.handler(false)
		for _, format := range []string{"text", "OpenMetrics", "protobuf"} {
			b.Run(shown.what+"/"+format, func(b *testing.B) {
				var size, packed int
				for b.Loop() {
					size = get(b, handler, "Accept", accepts[format]).Body.Len()
					packed = get(b, handler, "Accept", accepts[format], "Accept-Encoding", "gzip").Body.Len()
				}
				b.ReportMetric(float64(size), "bytes")
				b.ReportMetric(float64(packed), "gzip-bytes")
				samples, native := seriesIn(families)
				b.ReportMetric(float64(samples), "series")
				b.ReportMetric(float64(native), "native-series")
			})
		}
	}
}

// seriesIn counts what a server stores of an exposition.
func seriesIn(families []*dto.MetricFamily) (samples, native int) {
	for _, f := range families {
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			switch {
			case h == nil:
				samples++
			case h.Schema != nil:
				native++
			}
			if h != nil {
				samples += len(h.GetBucket()) + 3 // sum, count and +Inf
				if n := len(h.GetBucket()); n > 0 && h.GetBucket()[n-1].GetUpperBound() == math.Inf(1) {
					samples--
				}
			}
		}
	}
	return samples, native
}
