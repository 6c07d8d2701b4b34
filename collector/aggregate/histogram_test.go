package aggregate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

var someBounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}

const maxBuckets = 160

func reference() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "reference", Buckets: someBounds,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: maxBuckets,
	})
}

// bucketsOf reads the native buckets that are not empty.
func bucketsOf(h *dto.Histogram) (out []Bucket) {
	var key int32
	var count int64
	deltas := h.GetPositiveDelta()
	for _, span := range h.GetPositiveSpan() {
		key += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			if count > 0 {
				out = append(out, Bucket{Key: key, Count: uint64(count)})
			}
			key++
		}
	}
	return out
}

// differs compares a histogram with client_golang's. That one halves its
// resolution once for each value at most, so it can be over its bound for a
// few values more; ours never is, as its buckets must not depend on the order
// of the values. While client_golang's is over the bound, only the rest is
// compared.
func differs(h *Histogram, ref prometheus.Histogram) (settled bool, err error) {
	var m dto.Metric
	if err := ref.Write(&m); err != nil {
		return false, err
	}
	want := m.GetHistogram()
	if h.Count != want.GetSampleCount() {
		return false, fmt.Errorf("count %d, want %d", h.Count, want.GetSampleCount())
	}
	var count uint64
	for i, b := range want.GetBucket() {
		if count += h.Classic[i]; count != b.GetCumulativeCount() {
			return false, fmt.Errorf("classic bucket %v holds %d, want %d", b.GetUpperBound(), count, b.GetCumulativeCount())
		}
	}
	if count += h.Classic[len(someBounds)]; count != h.Count {
		return false, fmt.Errorf("the classic buckets hold %d of %d", count, h.Count)
	}
	if h.Zero != want.GetZeroCount() || want.GetZeroThreshold() != ZeroThreshold {
		return false, fmt.Errorf("zero bucket %d, want %d up to %v", h.Zero, want.GetZeroCount(), want.GetZeroThreshold())
	}
	if n := len(h.Positive); n > maxBuckets && h.Schema() > minSchema {
		return false, fmt.Errorf("%d native buckets", n)
	}
	buckets := bucketsOf(want)
	if len(buckets) > maxBuckets && want.GetSchema() > minSchema {
		return false, nil
	}
	if h.Schema() != want.GetSchema() {
		return true, fmt.Errorf("schema %d, want %d", h.Schema(), want.GetSchema())
	}
	if !slices.Equal(h.Positive, buckets) {
		return true, fmt.Errorf("native buckets at schema %d:\n%v, want\n%v", h.Schema(), h.Positive, buckets)
	}
	return true, nil
}

var scenarios = map[string]func(*rand.Rand) float64{
	"below the bound": func(rng *rand.Rand) float64 { return math.Exp2(-6 + 19*rng.Float64()) },
	"above the bound": func(rng *rand.Rand) float64 { return math.Exp2(-20 + 52*rng.Float64()) },
	"all that a float can hold": func(rng *rand.Rand) float64 {
		switch rng.IntN(10) {
		case 0:
			return 0
		case 1:
			extremes := []float64{
				math.SmallestNonzeroFloat64, math.MaxFloat64, ZeroThreshold,
				math.Nextafter(ZeroThreshold, 0), math.Nextafter(ZeroThreshold, 1),
			}
			return extremes[rng.IntN(len(extremes))]
		}
		return math.Exp2(-1074 + 2097*rng.Float64())
	},
	"bounds of buckets and their neighbours": func(rng *rand.Rand) float64 {
		v := math.Exp2(float64(rng.IntN(8*19)-8*6) / 8)
		return []float64{v, math.Nextafter(v, 0), math.Nextafter(v, inf)}[rng.IntN(3)]
	},
	"powers of two": func(rng *rand.Rand) float64 {
		v := math.Ldexp(1, rng.IntN(400)-200)
		return []float64{v, math.Nextafter(v, 0), math.Nextafter(v, inf)}[rng.IntN(3)]
	},
}

var inf = math.Inf(1)

// Our histogram is client_golang's, over a million values.
func TestHistogramLikeClientGolang(t *testing.T) {
	for name, draw := range scenarios {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			const values = 200_000
			var h Histogram
			ref := reference()
			for n := range values {
				v := draw(rng)
				h.observe(someBounds, v, 0)
				ref.Observe(v)
				if n > 1000 && n%5000 != 0 && n != values-1 {
					continue
				}
				settled, err := differs(&h, ref)
				if err != nil {
					t.Fatalf("after %d values, the last %v: %v", n+1, v, err)
				}
				if n == values-1 && !settled {
					t.Fatal("client_golang's histogram is over its bound at the end")
				}
			}
			t.Logf("%d native buckets at schema %d", len(h.Positive), h.Schema())
		})
	}
}

