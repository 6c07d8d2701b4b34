package historytest

import (
	"bytes"
	"errors"
	"io"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"google.golang.org/protobuf/encoding/protodelim"
)

// Sample is a value of a series.
type Sample struct {
	Labels    labels.Labels
	Float     float64
	Histogram *histogram.Histogram // nil of a float
}

// Scraped returns what a server stores of a first scrape now, by labels, of the series that
// have a history. It scrapes native and classic histograms.
func (w *World) Scraped(target map[string]string) (map[string]Sample, error) {
	out := map[string]Sample{}
	for _, p := range w.Projects() {
		var scrape bytes.Buffer
		for _, f := range p.Now {
			if f.GetName() != "opper_traces_open" {
				if _, err := protodelim.MarshalTo(&scrape, f); err != nil {
					return nil, err
				}
			}
		}
		parser, err := textparse.New(scrape.Bytes(), "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", labels.NewSymbolTable(), textparse.ParserOptions{KeepClassicOnClassicAndNativeHistograms: true})
		if err != nil {
			return nil, err
		}
		for {
			entry, err := parser.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			var s Sample
			switch entry {
			case textparse.EntrySeries:
				_, _, s.Float = parser.Series()
			case textparse.EntryHistogram:
				_, _, s.Histogram, _ = parser.Histogram()
			default:
				continue
			}
			parser.Labels(&s.Labels)
			b := labels.NewBuilder(s.Labels)
			for name, value := range target {
				b.Set(name, value)
			}
			if s.Labels = b.Labels(); w.Truth(s.Labels) != nil {
				out[s.Labels.String()] = s
			}
		}
	}
	return out, nil
}

func kindOf(family string) *dto.MetricType {
	switch family {
	case "opper_trace_duration_seconds", "opper_tokens_per_trace":
		return dto.MetricType_HISTOGRAM.Enum()
	case "opper_traces_total", "opper_trace_tokens_total":
		return dto.MetricType_COUNTER.Enum()
	}
	return dto.MetricType_GAUGE.Enum()
}
