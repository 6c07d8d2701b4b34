package collector

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/opper/oppertest"
)

// handler serves the project as main does. The log of errors goes to that of
// the project.
func (b *bench) handler(opts promhttp.HandlerOpts, others ...prometheus.Collector) http.Handler {
	b.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(others...)
	opts.ErrorLog, opts.ErrorHandling = printer{&b.log}, promhttp.HTTPErrorOnError
	h, err := Handler(b.project, registry, opts)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
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

// What is encoded once and what is not are, together, all that promhttp would
// give, in each format and compression.
func TestExpositionIsWhole(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.FillHistory(300, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	b.sync()
	odd := prometheus.NewCounter(prometheus.CounterOpts{Name: "zz_other_total", Help: "Of others."})
	b.registry.MustRegister(odd)
	decode := map[string]func(io.Reader) (io.Reader, error){
		"identity": func(r io.Reader) (io.Reader, error) { return r, nil },
		"gzip":     func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"zstd":     func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
	}
	for _, created := range []bool{false, true} {
		opts := promhttp.HandlerOpts{EnableOpenMetricsTextCreatedSamples: created}
		ours := b.handler(opts, odd)
		opts.EnableOpenMetrics = true
		theirs := promhttp.HandlerFor(b.registry, opts)
		for name, accept := range accepts {
			want := get(t, theirs, "Accept", accept)
			for encoding, reader := range decode {
				t.Run(fmt.Sprint(name, "/", encoding, "/", created), func(t *testing.T) {
					for range 2 {
						got := get(t, ours, "Accept", accept, "Accept-Encoding", encoding)
						plain, err := reader(got.Body)
						if err != nil {
							t.Fatal(err)
						}
						body, err := io.ReadAll(plain)
						if err != nil {
							t.Fatal(err)
						}
						header := got.Result().Header
						if got.Code != http.StatusOK || header.Get("Content-Type") != want.Header().Get("Content-Type") || (header.Get("Content-Encoding") == "") != (encoding == "identity") {
							t.Errorf("status %d, %v", got.Code, header)
						}
						is, should := pieces(t, header, body), pieces(t, header, want.Body.Bytes())
						if i := slices.IndexFunc(should, func(s string) bool { return !slices.Contains(is, s) }); i >= 0 {
							t.Errorf("missing: %.200s", should[i])
						}
						if len(is) != len(should) || len(should) < len(families) {
							t.Errorf("%d families, want %d", len(is), len(should))
						}
					}
				})
			}
		}
	}
	chosen := httptest.NewRecorder()
	query := "?name[]=zz_other_total&name[]=opper_gone&name[]=opper_traces_listed"
	b.handler(promhttp.HandlerOpts{}, odd).ServeHTTP(chosen, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics"+query, nil))
	if got := strings.Count(chosen.Body.String(), "# TYPE"); got != 2 {
		t.Errorf("2 metrics are chosen, %d come: %s", got, chosen.Body)
	}
}

// pieces takes an exposition apart into its families, each in the same form.
func pieces(t *testing.T, header http.Header, body []byte) []string {
	t.Helper()
	format := expfmt.ResponseFormat(header)
	if format.FormatType() == expfmt.TypeProtoDelim {
		families, err := decoded(header, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range families {
			out = append(out, string(encoded(t, []*dto.MetricFamily{f}, expfmt.NewFormat(expfmt.TypeProtoText))))
		}
		return out
	}
	text := string(body)
	first := "# HELP "
	if strings.HasPrefix(text, "name:") {
		first = "\nname:"
		text = "\n" + text
	}
	if strings.Contains(header.Get("Content-Type"), "openmetrics") {
		if !strings.HasSuffix(text, "\n# EOF\n") || strings.Count(text, "# EOF") != 1 {
			t.Errorf("ends in %q", text[max(len(text)-20, 0):])
		}
		text = strings.TrimSuffix(text, "# EOF\n")
	}
	return strings.Split(strings.TrimPrefix(text, first), first)
}

// What is published is encoded once in each format, however often it is asked
// for, and again only when something has changed. Few formats are kept.
func TestExpositionIsBuiltOnce(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.Add(b.trace(1, "a"))
	b.step(settle)
	b.sync()
	e := &exposition{project: b.project}
	built := func(format expfmt.FormatType) *byte {
		t.Helper()
		body, err := e.encode(expfmt.NewFormat(format))
		if err != nil {
			t.Fatal(err)
		}
		return &body[0]
	}
	text, proto := built(expfmt.TypeTextPlain), built(expfmt.TypeProtoDelim)
	same := func(what string, want bool) {
		t.Helper()
		if got := built(expfmt.TypeTextPlain) == text && built(expfmt.TypeProtoDelim) == proto; got != want {
			t.Errorf("%s: the same bytes: %t", what, got)
		}
	}
	same("asked again", true)
	for i := range maxFormats - 2 {
		if _, err := e.encode(expfmt.Format(fmt.Sprint(expfmt.NewFormat(expfmt.TypeTextPlain), ";m=", i))); err != nil {
			t.Fatal(err)
		}
	}
	same("as many formats as are kept", true)
	b.step(time.Hour)
	b.sync()
	same("a sync without news", true)
	b.opper.Add(b.trace(2, "a"))
	b.sync()
	same("one more is listed", false)
	text, proto = built(expfmt.TypeTextPlain), built(expfmt.TypeProtoDelim)
	b.step(settle)
	b.sync()
	same("it is counted", false)
	for i := range 100 {
		if _, err := e.encode(expfmt.Format(fmt.Sprint(expfmt.NewFormat(expfmt.TypeTextPlain), ";n=", i))); err != nil || len(e.encoded) > maxFormats {
			t.Fatal(len(e.encoded), err)
		}
	}
}

// A body comes first, unless the answer is an error.
func TestBehind(t *testing.T) {
	for status, want := range map[int]string{http.StatusOK: "before", http.StatusInternalServerError: ""} {
		w := httptest.NewRecorder()
		b := &behind{ResponseWriter: w, body: []byte("before")}
		b.WriteHeader(status)
		if _, err := b.Write(nil); err != nil || w.Body.String() != want {
			t.Errorf("%d: %q, %v", status, w.Body, err)
		}
	}
}

// What can't be gathered is an error of the whole scrape, in the log and in the
// answer, whoever it is of.
func TestExpositionFails(t *testing.T) {
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
	check("of others", b.handler(promhttp.HandlerOpts{}, twice))
	shot := *b.project.published.Load()
	b.project.published.Store(&snapshot{shot[0], shot[0]})
	check("published", b.handler(promhttp.HandlerOpts{}))
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
		cfg.Classic, cfg.Native = shown.classic, shown.native
		bench := newBench(b, oppertest.Config{Seed: 1, NoRecord: true}, cfg)
		bench.opper.FillHistory(100_000, 200, epoch.Add(-20*24*time.Hour), epoch.Add(-time.Hour))
		bench.sync()
		families, handler := bench.families(), bench.handler(promhttp.HandlerOpts{})
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
				if n := len(h.GetBucket()); n > 0 && h.GetBucket()[n-1].GetUpperBound() == inf {
					samples--
				}
			}
		}
	}
	return samples, native
}
