package e2e_test

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
	"github.com/prometheus/common/expfmt"
)

// series holds values by the metric and its labels, as in
// opper_up{project="default"}. Of a histogram there are the keys with _count and
// _sum behind the name, and those with _bucket and the label le at the end.
type series map[string]float64

// reading is what one scrape showed.
type reading struct {
	lasting series               // what must never fall, nor disappear
	rest    series               // other counters, and gauges
	native  series               // native buckets of what lasts, by schema and index
	created map[string]time.Time // of what lasts
}

// lasts reports whether a metric is kept over restarts. The other counters are
// of the process.
func lasts(f *dto.MetricFamily) bool {
	name := f.GetName()
	switch name {
	case "opper_exporter_gaps_total", "opper_exporter_traces_skipped_total", "opper_exporter_durations_unusable_total",
		"opper_exporter_late_ends_total", "opper_exporter_unmapped_status_total", "opper_exporter_overflow_traces_total":
		return true
	}
	return f.GetType() != dto.MetricType_GAUGE && (strings.HasPrefix(name, "opper_trace") || strings.HasPrefix(name, "opper_tokens"))
}

// errCut says that the answer did not arrive, or not all of it: the process was
// killed, or does not listen yet.
var errCut = errors.New("no whole answer")

var scraper = &http.Client{Transport: &http.Transport{}}

// scrape reads /metrics as Prometheus does. It also fails if the answer is one
// that Prometheus would refuse.
func scrape(ctx context.Context, address string) (*reading, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
	resp, err := scraper.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCut, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCut, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	r := &reading{lasting: series{}, rest: series{}, native: series{}, created: map[string]time.Time{}}
	for decoder := expfmt.NewDecoder(bytes.NewReader(body), expfmt.ResponseFormat(resp.Header)); ; {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); errors.Is(err, io.EOF) {
			return r, nil
		} else if err != nil {
			return nil, err
		}
		if err := r.add(&f); err != nil {
			return nil, err
		}
	}
}

func (r *reading) add(f *dto.MetricFamily) error {
	to, kept := r.rest, lasts(f)
	if kept {
		to = r.lasting
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
			if kept {
				if err := r.addNative(key, h); err != nil {
					return err
				}
			}
		}
		if kept {
			if created == nil {
				return fmt.Errorf("%s has no created timestamp", key(""))
			}
			// A server keeps milliseconds.
			r.created[key("")] = created.AsTime().Truncate(time.Millisecond)
		}
	}
	return nil
}

// addNative adds native buckets. If they do not add up, a server refuses the
// whole scrape.
func (r *reading) addNative(key func(string, ...string) string, h *dto.Histogram) error {
	sum, count, index := h.GetZeroCount(), int64(0), int32(0)
	deltas := h.GetPositiveDelta()
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			sum += uint64(count)
			r.native[key("_native", fmt.Sprintf("schema=%d,index=%d", h.GetSchema(), index))] = float64(count)
			index++
		}
	}
	if h.Schema == nil || sum != h.GetSampleCount() || len(deltas) > 0 {
		return fmt.Errorf("native buckets of %s add up to %d, not %d", key(""), sum, h.GetSampleCount())
	}
	return nil
}

// total adds up all series of a metric whose labels hold the text.
func (s series) total(metric, label string) float64 {
	sum := 0.0
	for key, v := range s {
		if strings.HasPrefix(key, metric+"{") && strings.Contains(key, label) {
			sum += v
		}
	}
	return sum
}

// mustScrape is for an exporter that nobody kills.
func mustScrape(t testing.TB, address string) *reading {
	t.Helper()
	r, err := scrape(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
