package collector

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"opper_exporter/collector/sums"
)

// family describes one metric family and makes metrics of it.
type family struct {
	desc   *prometheus.Desc
	labels []string
}

func newFamily(name, help string, labels ...string) *family {
	labels = append([]string{"project"}, labels...)
	return &family{desc: prometheus.NewDesc(name, help, labels, nil), labels: labels}
}

// metric is a finished metric: all that a scrape has to do is to hand it out.
// client_golang has no constructor for a histogram with classic and native
// buckets, so this type stands for all of ours.
type metric struct {
	desc      *prometheus.Desc
	labels    []*dto.LabelPair
	counter   *dto.Counter
	gauge     *dto.Gauge
	histogram *dto.Histogram
}

// Desc implements prometheus.Metric.
func (m *metric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *metric) Write(out *dto.Metric) error {
	out.Label, out.Counter, out.Gauge, out.Histogram = m.labels, m.counter, m.gauge, m.histogram
	return nil
}

// same reports whether another metric shows the same value, if both are single
// values.
func (m *metric) same(as *metric) bool {
	return m.desc == as.desc && m.histogram == nil && as.histogram == nil &&
		m.counter.GetValue() == as.counter.GetValue() && m.gauge.GetValue() == as.gauge.GetValue() &&
		m.counter.GetCreatedTimestamp().AsTime().Equal(as.counter.GetCreatedTimestamp().AsTime()) &&
		slices.EqualFunc(m.labels, as.labels, func(a, b *dto.LabelPair) bool { return a.GetValue() == b.GetValue() })
}

func (f *family) metric(values []string) *metric {
	m := &metric{desc: f.desc, labels: make([]*dto.LabelPair, len(values))}
	for i, v := range values {
		m.labels[i] = &dto.LabelPair{Name: new(f.labels[i]), Value: new(v)}
	}
	slices.SortFunc(m.labels, func(a, b *dto.LabelPair) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	return m
}

func (f *family) counter(value float64, created time.Time, values ...string) prometheus.Metric {
	m := f.metric(values)
	m.counter = &dto.Counter{Value: new(value), CreatedTimestamp: timestamppb.New(created)}
	return m
}

func (f *family) gauge(value float64, values ...string) prometheus.Metric {
	m := f.metric(values)
	m.gauge = &dto.Gauge{Value: new(value)}
	return m
}

// scale says how the values of a histogram are shown.
type scale struct {
	bounds          []float64
	perOne          float64 // units of the sum in one of the values that the buckets count
	classic, native bool
}

func (f *family) histogram(h *sums.Histogram, sc *scale, created time.Time, values ...string) prometheus.Metric {
	m := f.metric(values)
	m.histogram = &dto.Histogram{
		SampleCount:      new(h.Count),
		SampleSum:        new(float64(h.Sum) / sc.perOne),
		CreatedTimestamp: timestamppb.New(created),
	}
	if sc.classic {
		m.histogram.Bucket = classicBuckets(h, sc.bounds)
	}
	if sc.native {
		addNative(m.histogram, h)
	}
	return m
}

func classicBuckets(h *sums.Histogram, bounds []float64) []*dto.Bucket {
	out := make([]*dto.Bucket, 0, len(bounds)+1)
	var count uint64
	for i, bound := range bounds {
		b := &dto.Bucket{UpperBound: new(bound)}
		if h.Count > 0 {
			count += h.Classic[i]
			b.Exemplar = exemplar(h.Exemplars[i])
		}
		b.CumulativeCount = new(count)
		out = append(out, b)
	}
	if h.Count > 0 {
		// As client_golang does it: this bucket is there to carry an exemplar.
		if e := exemplar(h.Exemplars[len(bounds)]); e != nil {
			out = append(out, &dto.Bucket{CumulativeCount: new(h.Count), UpperBound: new(inf), Exemplar: e})
		}
	}
	return out
}

func addNative(out *dto.Histogram, h *sums.Histogram) {
	out.Schema = new(h.Schema())
	out.ZeroThreshold = new(sums.ZeroThreshold)
	out.ZeroCount = new(h.Zero)
	out.PositiveSpan, out.PositiveDelta = spans(h.Positive)
	// A server drops those that are not newer than all that it has of the series.
	if e := exemplar(h.Latest()); e != nil {
		out.Exemplars = []*dto.Exemplar{e}
	}
}

// smallGap is how many empty buckets cost less than a span of their own, as in
// client_golang.
const smallGap = 2

// spans encodes native buckets as runs of neighbours and differences.
func spans(buckets []sums.Bucket) ([]*dto.BucketSpan, []int64) {
	var out []*dto.BucketSpan
	deltas := make([]int64, 0, len(buckets))
	var next int32
	var before uint64
	bucket := func(count uint64) {
		*out[len(out)-1].Length++
		deltas = append(deltas, int64(count-before))
		before = count
	}
	for i, b := range buckets {
		gap := b.Key - next
		if i == 0 || gap > smallGap {
			out = append(out, &dto.BucketSpan{Offset: new(gap), Length: new(uint32(0))})
		} else {
			for range gap {
				bucket(0)
			}
		}
		bucket(b.Count)
		next = b.Key + 1
	}
	return out, deltas
}

func exemplar(e sums.Exemplar) *dto.Exemplar {
	if e.TraceID == "" {
		return nil
	}
	return &dto.Exemplar{
		Label:     []*dto.LabelPair{{Name: new("trace_id"), Value: new(e.TraceID)}},
		Value:     new(e.Value),
		Timestamp: timestamppb.New(e.Time),
	}
}
