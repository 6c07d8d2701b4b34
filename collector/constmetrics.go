package collector

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
)

// labels are those of a metric, sorted by name. client_golang makes labels, times and
// bounds for each metric; the metrics here share them, as with a thousand projects they
// would be most of the memory. A scrape gets pointers into a metric, which is immutable.
type labels []*dto.LabelPair

func newLabel(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// gauge is a prometheus.Metric.
type gauge struct {
	desc   *prometheus.Desc
	labels labels
	value  float64
}

// Desc implements prometheus.Metric.
func (m *gauge) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *gauge) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels, &dto.Gauge{Value: &m.value}
	return nil
}

// counter is a prometheus.Metric.
type counter struct {
	desc    *prometheus.Desc
	labels  labels
	value   float64
	created *timestamppb.Timestamp
}

// Desc implements prometheus.Metric.
func (m *counter) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *counter) Write(out *dto.Metric) error {
	out.Label, out.Counter = m.labels, &dto.Counter{Value: &m.value, CreatedTimestamp: m.created}
	return nil
}

// scale says which buckets of a histogram are exposed, and in which unit.
type scale struct {
	bounds          []float64
	perOne          float64 // units of the sum in one of the values that the buckets count
	classic, native bool
	empty           *histogram // whose buckets all that are empty share; nil until there is one
}

func newScale(cfg *config.Project, bounds []float64, perOne float64) *scale {
	return &scale{bounds: bounds, perOne: perOne, classic: cfg.ClassicHistograms, native: cfg.NativeHistograms}
}

// histogram is a prometheus.Metric with classic and native buckets.
type histogram struct {
	desc      *prometheus.Desc
	labels    labels
	created   *timestamppb.Timestamp
	count     uint64
	sum       float64
	bounds    []float64 // of the classic buckets, but for that above all; none if they are not exposed
	classic   []uint64  // cumulative
	exemplars []exemplar
	native    *native // nil if they are not exposed
}

// exemplar is that of a classic bucket.
type exemplar struct {
	bucket int
	*aggregate.Exemplar
}

// native holds native buckets, with the exemplars of the series.
type native struct {
	schema int32
	zero   uint64
	spans  []span
	deltas []int64
	latest []exemplar // one or none
}

// span is a dto.BucketSpan without the rest that comes with it.
type span struct {
	offset int32
	length uint32
}

// nativeDesc describes the metric whose buckets newNative copies.
var nativeDesc = prometheus.NewDesc("native", "", nil, nil)

// newHistogram returns a histogram of an aggregate.
func newHistogram(desc *prometheus.Desc, h *aggregate.Histogram, sc *scale, created *timestamppb.Timestamp, labels labels) prometheus.Metric {
	m := &histogram{desc: desc, labels: labels, created: created, count: h.Count, sum: float64(h.Sum) / sc.perOne}
	if h.Count == 0 {
		if sc.empty != nil {
			m.bounds, m.classic, m.native = sc.empty.bounds, sc.empty.classic, sc.empty.native
			return m
		}
		sc.empty = m
	}
	if sc.classic {
		m.bounds, m.classic = sc.bounds, make([]uint64, len(sc.bounds))
		var count uint64
		for i := range m.classic {
			if h.Count > 0 {
				count += h.Classic[i]
			}
			m.classic[i] = count
		}
		for i, e := range h.Exemplars {
			m.exemplars = addExemplar(m.exemplars, i, e)
		}
		m.exemplars = slices.Clone(m.exemplars) // no larger than it has to be
	}
	if sc.native {
		var err error
		if m.native, err = newNative(h, m.sum); err != nil {
			return prometheus.NewInvalidMetric(desc, err)
		}
	}
	return m
}

