package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// plain is what one would write in an afternoon: it pages through the list with
// encoding/json and adds up in client_golang's vectors. It counts everything
// again in each read and looks at nothing twice, so it keeps none of the
// exporter's promises.
type plain struct {
	traces, tokens   *prometheus.CounterVec
	durations, sizes *prometheus.HistogramVec
	open, last       *prometheus.GaugeVec
	registry         *prometheus.Registry
	listed           prometheus.Gauge
	lasts            map[string]time.Time
}

type plainPage struct {
	Meta struct {
		TotalCount int `json:"total_count"`
	} `json:"meta"`
	Data []plainTrace `json:"data"`
}

type plainTrace struct {
	ID          string     `json:"id"`
	StartTime   *time.Time `json:"start_time"`
	EndTime     *time.Time `json:"end_time"`
	DurationMS  *float64   `json:"duration_ms"`
	Status      *string    `json:"status"`
	Name        *string    `json:"name"`
	Input       *string    `json:"input"`
	Output      *string    `json:"output"`
	TotalTokens *int64     `json:"total_tokens"`
}

func newPlain() *plain {
	labels := prometheus.Labels{"project": "default"}
	counter := func(name string, by ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "The same as ours.", ConstLabels: labels}, by)
	}
	gauge := func(name string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "The same as ours.", ConstLabels: labels}, []string{"trace_name"})
	}
	histogram := func(name string, buckets []float64, by ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: "The same as ours.", ConstLabels: labels, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, by)
	}
	p := &plain{
		traces:    counter("opper_traces_total", "trace_name", "outcome"),
		tokens:    counter("opper_trace_tokens_total", "trace_name", "outcome"),
		durations: histogram("opper_trace_duration_seconds", durationBuckets, "trace_name", "outcome"),
		sizes:     histogram("opper_tokens_per_trace", tokenBuckets, "trace_name"),
		open:      gauge("opper_traces_open"),
		last:      gauge("opper_trace_last_end_timestamp_seconds"),
		listed:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "opper_traces_listed", Help: "The same as ours.", ConstLabels: labels}),
		registry:  prometheus.NewRegistry(),
		lasts:     map[string]time.Time{},
	}
	p.registry.MustRegister(p.traces, p.tokens, p.durations, p.sizes, p.open, p.last, p.listed)
	return p
}

func (p *plain) readAll(ctx context.Context, client *http.Client, url string) error {
	for offset, total := 0, 1; offset < total; offset += pageSize {
		err := fetch(ctx, client, url, offset, func(body io.Reader) error {
			var page plainPage
			if err := json.NewDecoder(body).Decode(&page); err != nil {
				return err
			}
			total = page.Meta.TotalCount
			for i := range page.Data {
				p.count(&page.Data[i])
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.listed.Set(float64(total))
	}
	return nil
}

func (p *plain) count(t *plainTrace) {
	name, outcome := "(unnamed)", "unknown"
	if t.Name != nil && *t.Name != "" {
		name = *t.Name
	}
	if t.Status != nil {
		switch strings.ToLower(*t.Status) {
		case "success", "ok", "completed":
			outcome = "success"
		case "error", "failed", "failure":
			outcome = "failure"
		}
	}
	if t.EndTime == nil {
		if t.StartTime != nil && time.Since(*t.StartTime) < time.Hour {
			p.open.WithLabelValues(name).Inc()
			return
		}
		outcome = "abandoned"
	}
	p.open.WithLabelValues(name)
	p.traces.WithLabelValues(name, outcome).Inc()
	exemplar := prometheus.Labels{"trace_id": t.ID}
	if t.TotalTokens != nil {
		p.tokens.WithLabelValues(name, outcome).Add(float64(*t.TotalTokens))
		p.sizes.WithLabelValues(name).(prometheus.ExemplarObserver).ObserveWithExemplar(float64(*t.TotalTokens), exemplar)
	}
	if t.EndTime == nil {
		return
	}
	if t.EndTime.After(p.lasts[name]) {
		p.lasts[name] = *t.EndTime
		p.last.WithLabelValues(name).Set(float64(t.EndTime.UnixMilli()) / 1e3)
	}
	if t.DurationMS != nil {
		p.durations.WithLabelValues(name, outcome).(prometheus.ExemplarObserver).ObserveWithExemplar(*t.DurationMS/1e3, exemplar)
	}
}
