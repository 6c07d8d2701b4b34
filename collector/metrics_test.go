package collector

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
)

// written returns the metrics of a family, as a scrape gets them.
func written(t *testing.T, shot snapshot, f *prometheus.Desc) (out []*dto.Metric) {
	t.Helper()
	for _, m := range shot {
		if m.Desc() == f {
			w := new(dto.Metric)
			if err := m.Write(w); err != nil {
				t.Fatal(err)
			}
			out = append(out, w)
		}
	}
	return out
}

// Our histograms are client_golang's to the last span, but for the sum, which
// is exact.
func TestHistogramsLikeClientGolang(t *testing.T) {
	for what, draw := range map[string]func(*rand.Rand) time.Duration{
		"none":    nil,
		"narrow":  func(rng *rand.Rand) time.Duration { return time.Duration(1e9 * math.Exp(rng.NormFloat64())) },
		"wide":    func(rng *rand.Rand) time.Duration { return time.Duration(math.Exp2(63 * rng.Float64())) },
		"sparse":  func(rng *rand.Rand) time.Duration { return time.Second << (3 * rng.IntN(10)) },
		"at most": func(*rand.Rand) time.Duration { return math.MaxInt64 },
		"zero":    func(*rand.Rand) time.Duration { return 0 },
	} {
		t.Run(what, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			cfg := testConfig().Aggregate
			reference := func(bounds []float64) prometheus.Histogram {
				return prometheus.NewHistogram(prometheus.HistogramOpts{
					Name: "x", Buckets: bounds, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
				})
			}
			durations, tokens := reference(cfg.DurationBuckets), reference(cfg.TokenBuckets)
			s := aggregate.New(cfg, epoch)
			ev := ledger.Events{FirstSeen: []ledger.Row{{Name: "a"}}}
			for range 5000 {
				if draw == nil {
					break
				}
				d := draw(rng).Truncate(time.Microsecond)
				durations.Observe(float64(d.Microseconds()) / 1e6)
				tokens.Observe(float64(d.Microseconds()))
				ev.Counted = append(ev.Counted, ledger.Counted{Row: ledger.Row{
					Name: "a", Duration: d, HasDuration: true, Tokens: d.Microseconds(), HasTokens: true,
				}})
			}
			s.Apply(ev, epoch, epoch)
			shot, _ := newSnapshots(&config.Project{Name: "p", ClassicHistograms: true, NativeHistograms: true, Aggregate: cfg}).build(s, ledger.New(ledger.Config{}), 0)
			for _, c := range []struct {
				family *prometheus.Desc
				series string
				ref    prometheus.Histogram
			}{{traceDuration, "unknown", durations}, {tokensPerTrace, "a", tokens}} {
				all := written(t, shot, c.family)
				i := slices.IndexFunc(all, func(m *dto.Metric) bool {
					return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == c.series })
				})
				var want dto.Metric
				if err := c.ref.Write(&want); err != nil {
					t.Fatal(err)
				}
				h := all[i].GetHistogram()
				exact, float := h.GetSampleSum(), want.GetHistogram().GetSampleSum()
				if what != "at most" && math.Abs(exact-float) > 1e-9*float {
					t.Errorf("sum %v, client_golang has %v", exact, float)
				}
				want.Histogram.SampleSum, want.Histogram.CreatedTimestamp = h.SampleSum, h.CreatedTimestamp
				if !proto.Equal(h, want.Histogram) {
					t.Errorf("got\n%v\nwant\n%v", h, want.Histogram)
				}
			}
		})
	}
}

// Without native buckets the rest stays as it is.
func TestWithoutNativeBucketsTheRestStays(t *testing.T) {
	shots := map[bool]snapshot{}
	for _, native := range []bool{true, false} {
		cfg := testConfig()
		cfg.NativeHistograms = native
		b := newBench(t, oppertest.Config{}, cfg)
		b.opper.FillHistory(300, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
		b.sync()
		shots[native] = *b.project.snapshots.published.Load()
	}
	for _, f := range []*prometheus.Desc{traceDuration, tokensPerTrace} {
		on, off := written(t, shots[true], f), written(t, shots[false], f)
		for i, m := range on {
			h := m.GetHistogram()
			if h.Schema == nil {
				t.Errorf("no native buckets: %v", m)
			}
			h.Schema, h.ZeroThreshold, h.ZeroCount, h.PositiveSpan, h.PositiveDelta, h.Exemplars = nil, nil, nil, nil, nil, nil
			if len(off) != len(on) || !proto.Equal(m, off[i]) {
				t.Errorf("with native buckets left out:\n%v\nwithout:\n%v", m, off[i])
			}
		}
	}
}

// A metric is made once for each change, not once for each sync.
func TestMetricIsMadeOncePerChange(t *testing.T) {
	cfg := testConfig()
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "quiet"))
	b.step(settle)
	b.sync()
	before := *b.project.snapshots.published.Load()
	b.opper.Add(b.trace(2, "lively"))
	b.sync()
	b.step(settle)
	b.sync()
	kept := 0
	for _, m := range before {
		if slices.Contains(*b.project.snapshots.published.Load(), m) {
			kept++
		}
	}
	if want := 4 + 4 + 3 + 1 + 1; kept != want {
		t.Errorf("%d metrics are kept, want %d", kept, want)
	}
}

// Names without a value in a histogram, as most are without a cost, share its buckets.
func TestEmptyHistogramsShareBuckets(t *testing.T) {
	cfg := testConfig()
	cfg.Aggregate.Costs = true
	b := newBench(t, oppertest.Config{}, cfg)
	b.sync()
	for id, name := range []string{"a", "b", "c"} {
		b.opper.Add(b.trace(id+1, name))
	}
	b.sync()
	b.step(settle)
	b.sync()
	b.applyCosts(map[int]aggregate.TraceCost{3: {Cost: 5}})
	own := map[*native]int{}
	var counts []uint64
	for _, m := range *b.project.snapshots.published.Load() {
		if h, ok := m.(*histogram); ok && h.desc == costPerTrace {
			own[h.native]++
			counts = append(counts, h.count, h.classic[0], h.classic[10])
		}
	}
	if len(own) != 2 || !slices.Equal(counts, []uint64{0, 0, 0, 0, 0, 0, 1, 1, 1}) {
		t.Errorf("%d sets of native buckets for 3 names, of which one has a cost: %v", len(own), counts)
	}
}

// The HELP of a trace metric names the list that its numbers come from.
func TestHelpNamesTheSource(t *testing.T) {
	exposition, err := os.ReadFile(filepath.Join("testdata", "text.golden"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(exposition)) {
		if !strings.HasPrefix(line, "# HELP opper_trace") {
			continue
		}
		if found++; !strings.Contains(line, "Opper's trace list") && !strings.HasPrefix(line, "# HELP opper_traces_listed ") {
			t.Errorf("no source: %s", line)
		}
	}
	if found < 8 {
		t.Errorf("found %d families of traces, want at least 8", found)
	}
}
