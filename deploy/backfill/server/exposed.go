package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"opper_exporter/collector/aggregate"
)

// families are those that have a history, with the type of what they expose.
var families = map[string]dto.MetricType{
	"opper_traces_total":                     dto.MetricType_COUNTER,
	"opper_trace_tokens_total":               dto.MetricType_COUNTER,
	"opper_trace_last_end_timestamp_seconds": dto.MetricType_GAUGE,
	"opper_trace_duration_seconds":           dto.MetricType_HISTOGRAM,
	"opper_tokens_per_trace":                 dto.MetricType_HISTOGRAM,
}

// suffixes are of the series of a classic histogram; the native one has none.
var suffixes = []string{"", "_bucket", "_count", "_sum"}

// exposed returns what was scraped at a time, with the labels that the server has added.
func (s server) exposed(ctx context.Context, labels map[string]string, at time.Time) ([]*dto.MetricFamily, error) {
	var names []string
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	query := fmt.Sprintf("{__name__=~%q, %s}[1ms]", "("+strings.Join(names, "|")+")("+strings.Join(suffixes, "|")+")", listed(labels))
	samples, err := s.samples(ctx, query, at)
	if err != nil {
		return nil, err
	}
	e := exposition{}
	for _, series := range samples {
		e.add(series)
	}
	return e.families(), nil
}

// exposition holds metrics by family and labels.
type exposition map[string]map[string]*dto.Metric

func (e exposition) add(series *model.SampleStream) {
	name, suffix, ok := familyOf(string(series.Metric[model.MetricNameLabel]))
	if !ok {
		return
	}
	bound := string(series.Metric[model.BucketLabel])
	delete(series.Metric, model.MetricNameLabel)
	delete(series.Metric, model.BucketLabel)
	m := e.metric(name, series.Metric)
	switch families[name] {
	case dto.MetricType_COUNTER:
		m.Counter = &dto.Counter{Value: value(series)}
	case dto.MetricType_GAUGE:
		m.Gauge = &dto.Gauge{Value: value(series)}
	default:
		if m.Histogram == nil {
			m.Histogram = &dto.Histogram{}
		}
		addToHistogram(m.Histogram, series, suffix, bound)
	}
}

func familyOf(series string) (family, suffix string, ok bool) {
	for _, suffix := range suffixes {
		family, has := strings.CutSuffix(series, suffix)
		if _, ok := families[family]; has && ok {
			return family, suffix, true
		}
	}
	return "", "", false
}

func (e exposition) metric(family string, labels model.Metric) *dto.Metric {
	if e[family] == nil {
		e[family] = map[string]*dto.Metric{}
	}
	key := labels.String()
	m := e[family][key]
	if m == nil {
		m = &dto.Metric{}
		for name, value := range labels {
			m.Label = append(m.Label, &dto.LabelPair{Name: new(string(name)), Value: new(string(value))})
		}
		e[family][key] = m
	}
	return m
}

func (e exposition) families() (all []*dto.MetricFamily) {
	for name, metrics := range e {
		f := &dto.MetricFamily{Name: &name, Type: families[name].Enum()}
		for _, m := range metrics {
			if h := m.Histogram; h != nil {
				slices.SortFunc(h.Bucket, func(a, b *dto.Bucket) int { return cmp.Compare(a.GetUpperBound(), b.GetUpperBound()) })
			}
			f.Metric = append(f.Metric, m)
		}
		all = append(all, f)
	}
	return all
}

func value(series *model.SampleStream) *float64 {
	if len(series.Values) == 0 {
		return nil
	}
	return new(float64(series.Values[0].Value))
}

// addToHistogram adds a series of a histogram: of its classic form, or the native one.
func addToHistogram(h *dto.Histogram, series *model.SampleStream, suffix, bound string) {
	if len(series.Histograms) > 0 {
		addNative(h, series.Histograms[0].Histogram)
		return
	}
	v := value(series)
	switch le, err := strconv.ParseFloat(bound, 64); {
	case v == nil:
	case suffix == "_sum":
		h.SampleSum = v
	case suffix == "_count":
		h.SampleCount = new(uint64(*v))
	case suffix == "_bucket" && err == nil:
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &le, CumulativeCount: new(uint64(*v))})
	}
}

// addNative adds native buckets, which the API has by their bounds.
func addNative(h *dto.Histogram, from *model.SampleHistogram) {
	h.SampleCount, h.SampleSum = new(uint64(from.Count)), new(float64(from.Sum))
	schema := (&aggregate.Histogram{}).Schema() // of no buckets
	h.ZeroCount = new(uint64)
	var next int32
	var before int64
	for _, b := range from.Buckets {
		count := int64(b.Count)
		if b.Lower <= 0 {
			h.ZeroCount = new(uint64(count))
			continue
		}
		if len(h.PositiveSpan) == 0 {
			schema = int32(math.Round(-math.Log2(math.Log2(float64(b.Upper / b.Lower)))))
		}
		key := int32(math.Round(math.Log2(float64(b.Upper)) * math.Exp2(float64(schema))))
		h.PositiveSpan = append(h.PositiveSpan, &dto.BucketSpan{Offset: new(key - next), Length: new(uint32(1))})
		h.PositiveDelta = append(h.PositiveDelta, count-before)
		next, before = key+1, count
	}
	h.Schema = &schema
}
