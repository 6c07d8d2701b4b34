package aggregate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"opper_exporter/collector/codec"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/status"
)

const (
	// costDelay is from when a trace is counted until its cost is final or unknown,
	// whatever Opper says later.
	costDelay = 15 * time.Minute
	// maxCostAge is how much older than a count usage may be to be read for it.
	maxCostAge = 48 * time.Hour
	maxWaiting = 100_000
)

// CostBuckets are the bounds of the cost histograms, in US dollars. Histograms that are
// stored have the same ones: others need another version of the state.
var CostBuckets = []float64{0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 25}

// TraceCost is what Opper's usage says of one trace.
type TraceCost struct {
	Cost                      int64 // nanodollars
	InputTokens, OutputTokens int64
}

// waitingTrace is counted, and its cost is not final yet.
type waitingTrace struct {
	name      *Aggregate
	outcome   Outcome
	id        ledger.ID
	ref       string    // as in ledger.Row
	from, end time.Time // from when on usage can be of it, and when it ended
}

// waitingBatch holds the waiting traces that were counted at one time. It is one entry,
// which is written once, and again only when traces were removed from it.
type waitingBatch struct {
	number  int
	counted time.Time
	traces  []waitingTrace
	stored  int // traces in the entry, 0 if there is none; more are not added to it
}

// waiting holds the waiting traces.
type waiting struct {
	batches []*waitingBatch // the oldest first; they may be empty until the next commit
	traces  int
	read    map[ledger.ID]TraceCost // what the last read said of them; not stored
}

// waitForCost takes in a trace that is counted at now. What the initial sync counts is
// history, whose costs are not asked for, and of a trace that began too long ago only a
// part would be read.
func (s *Set) waitForCost(n *Aggregate, outcome Outcome, c *ledger.Counted, now time.Time) {
	wall := now
	if s.cfg.Wall != nil {
		wall = s.cfg.Wall(now)
	}
	from, earliest := c.Start, wall.Add(-maxCostAge)
	if from.IsZero() {
		from = earliest
	}
	if s.initialSync || !s.cfg.Costs || from.Before(earliest) {
		s.CostsUnknown++
		return
	}
	w := &s.waiting
	if w.traces == maxWaiting {
		oldest := w.batches[slices.IndexFunc(w.batches, func(b *waitingBatch) bool { return len(b.traces) > 0 })]
		oldest.traces = oldest.traces[1:]
		w.traces--
		s.CostsUnknown++
	}
	last := len(w.batches) - 1
	if last < 0 || w.batches[last].stored > 0 || !w.batches[last].counted.Equal(now) {
		number := 0
		if last >= 0 {
			number = w.batches[last].number + 1
		}
		w.batches = append(w.batches, &waitingBatch{number: number, counted: now})
		last++
	}
	b := w.batches[last]
	b.traces = append(b.traces, waitingTrace{name: n, outcome: outcome, id: c.ID, ref: strings.Clone(c.Ref), from: from, end: c.End})
	w.traces++
}

// WaitingSince returns from when on usage is to be read for the traces that wait for
// their cost: the start of the earliest, or 48 hours before it was counted if it has none.
func (s *Set) WaitingSince() (from time.Time, ok bool) {
	for _, b := range s.waiting.batches {
		for i := range b.traces {
			if t := &b.traces[i]; !ok || t.from.Before(from) {
				from, ok = t.from, true
			}
		}
	}
	return from, ok
}

// CostsWaiting returns how many counted traces wait for their cost.
func (s *Set) CostsWaiting() int { return s.waiting.traces }

// ApplyCosts takes in what one complete read of usage says of traces, at now of the clock
// by which traces are counted. The cost of a trace is final if the read before said the
// same, or if the trace has waited long enough. It says nothing of traces that may have
// usage in incomplete hours, of which rows are missing.
func (s *Set) ApplyCosts(costs map[ledger.ID]TraceCost, now time.Time, incomplete ...time.Time) {
	last := s.waiting.read
	s.waiting.read = map[ledger.ID]TraceCost{}
	s.endWaiting(func(b *waitingBatch, t waitingTrace) bool {
		cost, ok := costs[t.id]
		ok = ok && !slices.ContainsFunc(incomplete, t.mayBeIn)
		before, again := last[t.id]
		switch isDue := now.Sub(b.counted) >= costDelay; {
		case ok && (isDue || again && cost == before):
			t.addCost(cost)
			return true
		case isDue:
			s.CostsUnknown++
			return true
		case ok:
			s.waiting.read[t.id] = cost
		}
		return false
	})
}

// mayBeIn reports whether usage of a trace may be in an hour: clients' clocks may be off by
// another one.
func (t waitingTrace) mayBeIn(hour time.Time) bool { return hour.Add(2 * time.Hour).After(t.from) }

