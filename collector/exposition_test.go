package collector

import (
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/opper/oppertest"
)

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
		families := bench.families()
		openMetrics, err := expfmt.NewOpenMetricsFormat(expfmt.OpenMetricsVersion_1_0_0)
		if err != nil {
			b.Fatal(err)
		}
		for name, format := range map[string]expfmt.Format{
			"text": expfmt.NewFormat(expfmt.TypeTextPlain), "openmetrics": openMetrics, "protobuf": expfmt.NewFormat(expfmt.TypeProtoDelim),
		} {
			b.Run(shown.what+"/"+name, func(b *testing.B) {
				var size, packed int
				for b.Loop() {
					out := encoded(b, families, format)
					size = len(out)
					var zipped bytes.Buffer
					z := gzip.NewWriter(&zipped)
					_, _ = z.Write(out) // a buffer takes all
					_ = z.Close()
					packed = zipped.Len()
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
