package exportertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// Series holds values by the metric and its labels, as in
// opper_up{project="default"}. Of a histogram there are the keys with _count and
// _sum behind the name, and those with _bucket and the label le at the end.
type Series map[string]float64

// Total adds up all series of a metric whose labels hold the text.
func (s Series) Total(metric, label string) float64 {
	sum := 0.0
	for key, v := range s {
		if strings.HasPrefix(key, metric+"{") && strings.Contains(key, label) {
			sum += v
		}
	}
	return sum
}

// Project returns a metric that has only the label of the project.
func (s Series) Project(metric string) float64 { return s[metric+`{project="default"}`] }

// Reading is what one scrape showed.
type Reading struct {
	Lasting Series               // what must never fall, nor disappear
	Rest    Series               // other counters, and gauges
	Native  Series               // native buckets of what lasts, by schema and index
	Created map[string]time.Time // of what lasts
	Undated []string             // what lasts and has no created timestamp
}

// LastSuccess is the end of the sync that is shown.
func (r *Reading) LastSuccess() time.Time {
	return time.UnixMilli(int64(math.Round(r.Rest.Project("opper_exporter_last_success_timestamp_seconds") * 1e3)))
}

// ErrCut says that the answer did not arrive, or not all of it: the process was
// killed, or does not listen yet.
var ErrCut = errors.New("no complete response")

// scraper shares no connections with others in the process.
var scraper = &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}

// Scrape reads what the exporter at an address exposes, as Prometheus does. It also
// fails if the answer is one that Prometheus would refuse.
func Scrape(ctx context.Context, address string) (*Reading, error) {
	resp, err := get(ctx, scraper, "http://"+address+"/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCut, err)
	}
	return Parse(resp.Header, body)
}

// MustScrape is Scrape for an exporter that must answer.
func MustScrape(t testing.TB, address string) *Reading {
	t.Helper()
	r, err := Scrape(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Parse reads an exposition in protobuf. It fails on what a server refuses.
func Parse(header http.Header, body []byte) (*Reading, error) {
	r := &Reading{Lasting: Series{}, Rest: Series{}, Native: Series{}, Created: map[string]time.Time{}}
	for family, err := range decode(header, bytes.NewReader(body)) {
		if err != nil {
			return nil, err
		}
		if err := r.add(family); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// isLasting reports whether a metric is restored after a restart. The other
// counters are of the process.
func isLasting(f *dto.MetricFamily) bool {
	name := f.GetName()
	switch name {
	case "opper_exporter_gaps_total", "opper_exporter_traces_skipped_total", "opper_exporter_durations_unusable_total",
		"opper_exporter_late_ends_total", "opper_exporter_unmapped_status_total", "opper_exporter_overflow_traces_total",
		"opper_exporter_trace_costs_unknown_total", "opper_exporter_usage_corrections_total", "opper_exporter_usage_incomplete_total":
		return true
	}
	return f.GetType() != dto.MetricType_GAUGE && slices.ContainsFunc([]string{"opper_trace", "opper_tokens", "opper_cost", "opper_usage"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// MayBeginAbove0 reports whether a series that is new since this reading may begin above
// 0: usage is read beside the traces, and what it has at first appears at once.
func (r *Reading) MayBeginAbove0(key string) bool {
	if !strings.HasPrefix(key, "opper_usage_") {
		return false
	}
	for known := range r.Lasting {
		if strings.HasPrefix(known, "opper_usage_") {
			return false
		}
	}
	return true
}

func (r *Reading) add(f *dto.MetricFamily) error {
	to, lasting := r.Rest, isLasting(f)
	if lasting {
		to = r.Lasting
	}
	for _, m := range f.GetMetric() {
		labels := make([]string, 0, 4)
		for _, l := range m.GetLabel() {
			labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
		}
		key := func(suffix string, more ...string) string {
			return f.GetName() + suffix + "{" + strings.Join(append(slices.Clip(labels), more...), ",") + "}"
		}
		created := m.GetCounter().GetCreatedTimestamp()
		if m.GetCounter() != nil {
			to[key("")] = m.GetCounter().GetValue()
		}
		if m.GetGauge() != nil {
			to[key("")] = m.GetGauge().GetValue()
		}
		if h := m.GetHistogram(); h != nil {
			created = h.GetCreatedTimestamp()
			to[key("_count")], to[key("_sum")] = float64(h.GetSampleCount()), h.GetSampleSum()
			for _, b := range h.GetBucket() {
				if !math.IsInf(b.GetUpperBound(), 1) {
					to[key("_bucket", fmt.Sprintf("le=%q", fmt.Sprint(b.GetUpperBound())))] = float64(b.GetCumulativeCount())
				}
			}
			if lasting {
				if err := r.addNative(key, h); err != nil {
					return err
				}
			}
		}
		switch {
		case !lasting:
		case created == nil:
			r.Undated = append(r.Undated, key(""))
		default:
			// A server keeps milliseconds.
			r.Created[key("")] = created.AsTime().Truncate(time.Millisecond)
		}
	}
	return nil
}

// addNative adds native buckets. If they do not add up, a server refuses the
// whole scrape.
func (r *Reading) addNative(key func(string, ...string) string, h *dto.Histogram) error {
	sum, count, index := h.GetZeroCount(), int64(0), int32(0)
	deltas := h.GetPositiveDelta()
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			sum += uint64(count)
			r.Native[key("_native", fmt.Sprintf("schema=%d,index=%d", h.GetSchema(), index))] = float64(count)
			index++
		}
	}
	if h.Schema == nil || sum != h.GetSampleCount() || len(deltas) > 0 {
		return fmt.Errorf("native buckets of %s add up to %d, not %d", key(""), sum, h.GetSampleCount())
	}
	return nil
}
