// Package openmetrics writes samples as text.
package openmetrics

import (
	"bufio"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"opper_exporter/deploy/backfill/history"
)

// Write writes series in the OpenMetrics format, and returns how many samples that were. It
// leaves native histograms out, for which the format has no words.
func Write(to io.Writer, series iter.Seq[history.Series]) (samples uint64, err error) {
	w := bufio.NewWriterSize(to, 1<<20)
	family, line := "", []byte(nil)
	for s := range series {
		if s.Native {
			continue
		}
		if f, kind := familyOf(s.Labels.Get(model.MetricNameLabel)); f != family {
			family = f
			_, _ = w.WriteString("# TYPE " + f + " " + kind + "\n")
		}
		line = appendSeries(line[:0], s.Labels)
		prefix := len(line)
		for t, v := range s.Floats() {
			line = strconv.AppendFloat(line[:prefix], v, 'g', -1, 64)
			line = append(line, ' ')
			line = strconv.AppendFloat(line, float64(t)/1e3, 'f', 3, 64)
			line = append(line, '\n')
			if _, err := w.Write(line); err != nil {
				return samples, err
			}
			samples++
		}
	}
	_, _ = w.WriteString("# EOF\n")
	return samples, w.Flush()
}

// familyOf returns the family of a series in the exposition, and its type.
func familyOf(series string) (family, kind string) {
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if f, ok := strings.CutSuffix(series, suffix); ok {
			return f, "histogram"
		}
	}
	if f, ok := strings.CutSuffix(series, "_total"); ok {
		return f, "counter"
	}
	return series, "gauge"
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// appendSeries appends all of a line that is before the value.
func appendSeries(line []byte, l labels.Labels) []byte {
	line = append(line, l.Get(model.MetricNameLabel)...)
	separator := byte('{')
	l.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		line = append(line, separator)
		separator = ','
		if model.LegacyValidation.IsValidLabelName(l.Name) {
			line = append(line, l.Name...)
		} else {
			line = append(append(append(line, '"'), escape.Replace(l.Name)...), '"')
		}
		value := l.Value
		if l.Name == model.BucketLabel {
			// As in the text format, which VictoriaMetrics scrapes. promtool takes both.
			value = strings.TrimSuffix(value, ".0")
		}
		line = append(line, `="`...)
		line = append(append(line, escape.Replace(value)...), '"')
	})
	return append(line, "} "...)
}
