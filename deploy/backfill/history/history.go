// Package history has the samples that the exporter's series would have had in the past:
// from what the exporter exposes now, and the traces that it has counted. It does no I/O.
package history

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
)

// MaxStep is the longest time between two samples: a query takes no sample that is older
// than 5 minutes.
const MaxStep = 4 * time.Minute

// Event is a counted trace. There may be millions.
type Event struct {
	End      int64  // milliseconds since the epoch, rounded up; of an abandoned trace, when it was abandoned
	Duration int64  // microseconds; negative if it is in no duration histogram
	Tokens   int64  // negative if they are unknown
	Name     uint32 // index in Project.Names
	Outcome  uint8  // an aggregate.Outcome

	uncounted families // in which it is not counted
	bucket    [2]uint8 // of its duration and tokens, in the classic layout
}

// Project is what is known of a project.
type Project struct {
	Name   string
	Now    []*dto.MetricFamily // what the exporter exposes; those of other projects are ignored
	Names  []string            // values of the label trace_name
	Events []Event             // New sorts and keeps them
}

// Options say which samples a History has.
type Options struct {
	Step   time.Duration     // between two samples, at most
	Labels map[string]string // of each series, beside those of the exposition
}

// History has the value of each series at each time: that of now, without the events that
// end later. What now does not have is left out, the oldest events first. After EndAt, it is
// immutable, so that several Readers can read it at once.
type History struct {
	names   []*name
	series  []*series // sorted by labels
	clamped int
}

// name is a trace name of a project. Its series have their samples at the same times, as
// if they were scraped: a histogram's buckets must not be extrapolated differently.
type name struct {
	index           int
	step            int64 // milliseconds
	latest          int64 // when it starts at the latest
	events          []Event
	series, natives int // natives are the native histograms among them
}

// start returns the time of the first sample.
func (n *name) start() int64 { return min(n.events[0].End-n.step, n.latest) }

// New returns the history of projects.
func New(projects []Project, o Options) (*History, error) {
	if o.Step < time.Second || o.Step > MaxStep {
		return nil, fmt.Errorf("step %s: expected 1s to %s", o.Step, MaxStep)
	}
	if err := CheckLabels(o.Labels); err != nil {
		return nil, err
	}
	h := &History{}
	for i := range projects {
		if err := h.add(&projects[i], o); err != nil {
			return nil, fmt.Errorf("project %q: %w", projects[i].Name, err)
		}
	}
	slices.SortFunc(h.series, func(a, b *series) int { return labels.Compare(a.labels, b.labels) })
	for i, s := range h.series[min(1, len(h.series)):] {
		if labels.Equal(s.labels, h.series[i].labels) {
			return nil, fmt.Errorf("there are two series %s", s.labels)
		}
	}
	return h, nil
}

func (h *History) add(p *Project, o Options) error {
	slices.SortFunc(p.Events, func(a, b Event) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.End, b.End)) })
	names := map[string]*name{}
	for rest := p.Events; len(rest) > 0; {
		i := rest[0].Name
		if int(i) >= len(p.Names) {
			return errors.New("an event has no name")
		}
		count, _ := slices.BinarySearchFunc(rest, i+1, func(e Event, i uint32) int { return cmp.Compare(e.Name, i) })
		n := &name{index: len(h.names), step: o.Step.Milliseconds(), latest: math.MaxInt64, events: rest[:count]}
		rest = rest[count:]
		for j := range n.events {
			n.events[j].prepare()
		}
		if names[p.Names[i]] != nil {
			return fmt.Errorf("trace name %q is there twice", p.Names[i])
		}
		names[p.Names[i]] = n
		h.names = append(h.names, n)
	}
	for _, family := range p.Now {
		for _, m := range family.GetMetric() {
			if err := h.addMetric(p.Name, names, family.GetName(), m, o.Labels); err != nil {
				return fmt.Errorf("%s: %w", family.GetName(), err)
			}
		}
	}
	return nil
}

// Range returns when the first sample is and when the last event ends, in milliseconds
// since the epoch; not ok if there is none.
func (h *History) Range() (first, last int64, ok bool) {
	for _, n := range h.names {
		if n.series == 0 {
			continue
		}
		if start := n.start(); !ok || start < first {
			first = start
		}
		last = max(last, n.events[len(n.events)-1].End)
		ok = true
	}
	return first, last, ok
}

// EndAt takes in that nothing is read from a time on, in milliseconds since the epoch. Names
// whose first event ends later have one sample before that: what is exposed later would be
// in no increase without it.
func (h *History) EndAt(t int64) {
	for _, n := range h.names {
		n.latest = t - time.Second.Milliseconds()
	}
}

// Clamped returns of how many counters and histograms events are left out, as the exporter
// has counted less.
func (h *History) Clamped() int { return h.clamped }

// Size returns how many series and samples there are in [mint, maxt), with or without native
// histograms. There are a few less of names whose first traces were abandoned, which have no
// last end.
func (h *History) Size(mint, maxt int64, natives bool) (series int, samples uint64) {
	for _, n := range h.names {
		count := uint64(0)
		events := n.events[before(n.events, mint):before(n.events, maxt)]
		for p := n.points(events, mint, maxt); p.next(); {
			count++
		}
		of := n.series
		if !natives {
			of -= n.natives
		}
		if count > 0 {
			series += of
			samples += count * uint64(of)
		}
	}
	return series, samples
}
