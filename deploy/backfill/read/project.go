package read

import (
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/server"
)

// project is what is read of one project.
type project struct {
	cfg      config.Project
	lookback *time.Duration // what the initial sync of the state counted; nil is all
	settle   time.Duration  // the settle delay of the state
	first    *server.First  // nil if nothing is known of it
	began    time.Time
	known    *collector.Known // nil without a state
	now      []*dto.MetricFamily
	names    []string          // as rows have them
	indexes  map[string]uint32 // in names
	events   []history.Event

	counted         int // all that was observed and is not excluded
	undated, future int
}

// gather takes what is published of the project.
func (p *project) gather(c *collector.Collector) (err error) {
	p.now, err = c.Gatherer(p.cfg.Name).Gather()
	return err
}

// observe takes in traces that were counted. With a state, those are meant that the state
// has counted.
func (p *project) observe(counted []ledger.Counted) {
	for i := range counted {
		c := &counted[i]
		abandoned := c.Abandoned
		if p.known != nil {
			var ok bool
			if ok, abandoned = p.known.HasCounted(c.ID); !ok || p.isBeforeLookback(c, abandoned) {
				continue
			}
		}
		if _, included := p.cfg.Aggregate.RowLabel(c.Name); !included {
			continue
		}
		p.counted++
		if e, ok := p.event(c, abandoned); ok {
			p.events = append(p.events, e)
		}
	}
}

// isBeforeLookback reports whether the initial sync of the state did not count a trace, as
// far as its end can tell.
func (p *project) isBeforeLookback(c *ledger.Counted, abandoned bool) bool {
	since := p.known.Aggregates.Since
	switch {
	case p.lookback == nil:
		return false
	case abandoned:
		return c.Start.Add(p.cfg.AbandonAfter).Before(since)
	default:
		return c.End.Before(since.Add(-*p.lookback))
	}
}

// event returns what a trace adds to the history, if it is known when.
func (p *project) event(c *ledger.Counted, abandoned bool) (e history.Event, ok bool) {
	end := c.End
	if abandoned {
		// The exporter abandons it by when it first saw it, which it does not keep.
		end = time.Time{}
		if !c.Start.IsZero() {
			end = c.Start.Add(p.cfg.AbandonAfter)
		}
	}
	if end.Before(p.began.Add(-ledger.MaxAge)) {
		p.undated++
		return e, false
	}
	if p.known != nil && end.After(p.began) {
		p.future++
	}
	e = history.Event{End: ceilMilli(end), Duration: -1, Tokens: -1, Name: p.index(c.Name), Outcome: uint8(p.outcome(c, abandoned))}
	if c.HasTokens {
		e.Tokens = c.Tokens
	}
	if !abandoned && c.HasDuration && c.Duration >= 0 {
		e.Duration = c.Duration.Microseconds()
	}
	return e, true
}

// countFuture counts what a made state has not counted, as it ends later than it was read.
func (p *project) countFuture(state *store.Store) error {
	now := time.Now()
	made, err := collector.ReadKnown(state, p.cfg.Name)
	if err != nil || made == nil {
		return err
	}
	made.Pending(func(row ledger.Row) {
		if row.End.After(now) {
			p.future++
		}
	})
	return nil
}

func (p *project) outcome(c *ledger.Counted, abandoned bool) aggregate.Outcome {
	if abandoned {
		return aggregate.Abandoned
	}
	outcome, _ := p.cfg.Aggregate.Outcome(c.Status)
	return outcome
}

func (p *project) index(name string) uint32 {
	i, ok := p.indexes[name]
	if !ok {
		i = uint32(len(p.names))
		p.names = append(p.names, name)
		p.indexes[name] = i
	}
	return i
}

// ceilMilli rounds up: at the end of a trace, all of it is counted.
func ceilMilli(t time.Time) int64 {
	return t.Add(time.Millisecond - 1).UnixMilli()
}

// history returns the events under the labels that their traces are counted under.
func (p *project) history() (history.Project, error) {
	now, traces := countsOf(p.now), 0
	for _, n := range now {
		traces += n
	}
	if p.known == nil && traces != p.counted {
		return history.Project{}, fmt.Errorf("%d traces were counted, and %d are in the state: the list became another one while it was read", p.counted, traces)
	}
	h := history.Project{Name: p.cfg.Name, Now: p.now, Events: p.events}
	labels := p.labels(now)
	if p.first != nil {
		first := countsOf(p.first.Exposed)
		labelsFirst := p.labels(first)
		h.Now, h.Events = p.first.Exposed, p.countedFirst(now, first, labels, labelsFirst)
		labels = labelsFirst
	}
	places, begins := map[string]uint32{}, beginsOf(p.now)
	for i := range h.Events {
		e := &h.Events[i]
		label := labels[e.Name]
		e.End = max(e.End, begins[label])
		place, ok := places[label]
		if !ok {
			place = uint32(len(h.Names))
			h.Names, places[label] = append(h.Names, label), place
		}
		e.Name = place
	}
	return h, nil
}

// labels returns the label under which each name is counted, where these counts are exposed.
func (p *project) labels(counts map[counter]int) (all []string) {
	for _, name := range p.names {
		label, _ := p.cfg.Aggregate.RowLabel(name)
		if _, ok := counts[counter{label, aggregate.Success.String()}]; !ok {
			label = aggregate.Other
		}
		all = append(all, label)
	}
	return all
}

// beginsOf returns when each name may have counted a trace, at the earliest: one that came
// late may have ended before. A server that has ingested the created timestamp as a zero
// would take that for a reset.
func beginsOf(exposed []*dto.MetricFamily) map[string]int64 {
	begins := map[string]int64{}
	each(exposed, "opper_traces_total", func(m *dto.Metric) {
		begins[labelOf(m, "trace_name")] = ceilMilli(m.GetCounter().GetCreatedTimestamp().AsTime().Add(time.Millisecond))
	})
	return begins
}
