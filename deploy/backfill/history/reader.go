package history

import (
	"cmp"
	"iter"
	"slices"
)

// Reader reads a History in the order of time. It is not safe for concurrent use.
type Reader struct {
	history *History
	states  []state // of each series, when these events have ended
	ended   []int   // of each name
}

// NewReader returns a Reader that begins with the first sample.
func (h *History) NewReader() *Reader {
	r := &Reader{history: h, states: make([]state, len(h.series)), ended: make([]int, len(h.names))}
	for i, s := range h.series {
		r.states[i] = s.base()
	}
	return r
}

// Series yields the series that have samples in [mint, maxt), sorted by labels. No range
// begins before the end of an earlier one. What is yielded is valid until the next call.
func (r *Reader) Series(mint, maxt int64) iter.Seq[Series] {
	return func(yield func(Series) bool) {
		r.advance(mint)
		for i, s := range r.history.series {
			n := s.metric.name
			events := n.events[r.ended[n.index]:]
			events = events[:before(events, maxt)]
			if n.start() >= maxt || s.column == latestColumn && r.states[i].value == 0 && !slices.ContainsFunc(events, func(e Event) bool { return s.metric.isCounted(&e) }) {
				continue
			}
			if !yield(Series{Labels: s.labels, Native: s.column == nativeColumn, series: s, from: r.states[i], events: events, mint: mint, maxt: maxt}) {
				return
			}
		}
	}
}

// advance counts the events that end before a time.
func (r *Reader) advance(to int64) {
	for i, s := range r.history.series {
		n := s.metric.name
		events := n.events[r.ended[n.index]:]
		for j := range events[:before(events, to)] {
			s.add(&r.states[i], &events[j])
		}
	}
	for i, n := range r.history.names {
		r.ended[i] += before(n.events[r.ended[i]:], to)
	}
}

// before returns how many events end before a time.
func before(events []Event, t int64) int {
	n, _ := slices.BinarySearchFunc(events, t, func(e Event, t int64) int { return cmp.Compare(e.End, t) })
	return n
}
