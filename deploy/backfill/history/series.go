package history

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"opper_exporter/collector/aggregate"
)

// Labels of the exposition.
const (
	labelProject = "project"
	labelName    = "trace_name"
	labelOutcome = "outcome"
)

var ownLabels = []string{labelProject, labelName, labelOutcome, model.BucketLabel}

// CheckLabels returns an error if the series can't have these labels.
func CheckLabels(more map[string]string) error {
	for _, label := range slices.Sorted(maps.Keys(more)) {
		if err := checkLabel(label, more[label]); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(label, value string) error {
	switch {
	case slices.Contains(ownLabels, label):
		return fmt.Errorf("label %q is the exporter's own", label)
	case !model.UTF8Validation.IsValidLabelName(label) || strings.HasPrefix(label, model.ReservedLabelPrefix):
		return fmt.Errorf("label %q is not a valid name", label)
	case !model.LabelValue(value).IsValid():
		return fmt.Errorf("label %q: its value is not valid UTF-8", label)
	}
	return nil
}

// column is what of a metric a series has.
type column uint8

const (
	sumColumn column = iota
	countColumn
	bucketColumn
	nativeColumn
	latestColumn
)

// series is one series of all time.
type series struct {
	labels labels.Labels
	metric *metric
	column column
	le     uint8 // the last classic bucket that it counts
}

// state is what a series has counted at a time.
type state struct {
	value int64 // the sum, of a native histogram
	// Of a native histogram:
	count, zero int64
	buckets     []int64 // in the layout of the metric
}

// base returns the state before the first event.
func (s *series) base() state {
	m := s.metric
	switch s.column {
	case countColumn:
		return state{value: m.count}
	case bucketColumn:
		var below int64
		for _, n := range m.classic[:int(s.le)+1] {
			below += n
		}
		return state{value: below}
	case nativeColumn:
		return state{value: m.sum, count: m.count, zero: m.native.zero, buckets: slices.Clone(m.native.counts)}
	default:
		return state{value: m.sum}
	}
}

// add counts an event.
func (s *series) add(to *state, e *Event) {
	m := s.metric
	if !m.isCounted(e) {
		return
	}
	switch s.column {
	case sumColumn:
		to.value += e.amount(m.family)
	case countColumn:
		to.value++
	case bucketColumn:
		if e.bucket[m.family] <= s.le {
			to.value++
		}
	case latestColumn:
		to.value = max(to.value, e.End)
	case nativeColumn:
		to.value += e.amount(m.family)
		to.count++
		*m.native.bucket(m.value(e), to.buckets, &to.zero)++
	}
}

// exposed returns the value of a state as the exporter exposes it.
func (s *series) exposed(value int64) float64 {
	switch s.column {
	case countColumn, bucketColumn:
		return float64(value)
	case latestColumn:
		return min(float64(value)/lastEnd.perOne(), s.metric.exposed) // which is not rounded up
	default:
		return float64(value) / s.metric.family.perOne()
	}
}

// addMetric adds the series of a metric that is exposed, as a server stores them.
func (h *History) addMetric(project string, names map[string]*name, familyName string, from *dto.Metric, more map[string]string) error {
	f, ok := familyNames[familyName]
	if !ok {
		return nil
	}
	m := &metric{family: f, anyOutcome: true}
	b := labels.NewBuilder(labels.EmptyLabels())
	for name, value := range more {
		b.Set(name, value)
	}
	for _, l := range from.GetLabel() {
		b.Set(l.GetName(), l.GetValue())
		switch l.GetName() {
		case labelProject:
			if l.GetValue() != project {
				return nil
			}
		case labelName:
			if m.name = names[l.GetValue()]; m.name == nil {
				return nil // nothing is known of its past
			}
		case labelOutcome:
			i := slices.IndexFunc(aggregate.Outcomes[:], func(o aggregate.Outcome) bool { return o.String() == l.GetValue() })
			if i < 0 {
				return fmt.Errorf("unknown outcome %q", l.GetValue())
			}
			m.anyOutcome, m.outcome = false, uint8(i)
		}
	}
	if m.name == nil {
		return fmt.Errorf("the label %q is missing", labelName)
	}
	m.read(from)
	if len(m.bounds) > math.MaxUint8 {
		return errors.New("more than 255 buckets")
	}
	if m.takeEvents() {
		h.clamped++
	}
	add := func(suffix string, c column, le int, bound string) {
		b.Set(model.MetricNameLabel, familyName+suffix)
		b.Set(model.BucketLabel, bound)
		h.series = append(h.series, &series{labels: b.Labels(), metric: m, column: c, le: uint8(le)})
		m.name.series++
		if c == nativeColumn {
			m.name.natives++
		}
	}
	switch f {
	case lastEnd:
		add("", latestColumn, 0, "")
	case traces, tokens:
		add("", sumColumn, 0, "")
	case durations, tokensPerTrace:
		if m.native != nil {
			add("", nativeColumn, 0, "")
		}
		if m.classic != nil {
			for i, bound := range append(m.bounds, math.Inf(1)) {
				add("_bucket", bucketColumn, i, labels.FormatOpenMetricsFloat(bound))
			}
			add("_count", countColumn, 0, "")
			add("_sum", sumColumn, 0, "")
		}
	}
	return nil
}