// newNative returns the native buckets of an aggregate, as client_golang encodes them.
func newNative(h *aggregate.Histogram, sum float64) (*native, error) {
	buckets := make(map[int]int64, len(h.Positive))
	for _, b := range h.Positive {
		buckets[int(b.Key)] = int64(b.Count)
	}
	m, err := prometheus.NewConstNativeHistogram(nativeDesc, h.Count, sum, buckets, nil, h.Zero, h.Schema(), aggregate.ZeroThreshold, time.Time{})
	if err != nil {
		return nil, err
	}
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		return nil, err
	}
	n := &native{schema: h.Schema(), zero: h.Zero, deltas: slices.Clone(out.GetHistogram().GetPositiveDelta())}
	n.spans = make([]span, len(out.GetHistogram().GetPositiveSpan()))
	for i, s := range out.GetHistogram().GetPositiveSpan() {
		n.spans[i] = span{s.GetOffset(), s.GetLength()}
	}
	// A server drops exemplars that are not newer than all that it has of a series.
	n.latest = addExemplar(nil, 0, h.Latest())
	return n, nil
}

// addExemplar leaves out an exemplar for which a server would refuse the whole scrape.
func addExemplar(to []exemplar, bucket int, e *aggregate.Exemplar) []exemplar {
	if e == nil || e.TraceID == "" || !utf8.ValidString(e.TraceID) || len(traceID)+utf8.RuneCountInString(e.TraceID) > prometheus.ExemplarMaxRunes {
		return to
	}
	return append(to, exemplar{bucket, e})
}

// Desc implements prometheus.Metric.
func (m *histogram) Desc() *prometheus.Desc { return m.desc }

// What scrapes get pointers to.
var (
	traceID       = "trace_id"
	above         = math.Inf(1)
	zeroThreshold = aggregate.ZeroThreshold
)

// Write implements prometheus.Metric.
func (m *histogram) Write(out *dto.Metric) error {
	h := &dto.Histogram{SampleCount: &m.count, SampleSum: &m.sum, CreatedTimestamp: m.created}
	if n := len(m.bounds); n > 0 {
		buckets := make([]dto.Bucket, n+1)
		h.Bucket = make([]*dto.Bucket, n, n+1)
		for i := range m.bounds {
			b := &buckets[i]
			b.CumulativeCount, b.UpperBound = &m.classic[i], &m.bounds[i]
			h.Bucket[i] = b
		}
		for i := range m.exemplars {
			e := &m.exemplars[i]
			if e.bucket == n { // which has to be there for it
				buckets[n].CumulativeCount, buckets[n].UpperBound = &m.count, &above
				h.Bucket = append(h.Bucket, &buckets[n])
			}
			h.Bucket[e.bucket].Exemplar = e.encode()
		}
	}
	if n := m.native; n != nil {
		h.Schema, h.ZeroThreshold, h.ZeroCount = &n.schema, &zeroThreshold, &n.zero
		spans := make([]dto.BucketSpan, len(n.spans))
		h.PositiveSpan, h.PositiveDelta = make([]*dto.BucketSpan, len(n.spans)), n.deltas
		for i := range n.spans {
			spans[i].Offset, spans[i].Length = &n.spans[i].offset, &n.spans[i].length
			h.PositiveSpan[i] = &spans[i]
		}
		for i := range n.latest {
			h.Exemplars = append(h.Exemplars, n.latest[i].encode())
		}
	}
	out.Label, out.Histogram = m.labels, h
	return nil
}

func (e *exemplar) encode() *dto.Exemplar {
	// One allocation: there are many.
	x := new(struct {
		exemplar dto.Exemplar
		label    dto.LabelPair
		labels   [1]*dto.LabelPair
		time     timestamppb.Timestamp
	})
	x.label.Name, x.label.Value = &traceID, &e.TraceID
	x.labels[0] = &x.label
	end := e.Time()
	x.time.Seconds, x.time.Nanos = end.Unix(), int32(end.Nanosecond())
	x.exemplar.Label, x.exemplar.Value, x.exemplar.Timestamp = x.labels[:], &e.Value, &x.time
	return &x.exemplar
}