// The sum is exact, in whole units.
func TestHistogramSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	var h Histogram
	ref := reference()
	var sum int64
	for range 100_000 {
		units := int64(math.Exp2(40 * rng.Float64()))
		sum += units
		h.observe(someBounds, float64(units)/1e6, units)
		ref.Observe(float64(units) / 1e6)
	}
	if h.Sum != sum {
		t.Errorf("sum %d, want %d", h.Sum, sum)
	}
	var m dto.Metric
	if err := ref.Write(&m); err != nil {
		t.Fatal(err)
	}
	if got, want := float64(h.Sum)/1e6, m.GetHistogram().GetSampleSum(); math.Abs(got-want) > 1e-9*want {
		t.Errorf("sum %v, client_golang has %v", got, want)
	}
}

func TestSaturatingSum(t *testing.T) {
	for _, c := range []struct{ a, b, want int64 }{
		{1, 2, 3},
		{math.MaxInt64 - 2, 2, math.MaxInt64},
		{math.MaxInt64 - 2, 3, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, 0, math.MaxInt64},
		{math.MinInt64 + 2, -3, math.MinInt64},
		{math.MinInt64, math.MaxInt64, -1},
		{2, -3, -1},
	} {
		if got := AddSaturating(c.a, c.b); got != c.want {
			t.Errorf("%d + %d = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Histograms that are merged are those of all their values, whatever their
// order, exemplars and resolution included.
func TestHistogramMerge(t *testing.T) {
	for name, draw := range scenarios {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 1))
			for range 30 {
				values := make([]float64, rng.IntN(2000))
				var all, merged Histogram
				parts := make([]Histogram, 3)
				for i := range values {
					values[i] = draw(rng)
				}
				for i, j := range rng.Perm(len(values)) {
					ex := NewExemplar(fmt.Sprint(i), values[j], time.Unix(1e9+int64(j), 0))
					all.offer(all.observe(someBounds, values[j], int64(j)), ex)
				}
				for j, v := range values {
					ex := NewExemplar(fmt.Sprint(j), v, time.Unix(1e9+int64(j), 0))
					part := &parts[rng.IntN(2)] // the third stays empty
					part.offer(part.observe(someBounds, v, int64(j)), ex)
				}
				for i := range parts {
					merged.merge(&parts[i])
				}
				for _, h := range []*Histogram{&all, &merged} {
					for _, ex := range h.Exemplars {
						if ex != nil {
							ex.TraceID = ""
						}
					}
				}
				if !reflect.DeepEqual(all, merged) {
					t.Fatalf("merged:\n%+v\nall in one:\n%+v", merged, all)
				}
			}
		})
	}
}

// Values that are counted one by one at the schema of a histogram are in its buckets.
func TestBucketsOfValues(t *testing.T) {
	for name, draw := range scenarios {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(4, 1))
			var h Histogram
			values := make([]float64, 5000)
			for i := range values {
				values[i] = draw(rng)
				h.observe(someBounds, values[i], 0)
			}
			classic, native, zero := make([]uint64, len(someBounds)+1), map[int32]uint64{}, uint64(0)
			for _, v := range values {
				classic[ClassicBucket(v, someBounds)]++
				if key, ok := NativeBucket(v, h.Schema()); ok {
					native[key]++
				} else {
					zero++
				}
			}
			if !slices.Equal(classic, h.Classic) || zero != h.Zero || len(native) != len(h.Positive) {
				t.Fatalf("classic %v, %d native buckets, zero %d, want\n%v, %d, %d", classic, len(native), zero, h.Classic, len(h.Positive), h.Zero)
			}
			for _, b := range h.Positive {
				if native[b.Key] != b.Count {
					t.Errorf("native bucket %d at schema %d holds %d, want %d", b.Key, h.Schema(), native[b.Key], b.Count)
				}
			}
		})
	}
}

// String lets tests compare what is printed of histograms.
func (e *Exemplar) String() string { return fmt.Sprint(*e) }

// exemplarOf returns that of a classic bucket, the zero value if there is none.
func exemplarOf(h *Histogram, bucket int) Exemplar {
	if ex := h.Exemplars[bucket]; ex != nil {
		return *ex
	}
	return Exemplar{}
}

// An exemplar never gives way to an earlier one.
func TestExemplarsDoNotGoBack(t *testing.T) {
	var h Histogram
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for _, c := range []struct {
		what string
		ex   Exemplar
		want string
	}{
		{"without an id", NewExemplar("", 0, at(5)), ""},
		{"without a time", NewExemplar("timeless", 0, time.Time{}), ""},
		{"first", NewExemplar("first", 0, at(10)), "first"},
		{"earlier", NewExemplar("earlier", 0, at(9)), "first"},
		{"in the same millisecond", NewExemplar("same", 0, at(10).Add(time.Microsecond)), "first"},
		{"later", NewExemplar("later", 0, at(11)), "later"},
		{"without an id", NewExemplar("", 0, at(12)), "later"},
	} {
		h.offer(h.observe(someBounds, 2, 0), c.ex)
		if got := exemplarOf(&h, 4).TraceID; got != c.want {
			t.Errorf("%s: exemplar %q, want %q", c.what, got, c.want)
		}
	}
	h.offer(h.observe(someBounds, 1e9, 0), NewExemplar("above all bounds", 0, at(1)))
	if got := exemplarOf(&h, len(someBounds)).TraceID; got != "above all bounds" {
		t.Errorf("exemplar %q above all bounds", got)
	}
}
