package collector

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
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

func (f *family) metric(values []string) *metric {
	m := &metric{desc: f.desc, labels: make([]*dto.LabelPair, len(values))}
	for i, v := range values {
		m.labels[i] = &dto.LabelPair{Name: proto.String(f.labels[i]), Value: proto.String(v)}
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
	m.counter = &dto.Counter{Value: proto.Float64(value), CreatedTimestamp: timestamppb.New(created)}
	return m
}

func (f *family) gauge(value float64, values ...string) prometheus.Metric {
	m := f.metric(values)
	m.gauge = &dto.Gauge{Value: proto.Float64(value)}
	return m
}

// histogram makes a histogram whose sum is in units of which there are perOne
// in one of the values that its buckets count.
func (f *family) histogram(h *sums.Histogram, bounds []float64, perOne float64, native bool, created time.Time, values ...string) prometheus.Metric {
	m := f.metric(values)
	out := &dto.Histogram{
		SampleCount:      proto.Uint64(h.Count),
		SampleSum:        proto.Float64(float64(h.Sum) / perOne),
		CreatedTimestamp: timestamppb.New(created),
		Bucket:           make([]*dto.Bucket, 0, len(bounds)+1),
	}
	var count uint64
	for i, bound := range bounds {
		b := &dto.Bucket{UpperBound: proto.Float64(bound)}
		if h.Count > 0 {
			count += h.Classic[i]
			b.Exemplar = exemplar(h.Exemplars[i])
		}
		b.CumulativeCount = proto.Uint64(count)
		out.Bucket = append(out.Bucket, b)
	}
	if h.Count > 0 {
		// As client_golang does it: this bucket is there to carry an exemplar.
		if e := exemplar(h.Exemplars[len(bounds)]); e != nil {
			out.Bucket = append(out.Bucket, &dto.Bucket{CumulativeCount: proto.Uint64(h.Count), UpperBound: proto.Float64(inf), Exemplar: e})
		}
	}
	if native {
		out.Schema = proto.Int32(h.Schema())
		out.ZeroThreshold = proto.Float64(sums.ZeroThreshold)
		out.ZeroCount = proto.Uint64(h.Zero)
		out.PositiveSpan, out.PositiveDelta = spans(h.Positive)
		if latest := slices.MaxFunc(append([]sums.Exemplar{{}}, h.Exemplars...), func(a, b sums.Exemplar) int { return a.Time.Compare(b.Time) }); latest.TraceID != "" {
			out.Exemplars = []*dto.Exemplar{exemplar(latest)}
		}
	}
	m.histogram = out
	return m
}

// spans encodes native buckets as runs of neighbours and differences.
func spans(buckets []sums.Bucket) ([]*dto.BucketSpan, []int64) {
	var out []*dto.BucketSpan
	deltas := make([]int64, len(buckets))
	var next int32
	var before uint64
	for i, b := range buckets {
		if i == 0 || b.Key != next {
			out = append(out, &dto.BucketSpan{Offset: proto.Int32(b.Key - next), Length: proto.Uint32(0)})
		}
		*out[len(out)-1].Length++
		next = b.Key + 1
		deltas[i] = int64(b.Count - before) //nolint:gosec // a difference, which may be negative
		before = b.Count
	}
	return out, deltas
}

func exemplar(e sums.Exemplar) *dto.Exemplar {
	if e.TraceID == "" {
		return nil
	}
	return &dto.Exemplar{
		Label:     []*dto.LabelPair{{Name: proto.String("trace_id"), Value: proto.String(e.TraceID)}},
		Value:     proto.Float64(e.Value),
		Timestamp: timestamppb.New(e.Time),
	}
}
