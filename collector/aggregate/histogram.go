package aggregate

import (
	"math"
	"slices"
	"time"
)

// A native histogram begins with buckets that grow by 2^(1/8), and halves its
// resolution whenever it would have more than maxNative buckets.
const (
	startSchema = 3
	minSchema   = -4
	maxNative   = 160
	// ZeroThreshold is the greatest value that the zero bucket takes, the same
	// as client_golang's default.
	ZeroThreshold = 2.938735877055719e-39
)

// Exemplar points from a bucket to one trace. It is replaced, never changed, so that
// what is published can share it.
type Exemplar struct {
	TraceID string
	Value   float64
	micros  int64 // since the epoch: a time.Time is larger, and there are many
}

// NewExemplar returns the exemplar of a trace that ended at a time.
func NewExemplar(id string, value float64, end time.Time) Exemplar {
	e := Exemplar{TraceID: id, Value: value}
	if !end.IsZero() {
		e.micros = end.UnixMicro()
	}
	return e
}

// Time returns when the trace ended; zero if that is not known.
func (e *Exemplar) Time() time.Time {
	if e.micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(e.micros).UTC()
}

// Histogram counts values in classic and in native buckets at once. Its sum is
// in whole units, so that it is exact whatever the order of the values.
// The zero value is an empty histogram.
type Histogram struct {
	Count     uint64
	Sum       int64       // in units, such as microseconds
	Classic   []uint64    // one for each bound, and one above; nil if empty
	Exemplars []*Exemplar // likewise; the latest, nil if there is none
	Zero      uint64
	Positive  []Bucket // sorted by Key
	Halvings  int32    // of the native resolution
}

// Schema returns the resolution of the native buckets, as Prometheus has it.
func (h *Histogram) Schema() int32 { return startSchema - h.Halvings }

// Bucket is a native bucket: its values are above base^(Key-1) and at most
// base^Key, where base is 2^(2^-Schema).
type Bucket struct {
	Key   int32
	Count uint64
}

// observe counts a value, and returns its place among the classic buckets. The bounds
// are in the unit of value, such as seconds; units is the same value in that of the sum,
// such as microseconds.
func (h *Histogram) observe(bounds []float64, value float64, units int64) int {
	h.grow(len(bounds) + 1)
	h.Count++
	h.Sum = AddSaturating(h.Sum, units)
	i := ClassicBucket(value, bounds)
	h.Classic[i]++
	key, ok := NativeBucket(value, h.Schema())
	if !ok {
		h.Zero++
		return i
	}
	h.add(Bucket{Key: key, Count: 1})
	h.bound()
	return i
}

// ClassicBucket returns the place of a value among the classic buckets with these
// upper bounds: how many of them are below it. There are few, so that counting is faster
// than a binary search, whose branches are mispredicted.
func ClassicBucket(value float64, bounds []float64) int {
	i := 0
	for _, b := range bounds {
		if b < value {
			i++
		}
	}
	return i
}

func (h *Histogram) grow(buckets int) {
	if h.Classic == nil && buckets > 0 {
		h.Classic, h.Exemplars = make([]uint64, buckets), make([]*Exemplar, buckets)
	}
}

// offer replaces an exemplar by a later one: a server drops those that are not.
func (h *Histogram) offer(i int, ex Exemplar) {
	if ex.TraceID != "" && h.wants(i, ex) {
		h.Exemplars[i] = &ex
	}
}

// wants reports whether an exemplar is later than the present one.
func (h *Histogram) wants(i int, ex Exemplar) bool {
	return ex.micros != 0 && (h.Exemplars[i] == nil || later(ex, *h.Exemplars[i]))
}

// Latest returns the latest exemplar, nil if there is none. Of several in the same
// millisecond it is that of the greatest values, as a server takes greater ones
// only.
func (h *Histogram) Latest() *Exemplar {
	var latest *Exemplar
	for _, ex := range h.Exemplars {
		if ex != nil && (latest == nil || !later(*latest, *ex)) {
			latest = ex
		}
	}
	return latest
}

// later compares by the milliseconds that a server keeps.
func later(a, b Exemplar) bool {
	return b.micros == 0 || a.micros/1000 > b.micros/1000
}

func (h *Histogram) add(b Bucket) {
	// Most buckets have neighbours on both sides, so this is close above.
	i := 0
	if n := len(h.Positive); n > 0 {
		i = int(min(max(int64(b.Key)-int64(h.Positive[0].Key)+1, 0), int64(n)))
	}
	for i > 0 && h.Positive[i-1].Key > b.Key {
		i--
	}
	if i > 0 && h.Positive[i-1].Key == b.Key {
		h.Positive[i-1].Count += b.Count
		return
	}
	h.Positive = slices.Insert(h.Positive, i, b)
}

func (h *Histogram) bound() {
	for len(h.Positive) > maxNative && h.Schema() > minSchema {
		h.coarsen()
	}
}

// coarsen merges each two neighbouring native buckets.
func (h *Histogram) coarsen() {
	h.Halvings++
	fine := h.Positive
	h.Positive = h.Positive[:0]
	for _, b := range fine {
		b.Key = coarser(b.Key, 1)
		if n := len(h.Positive); n > 0 && h.Positive[n-1].Key == b.Key {
			h.Positive[n-1].Count += b.Count
		} else {
			h.Positive = append(h.Positive, b)
		}
	}
}

// merge adds the values of another histogram with the same bounds.
func (h *Histogram) merge(from *Histogram) {
	h.grow(len(from.Classic))
	h.Count += from.Count
	h.Sum = AddSaturating(h.Sum, from.Sum)
	h.Zero += from.Zero
	for i, n := range from.Classic {
		h.Classic[i] += n
		if ex := from.Exemplars[i]; ex != nil {
			h.offer(i, *ex)
		}
	}
	for h.Halvings < from.Halvings {
		h.coarsen()
	}
	for _, b := range from.Positive {
		b.Key = coarser(b.Key, h.Halvings-from.Halvings)
		h.add(b)
	}
	h.bound()
}

// fractions are where in [0.5, 1) the fraction of a value changes its bucket at
// startSchema: client_golang's numbers, as what math.Exp2 gives differs from
// them by a bit, and between machines.
var fractions = []float64{
	0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
	0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
}

// NativeBucket returns the key that the bucket of a value has in a Histogram of this
// schema; not ok if that is the zero bucket.
func NativeBucket(value float64, schema int32) (key int32, ok bool) {
	if value <= ZeroThreshold {
		return 0, false
	}
	frac, exp := math.Frexp(value)
	return coarser(int32(ClassicBucket(frac, fractions)+(exp-1)*len(fractions)), startSchema-schema), true
}

// coarser returns the key of the bucket into which that of key merges.
func coarser(key, halvings int32) int32 {
	return (key + 1<<halvings - 1) >> halvings
}

// AddSaturating returns the sum, or what is closest to it.
func AddSaturating(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}
