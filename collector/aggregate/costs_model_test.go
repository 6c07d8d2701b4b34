package aggregate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

// spentTrace is a trace of the model: what it costs is the truth, and what was seen and
// counted of it follows the rules in their plainest form.
type spentTrace struct {
	row       ledger.Row
	abandoned bool
	label     string    // that it was counted under; empty if it is not
	counted   time.Time // zero if it is not
	state     string    // "", "waiting", "final" or "unknown"
	amount    TraceCost // if it is final
	seen      *TraceCost

	appears, rests time.Duration // after the epoch: usage has it, and says the truth
	truth          TraceCost
}

// usage is what Opper says at now: more with each moment until it rests.
func (m *spentTrace) usage(now time.Time) (TraceCost, bool) {
	switch age := now.Sub(modelEpoch); {
	case age < m.appears:
		return TraceCost{}, false
	case age < m.rests:
		return TraceCost{Cost: m.truth.Cost - int64(m.rests-age), InputTokens: m.truth.InputTokens / 2}, true
	}
	return m.truth, true
}

var modelEpoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// costsModel says what a Set should, from the traces alone.
type costsModel struct {
	traces  []spentTrace
	removed map[string]int // labels by how often they have been removed
	expired map[string]int // that since the last commit, which can be taken back
}

func (m *costsModel) clone() *costsModel {
	c := &costsModel{traces: append([]spentTrace(nil), m.traces...), removed: maps.Clone(m.removed), expired: map[string]int{}}
	for i := range c.traces {
		c.traces[i].seen = nil // only in memory
	}
	return c
}

// place is a label that can be freed and taken again.
func (m *costsModel) place(label string) string { return fmt.Sprintf("%s#%d", label, m.removed[label]) }

// modelSum is what is counted under a place.
type modelSum struct {
	traces, final                   uint64
	cost, input, output             int64
	success, failure, abandonedCost int64
}

func (m *costsModel) sums() (text string, counted, final, unknown, waiting int) {
	names := map[string]modelSum{}
	for i := range m.traces {
		t := &m.traces[i]
		if t.state == "" {
			continue
		}
		counted++
		s := names[t.label]
		s.traces++
		switch t.state {
		case "waiting":
			waiting++
		case "unknown":
			unknown++
		case "final":
			final++
			s.final++
			s.cost, s.input, s.output = s.cost+t.amount.Cost, s.input+t.amount.InputTokens, s.output+t.amount.OutputTokens
			switch {
			case t.abandoned:
				s.abandonedCost += t.amount.Cost
			case t.row.Status == "error":
				s.failure += t.amount.Cost
			default:
				s.success += t.amount.Cost
			}
		}
		names[t.label] = s
	}
	for label := range names {
		var name string
		for l := range m.removed {
			if m.place(l) == label {
				name = l
			}
		}
		if name == "" {
			delete(names, label) // it has expired
		}
	}
	return fmt.Sprint(names, unknown, waiting), counted, final, unknown, waiting
}

// A random sequence of counts, reads, refused reads, crashes, expired names and commits
// says at every commit what the rules say, and keeps: each counted trace is in the
// histogram, unknown or waiting; what is exposed never falls.
func TestCostsModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runCostsModel(t, rand.New(rand.NewPCG(seed, 16))) })
	}
}

type costsRun struct {
	t         *testing.T
	rng       *rand.Rand
	now       time.Time
	cfg       Config
	set       *Set
	stored    map[string][]byte
	model     *costsModel
	committed *costsModel
	lost      []spentTrace       // counted, and not committed before a crash
	exposed   map[string][]int64 // by place, at the last commit
	expected  map[string]int     // what was covered
}

func runCostsModel(t *testing.T, rng *rand.Rand) {
	t.Helper()
	r := &costsRun{
		t: t, rng: rng, now: modelEpoch, cfg: stateConfig, stored: map[string][]byte{},
		exposed: map[string][]int64{}, expected: map[string]int{},
	}
	r.cfg.Costs, r.cfg.NameExpiry = true, 5*time.Minute
	r.set = New(r.cfg, r.now)
	r.model = &costsModel{removed: map[string]int{}, expired: map[string]int{}}
	r.set.EndInitialSync(r.now)
	for len(r.stored) == 0 {
		r.commit()
	}
	refusedUntil := r.now
	for range 1500 {
		r.now = r.now.Add(time.Duration(rng.Int64N(int64(time.Minute)))).Truncate(time.Microsecond)
		switch rng.IntN(12) {
		case 0, 1, 2:
			r.count()
		case 3, 4, 5, 6:
			if r.now.Before(refusedUntil) {
				r.abandon()
			} else {
				r.read()
			}
		case 7:
			r.expire()
		case 8:
			r.crash()
		case 9:
			if rng.IntN(8) == 0 {
				refusedUntil = r.now.Add(time.Duration(rng.IntN(40)) * time.Minute)
			}
		default:
			r.commit()
		}
		if t.Failed() {
			return
		}
	}
	for _, what := range []string{"truth", "partial", "unknown", "expired while waiting", "revived", "lost", "refused"} {
		if r.expected[what] == 0 {
			t.Errorf("%s: never", what)
		}
	}
}

