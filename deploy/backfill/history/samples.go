package history

import (
	"iter"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"opper_exporter/collector/aggregate"
)

// Series is a series in a range of time.
type Series struct {
	Labels labels.Labels
	Native bool // it has native histograms, not floats

	series     *series
	from       state
	events     []Event // of its name
	mint, maxt int64
}

// Len returns how many samples there are, or a few more: ends may be equal.
func (s *Series) Len() int {
	n := s.series.metric.name
	from := max(s.mint, n.start())
	return int((s.maxt-1)/n.step-(from-1)/n.step) + 1 + len(s.events)
}

// Floats yields the samples of a series that is not native.
func (s *Series) Floats() iter.Seq2[int64, float64] {
	return func(yield func(int64, float64) bool) {
		now := s.from
		value := s.series.exposed(now.value)
		for p := s.points(); p.next(); {
			if len(p.ended) > 0 {
				for i := range p.ended {
					s.series.add(&now, &p.ended[i])
				}
				value = s.series.exposed(now.value)
			}
			if s.series.column == latestColumn && now.value == 0 {
				continue
			}
			if !yield(p.t, value) {
				return
			}
		}
	}
}

// Histograms yields the samples of a native series. All have the buckets that have a value
// at the end of the range. The histogram is overwritten by the next.
func (s *Series) Histograms() iter.Seq2[int64, *histogram.Histogram] {
	return func(yield func(int64, *histogram.Histogram) bool) {
		layout := s.series.metric.native
		now, end := s.from, s.from
		now.buckets, end.buckets = slices.Clone(s.from.buckets), slices.Clone(s.from.buckets)
		for i := range s.events {
			s.series.add(&end, &s.events[i])
		}
		h := &histogram.Histogram{Schema: layout.schema, ZeroThreshold: aggregate.ZeroThreshold}
		var places []int
		for i, count := range end.buckets {
			if count == 0 {
				continue
			}
			h.PositiveSpans = appendKey(h.PositiveSpans, layout.keys, places, i)
			places = append(places, i)
		}
		h.PositiveBuckets = make([]int64, len(places))
		s.fill(h, &now, places)
		for p := s.points(); p.next(); {
			if len(p.ended) > 0 {
				for i := range p.ended {
					s.series.add(&now, &p.ended[i])
				}
				s.fill(h, &now, places)
			}
			if !yield(p.t, h) {
				return
			}
		}
	}
}

// appendKey adds the bucket at a place of the layout to the spans of the buckets at these
// places before it.
func appendKey(spans []histogram.Span, keys []int32, places []int, place int) []histogram.Span {
	if len(places) == 0 {
		return append(spans, histogram.Span{Offset: keys[place], Length: 1})
	}
	gap := keys[place] - keys[places[len(places)-1]] - 1
	if gap > 0 {
		return append(spans, histogram.Span{Offset: gap, Length: 1})
	}
	spans[len(spans)-1].Length++
	return spans
}

func (s *Series) fill(h *histogram.Histogram, now *state, places []int) {
	h.Count, h.ZeroCount, h.Sum = uint64(now.count), uint64(now.zero), s.series.exposed(now.value)
	var last int64
	for i, place := range places {
		count := now.buckets[place]
		h.PositiveBuckets[i] = count - last
		last = count
	}
}

func (s *Series) points() *points { return s.series.metric.name.points(s.events, s.mint, s.maxt) }

// points are the times of a name's samples in a range: the first, each multiple of the step
// from there on, and each end.
type points struct {
	t     int64
	ended []Event // at t

	events     []Event
	regular    int64 // the next that is no end
	step, maxt int64
}

func (n *name) points(events []Event, mint, maxt int64) *points {
	p := &points{events: events, regular: n.start(), step: n.step, maxt: maxt}
	if p.regular < mint {
		p.regular = mint - 1
		p.skip()
	}
	return p
}

// skip makes regular the next multiple of the step.
func (p *points) skip() { p.regular += p.step - p.regular%p.step }

func (p *points) next() bool {
	p.t, p.ended = p.regular, nil
	if len(p.events) > 0 && p.events[0].End <= p.t {
		p.t = p.events[0].End
		n := 1
		for n < len(p.events) && p.events[n].End == p.t {
			n++
		}
		p.ended, p.events = p.events[:n], p.events[n:]
	}
	if p.t == p.regular {
		p.skip()
	}
	return p.t < p.maxt
}