// AbandonCosts is called when Opper refuses usage by trace. The costs of traces that have
// waited long enough become unknown.
func (s *Set) AbandonCosts(now time.Time) { s.ApplyCosts(nil, now) }

// forgetWaiting makes the costs unknown of the waiting traces for which f returns true,
// and reports whether there were any.
func (s *Set) forgetWaiting(f func(*waitingBatch, waitingTrace) bool) bool {
	before := s.waiting.traces
	s.endWaiting(f)
	s.CostsUnknown += uint64(before - s.waiting.traces)
	return s.waiting.traces < before
}

// endWaiting removes the waiting traces for which f returns true.
func (s *Set) endWaiting(f func(*waitingBatch, waitingTrace) bool) {
	s.waiting.traces = 0
	for _, b := range s.waiting.batches {
		b.traces = slices.DeleteFunc(b.traces, func(t waitingTrace) bool { return f(b, t) })
		s.waiting.traces += len(b.traces)
	}
}

// addCost counts the final cost of a trace. Counters never fall, so a negative one is 0.
func (t waitingTrace) addCost(c TraceCost) {
	n, totals := t.name, &t.name.ByOutcome[t.outcome]
	n.Changes++
	n.idleSince = time.Time{} // the cost is to be read, too
	cost := max(c.Cost, 0)
	totals.Cost = AddSaturating(totals.Cost, cost)
	n.InputTokens = AddSaturating(n.InputTokens, max(c.InputTokens, 0))
	n.OutputTokens = AddSaturating(n.OutputTokens, max(c.OutputTokens, 0))
	n.Costs.count(CostBuckets, float64(cost)/status.Dollar, cost, &ledger.Counted{Row: ledger.Row{ID: t.id, Ref: t.ref, End: t.end}})
}

// StartCosts exposes the costs of the names that have had none, zero-first. Traces that
// have waited for too long, as costs were switched off, are unknown. It reports whether
// there were any of these.
func (s *Set) StartCosts(now time.Time) bool {
	if !s.cfg.Costs || s.initialSync {
		return false
	}
	forgotten := s.forgetWaiting(func(b *waitingBatch, _ waitingTrace) bool { return now.Sub(b.counted) >= maxCostAge })
	return s.createCosts(now, costSeries) || forgotten
}

// createCosts notes that the costs of the names that have had none are 0 at now, and what
// is pending of them. It reports whether there were any.
func (s *Set) createCosts(now time.Time, pending part) (created bool) {
	for _, n := range s.names {
		if s.cfg.Costs && n.CostsCreated.IsZero() {
			n.Changes++
			n.CostsCreated = now
			n.zeroPending |= pending
			created = true
		}
	}
	return created
}

// changesOfWaiting calls put as Set.Changes does.
func (s *Set) changesOfWaiting(put func(key string, body []byte)) {
	for _, b := range s.waiting.batches {
		switch len(b.traces) {
		case 0: // a commit that failed may have stored it
			put(keyOfWaiting(b.number), nil)
		case b.stored:
		default:
			put(keyOfWaiting(b.number), codec.Encode(func(c *codec.Coder) { s.codeWaiting(c, b) }))
		}
	}
}

func (w *waiting) committed() {
	w.batches = slices.DeleteFunc(w.batches, func(b *waitingBatch) bool {
		b.stored = len(b.traces)
		return b.stored == 0
	})
}

// restoreWaiting adds a batch. They come sorted, and behind the names.
func (s *Set) restoreWaiting(key string, body []byte) error {
	number, err := strconv.Atoi(strings.TrimPrefix(key, keyWaiting))
	if err != nil || key != keyOfWaiting(number) {
		return codec.ErrDamaged
	}
	b := &waitingBatch{number: number}
	err = codec.Decode(body, func(c *codec.Coder) { s.codeWaiting(c, b) })
	b.stored = len(b.traces)
	s.waiting.batches = append(s.waiting.batches, b)
	s.waiting.traces += b.stored
	return err
}

func keyOfWaiting(number int) string { return fmt.Sprintf("%s%08d", keyWaiting, number) }

func (s *Set) codeWaiting(c *codec.Coder, b *waitingBatch) {
	c.Times(&b.counted)
	codec.Slice(c, &b.traces, func(t *waitingTrace) {
		var label string
		if !c.IsDecoding() {
			label = t.name.Label
		}
		c.Text(&label)
		codec.Int(c, &t.outcome)
		c.Fixed(t.id[:])
		c.Text(&t.ref)
		c.Times(&t.from, &t.end)
		if t.name = s.names[label]; t.name == nil || t.outcome < 0 || t.outcome >= outcomes {
			c.Fail()
		}
	})
}