// count counts traces, first those that a crash has made unseen.
func (r *costsRun) count() {
	traces := r.lost
	r.lost = nil
	for range r.rng.IntN(6) {
		i := r.rng.Uint64()
		row := ledger.Row{ID: ledger.KeyOf(fmt.Sprint(i)), Name: fmt.Sprint("name ", r.rng.IntN(9)), Status: []string{"ok", "error"}[i%2], HasStatus: true}
		row.Start, row.End = r.now.Add(-time.Minute), r.now
		age := r.now.Sub(modelEpoch)
		m := spentTrace{
			row: row, abandoned: r.rng.IntN(9) == 0,
			appears: age + time.Duration(r.rng.Int64N(int64(20*time.Minute))) - time.Minute,
			truth:   TraceCost{Cost: int64(time.Hour) + r.rng.Int64N(1e9), InputTokens: r.rng.Int64N(1e6), OutputTokens: r.rng.Int64N(1e6)},
		}
		m.rests = m.appears + time.Duration(r.rng.Int64N(int64(10*time.Minute)))
		if r.rng.IntN(6) == 0 {
			m.appears, m.rests = time.Hour*1e5, time.Hour*1e5
		}
		traces = append(traces, m)
	}
	for _, m := range traces {
		r.set.Apply(ledger.Events{FirstSeen: []ledger.Row{m.row}, Counted: []ledger.Counted{{Row: m.row, Abandoned: m.abandoned}}}, r.now, r.now)
		label := r.set.Find(m.row.Name).Label
		if before, ok := r.model.expired[label]; ok {
			r.expected["revived"]++
			r.model.removed[label] = before
			delete(r.model.expired, label)
		}
		r.model.removed[label] += 0
		m.label, m.counted, m.state = r.model.place(label), r.now, "waiting"
		r.model.traces = append(r.model.traces, m)
	}
}

func (r *costsRun) read() {
	costs := map[ledger.ID]TraceCost{}
	for i := range r.model.traces {
		m := &r.model.traces[i]
		said, ok := m.usage(r.now)
		if ok {
			costs[m.row.ID] = said
		}
		if m.state != "waiting" {
			continue
		}
		late := !r.now.Before(m.counted.Add(15 * time.Minute))
		switch {
		case ok && (late || m.seen != nil && *m.seen == said):
			m.state, m.amount = "final", said
			if r.expected["truth"]++; said != m.truth {
				r.expected["partial"]++
				if !late {
					r.t.Errorf("%v is final before it rests", m.row.ID)
				}
			}
		case late:
			m.state = "unknown"
			r.expected["unknown"]++
		case ok:
			m.seen = &said
		default:
			m.seen = nil
		}
	}
	r.set.ApplyCosts(costs, r.now)
}

func (r *costsRun) abandon() {
	for i := range r.model.traces {
		m := &r.model.traces[i]
		m.seen = nil
		if m.state == "waiting" && !r.now.Before(m.counted.Add(15*time.Minute)) {
			m.state = "unknown"
			r.expected["refused"]++
		}
	}
	r.set.AbandonCosts(r.now)
}

func (r *costsRun) expire() {
	for _, z := range r.set.ZeroPending() {
		z.EndZero()
	}
	for _, label := range r.set.Expire(r.now, listing{}) {
		for i := range r.model.traces {
			if m := &r.model.traces[i]; m.state == "waiting" && m.label == r.model.place(label) {
				m.state = "unknown"
				r.expected["expired while waiting"]++
			}
		}
		r.model.expired[label] = r.model.removed[label]
		r.model.removed[label]++
	}
}

// crash goes back to what the last commit stored.
func (r *costsRun) crash() {
	var err error
	if r.set, err = Restore(r.cfg, r.stored); err != nil {
		r.t.Fatal(err)
	}
	r.set.StartCosts(r.now)
	counted := map[ledger.ID]bool{}
	for i := range r.committed.traces {
		counted[r.committed.traces[i].row.ID] = true
	}
	for _, m := range r.model.traces {
		if !counted[m.row.ID] {
			m.state, m.seen = "", nil
			r.lost = append(r.lost, m)
			r.expected["lost"]++
		}
	}
	r.model = r.committed.clone()
	r.check()
}

func (r *costsRun) commit() {
	r.check()
	if r.rng.IntN(8) == 0 {
		r.set.Changes(func(string, []byte) {}) // could not be stored
		return
	}
	save(r.set, r.stored)
	r.set.Published()
	clear(r.model.expired)
	r.committed = r.model.clone()
	exposed := map[string][]int64{"": {int64(r.set.CostsUnknown)}}
	for _, n := range r.set.All() {
		numbers := []int64{int64(n.Costs.Count), n.Costs.Sum, n.InputTokens, n.OutputTokens}
		for _, o := range Outcomes {
			numbers = append(numbers, n.ByOutcome[o].Cost)
		}
		exposed[r.model.place(n.Label)] = numbers
	}
	for place, before := range r.exposed {
		for i, number := range exposed[place] {
			if number < before[i] {
				r.t.Errorf("%s: number %d falls from %d to %d", place, i, before[i], number)
			}
		}
	}
	r.exposed = exposed
}

// check compares the numbers with those of the model.
func (r *costsRun) check() {
	r.t.Helper()
	names := map[string]modelSum{}
	for _, n := range r.set.All() {
		by := n.ByOutcome
		m := modelSum{
			final: n.Costs.Count, cost: n.Costs.Sum, input: n.InputTokens, output: n.OutputTokens,
			success: by[Success].Cost, failure: by[Failure].Cost, abandonedCost: by[Abandoned].Cost,
		}
		for o := range by {
			m.traces += by[o].Traces
		}
		names[r.model.place(n.Label)] = m
	}
	want, counted, final, unknown, waiting := r.model.sums()
	got := fmt.Sprint(names, r.set.CostsUnknown, r.set.waiting.traces)
	if got != want {
		r.t.Errorf("got  %s\nwant %s", got, want)
	}
	if counted != final+unknown+waiting || counted != final+int(r.set.CostsUnknown)+r.set.waiting.traces {
		r.t.Errorf("%d traces: %d final, %d unknown, %d wait; want %d and %d", counted, final, r.set.CostsUnknown, r.set.waiting.traces, unknown, waiting)
	}
}
