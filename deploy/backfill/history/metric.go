package history

import (
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
)

// family is a metric family that has a history.
type family uint8

const (
	durations family = iota
	tokensPerTrace
	traces
	tokens
	lastEnd
)

var familyNames = map[string]family{
	"opper_trace_duration_seconds":           durations,
	"opper_tokens_per_trace":                 tokensPerTrace,
	"opper_traces_total":                     traces,
	"opper_trace_tokens_total":               tokens,
	"opper_trace_last_end_timestamp_seconds": lastEnd,
}

// perOne returns how many units of an event's amount are one in the exposition.
func (f family) perOne() float64 {
	switch f {
	case durations:
		return 1e6
	case lastEnd:
		return 1e3
	default:
		return 1
	}
}

// families is a set of families.
type families uint8

func (s *families) add(f family)     { *s |= 1 << f }
func (s families) has(f family) bool { return s&(1<<f) != 0 }

// prepare notes in which families an event cannot be.
func (e *Event) prepare() {
	e.uncounted = 0
	if e.Duration < 0 {
		e.uncounted.add(durations)
	}
	if e.Tokens < 0 {
		e.uncounted.add(tokens)
		e.uncounted.add(tokensPerTrace)
	}
	if e.Outcome == uint8(aggregate.Abandoned) {
		e.uncounted.add(lastEnd)
	}
}

// amount returns what an event adds to a sum of a family.
func (e *Event) amount(f family) int64 {
	switch f {
	case durations:
		return e.Duration
	case lastEnd:
		return e.End
	case traces:
		return 1
	default:
		return e.Tokens
	}
}

// metric is one metric of what is exposed now. Once all events are taken from it, it has
// what was counted before the first.
type metric struct {
	name       *name
	family     family
	anyOutcome bool
	outcome    uint8
	exposed    float64 // of a gauge
	count, sum int64
	bounds     []float64
	classic    []int64 // one for each bound and one above; nil if they are not exposed
	native     *native // nil if they are not exposed
}

// native is the layout of native buckets.
type native struct {
	schema int32
	keys   []int32 // of the buckets that have a value now
	counts []int64
	zero   int64
}

// isCounted reports whether an event is in a metric of its name.
func (m *metric) isCounted(e *Event) bool {
	return (m.anyOutcome || e.Outcome == m.outcome) && !e.uncounted.has(m.family)
}

// value returns what the buckets count of an event.
func (m *metric) value(e *Event) float64 { return float64(e.amount(m.family)) / m.family.perOne() }

// read takes in what is exposed.
func (m *metric) read(from *dto.Metric) {
	perOne := m.family.perOne()
	switch m.family {
	case lastEnd:
		m.exposed = from.GetGauge().GetValue()
	case traces:
		m.sum = units(from.GetCounter().GetValue(), perOne)
		m.count = m.sum
	case tokens:
		// Only those with known tokens are in the sum: no counter has how many.
		m.sum, m.count = units(from.GetCounter().GetValue(), perOne), math.MaxInt64
	case durations, tokensPerTrace:
		h := from.GetHistogram()
		m.sum, m.count = units(h.GetSampleSum(), perOne), int64(h.GetSampleCount())
		m.readBuckets(h)
	}
}

func (m *metric) readBuckets(h *dto.Histogram) {
	var below int64
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		m.bounds = append(m.bounds, b.GetUpperBound())
		m.classic = append(m.classic, int64(b.GetCumulativeCount())-below)
		below = int64(b.GetCumulativeCount())
	}
	if m.classic != nil {
		m.classic = append(m.classic, m.count-below)
	}
	if h.Schema == nil {
		return
	}
	m.native = &native{schema: h.GetSchema(), zero: int64(h.GetZeroCount())}
	var key int32
	var count int64
	deltas := h.GetPositiveDelta()
	for _, span := range h.GetPositiveSpan() {
		key += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			if count > 0 {
				m.native.keys, m.native.counts = append(m.native.keys, key), append(m.native.counts, count)
			}
			key++
		}
	}
}

// units returns the whole units of which a sum was made: dividing them by perOne gives the
// same bits.
func units(sum, perOne float64) int64 {
	near := math.Round(sum * perOne)
	for _, u := range []float64{near, math.Nextafter(near, 0), math.Nextafter(near, math.Inf(1))} {
		if u/perOne == sum {
			near = u
			break
		}
	}
	if near >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(near)
}

// take takes an event from what is counted, if that has it.
func (m *metric) take(e *Event) bool {
	amount := e.amount(m.family)
	if m.count < 1 || m.sum < amount {
		return false
	}
	var classic, native *int64
	if m.classic != nil {
		i := aggregate.ClassicBucket(m.value(e), m.bounds)
		e.bucket[m.family] = uint8(i)
		classic = &m.classic[i]
	}
	if m.native != nil {
		native = m.native.bucket(m.value(e), m.native.counts, &m.native.zero)
		if native == nil {
			return false
		}
	}
	for _, bucket := range []*int64{classic, native} {
		if bucket != nil && *bucket < 1 {
			return false
		}
	}
	for _, bucket := range []*int64{classic, native} {
		if bucket != nil {
			*bucket--
		}
	}
	m.count--
	m.sum -= amount
	return true
}

// bucket returns the count of a value among these of the layout, nil if there is none.
func (n *native) bucket(value float64, counts []int64, zero *int64) *int64 {
	key, ok := aggregate.NativeBucket(value, n.schema)
	if !ok {
		return zero
	}
	i, ok := slices.BinarySearch(n.keys, key)
	if !ok {
		return nil
	}
	return &counts[i]
}

// takeEvents takes the events of the name from what is counted now, and marks those that
// are not in it.
func (m *metric) takeEvents() (clamped bool) {
	if m.family == lastEnd {
		return false
	}
	for i := len(m.name.events) - 1; i >= 0; i-- {
		e := &m.name.events[i]
		if m.isCounted(e) && !m.take(e) {
			e.uncounted.add(m.family)
			clamped = true
		}
	}
	return clamped
}
