package collector

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/ledgertest"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

// spendModel is what a project must have counted, from the answers that it read: the
// rules of usage and costs in their plainest form, without a limit of models.
type spendModel struct {
	countsNothing bool // in the first read

	begun                 bool
	first, newest, border int64                // hours: where the first read began, the newest one seen, those before are final
	own                   string               // Opper project that was proven to be the project's own first
	projects              map[string]string    // labels by Opper project
	sighted               map[string]time.Time // since when those without one are known
	hours                 map[spendCell]spendMark
	counted               map[spendCell]usage.Amounts // without an hour, by the label under which it is
	total                 map[spendCell]usage.Amounts // the same by model, with what has expired
	used                  map[spendCell]int64         // hours in which those counted have increased last
	dropped               map[spendCell]usage.Amounts // counted before they expired, which is not stored yet
	corrections           int64
	incomplete            int64

	traces []spentTrace
}

type spendCell struct {
	hour           int64
	project, model string // labels
}

type spendMark struct {
	high             usage.Amounts
	fell, incomplete bool
}

// spentTrace is a trace that is counted.
type spentTrace struct {
	id, name, outcome string
	label             string // under which it is counted; empty until that is known
	counted           time.Time
	from              time.Time // as clients say
	state             costState
	amounts           usage.Amounts  // if its cost is final
	completeAt        time.Time      // usage as of then has said what the cost is
	seen              *usage.Amounts // what the read before said
	expired           bool           // its name is
	mayReturn         bool           // but that is not published
	hasStart          bool
	isPart            bool // some of its calls are older than what is read for it
}

type costState int

const (
	costWaiting costState = iota
	costFinal
	costUnknown
)

// costDelay is after which a cost is final or unknown, and maxCostAge how old usage may be
// that is read for it.
const (
	costDelay  = 15 * time.Minute
	maxCostAge = 48 * time.Hour
)

func newSpendModel(countsNothing bool) *spendModel {
	return &spendModel{countsNothing: countsNothing, projects: map[string]string{}, sighted: map[string]time.Time{}, hours: map[spendCell]spendMark{}, counted: map[spendCell]usage.Amounts{}, total: map[spendCell]usage.Amounts{}, used: map[spendCell]int64{}, dropped: map[spendCell]usage.Amounts{}}
}

func (m *spendModel) clone() *spendModel {
	c := *m
	c.projects, c.sighted, c.hours, c.counted, c.traces = maps.Clone(m.projects), maps.Clone(m.sighted), maps.Clone(m.hours), maps.Clone(m.counted), slices.Clone(m.traces)
	c.total, c.used, c.dropped = maps.Clone(m.total), maps.Clone(m.used), maps.Clone(m.dropped)
	return &c
}

// restarted returns what is left after a restart at now of what is stored.
func (m *spendModel) restarted(now time.Time) *spendModel {
	c := m.clone()
	c.published()
	c.sighted = map[string]time.Time{}
	for i := range c.traces {
		t := &c.traces[i]
		if t.seen = nil; t.state == costWaiting && now.Sub(t.counted) >= maxCostAge {
			t.state = costUnknown
		}
	}
	return c
}

// modelLabels are those of the models that calls have. Null is the empty one.
var modelLabels = map[string]string{
	"": "(none)", "(none)": `\(none)`, "(other)": `\(other)`, "openai/gpt-4o": "openai/gpt-4o", "mistral/large": "mistral/large", "x": "x",
}

// read counts an answer about usage by model, under the labels that are exposed.
func (m *spendModel) read(rows []opper.Usage, from time.Time, proof usage.Proof, now time.Time, exposed map[spendCell]bool) {
	if m.own != "" {
		proof = usage.Proof{Own: m.own}
	}
	first := from.Unix() / 3600
	if m.newest == 0 {
		m.first, m.border = first, first
	}
	isFull, newest, seen := first <= m.border, m.newest, map[string]bool{}
	for i := range rows {
		seen[rows[i].Project] = true
		newest = max(newest, rows[i].Bucket.Unix()/3600)
	}
	if len(seen) == 1 && seen[""] && !isFull && m.hasOthers() {
		return // it may be the sum of all, which a full read shows
	}
	m.own = proof.Own
	isDecided := m.take(seen, isFull, proof, now)
	if !isDecided && !m.begun {
		return
	}
	present, unreadable, parts := map[spendCell]usage.Amounts{}, map[spendCell]bool{}, map[int64]bool{}
	for i := range rows {
		r := &rows[i]
		if label, ok := m.projects[r.Project]; ok {
			c := spendCell{r.Bucket.Unix() / 3600, label, modelLabels[r.Model]}
			unreadable[c] = unreadable[c] || r.IsUnreadable()
			present[c] = plus(present[c], usage.Amounts{r.Cost, r.Calls, r.InputTokens, r.OutputTokens})
			parts[c.hour] = parts[c.hour] || r.IsPart
		}
	}
	for c := range m.hours {
		if c.hour >= first {
			present[c] = plus(present[c], usage.Amounts{})
		}
	}
	for c, amounts := range present {
		mark, isKnown := m.hours[c]
		isPart, fell, sum := parts[c.hour], mark.fell, usage.Amounts{}
		if !isPart && !unreadable[c] {
			fell = false
		}
		for i, a := range amounts {
			fell = fell || a < mark.high[i] && !isPart && !unreadable[c]
			if a > mark.high[i] && !unreadable[c] {
				sum[i] = a - mark.high[i]
				mark.high[i] = a
			}
		}
		if fell && !mark.fell {
			m.corrections++
		}
		if isIncomplete := isPart || unreadable[c]; isIncomplete != mark.incomplete {
			if mark.incomplete = isIncomplete; isIncomplete {
				m.incomplete++
			}
		}
		mark.fell = fell
		m.hours[c] = mark
		if isKnown && sum == (usage.Amounts{}) {
			continue
		}
		if !m.begun && m.countsNothing {
			sum = usage.Amounts{}
		}
		m.add(spendCell{0, c.project, c.model}, sum, min(newest, now.Unix()/3600), exposed)
	}
	m.begun, m.newest = true, newest
	if isFull && isDecided {
		m.border = max(m.border, min(newest, now.Unix()/3600)-48)
		maps.DeleteFunc(m.hours, func(c spendCell, _ spendMark) bool { return c.hour < m.border })
	}
}

// add counts an increase that is seen in an hour. A model without a series is one of many.
func (m *spendModel) add(c spendCell, sum usage.Amounts, seen int64, exposed map[spendCell]bool) {
	m.total[c] = plus(m.total[c], sum)
	if !exposed[c] {
		c.model = aggregate.Other
	}
	if before, ok := m.dropped[c]; ok {
		m.counted[c] = before
		delete(m.dropped, c)
	}
	m.counted[c], m.used[c] = plus(m.counted[c], sum), seen
}

// expireModels takes in that what is not exposed any more has expired. It returns one that
// has been used since the hours before.
func (m *spendModel) expireModels(exposed map[spendCell]bool, present, hours int64) (wrong *spendCell) {
	for c := range exposed {
		if before, ok := m.dropped[c]; ok { // the clock was set back before that was stored
			m.counted[c] = before
			delete(m.dropped, c)
		}
	}
	for c, amounts := range m.counted {
		if exposed[c] {
			continue
		}
		if c.model == aggregate.Other || hours == 0 || present-m.used[c] <= hours {
			wrong = &c
		}
		m.dropped[c] = amounts
		delete(m.counted, c)
	}
	return wrong
}

// hasOthers reports whether Opper projects are known that are not the project's own.
func (m *spendModel) hasOthers() bool {
	for _, label := range m.projects {
		if label != "" {
			return true
		}
	}
	return false
}

// take gives labels to the Opper projects that are new in an answer: the project's own has
// none, if it is known to be that. It reports whether all of them have one.
func (m *spendModel) take(seen map[string]bool, isFull bool, proof usage.Proof, now time.Time) (all bool) {
	named, homes := 0, 0
	for id, label := range m.projects {
		if id != "" {
			named++
			if label == "" {
				homes++
			}
		}
	}
	ids := slices.Sorted(maps.Keys(seen))
	slices.Reverse(ids)
	all = true
	for _, id := range ids {
		if _, ok := m.projects[id]; ok {
			continue
		}
		isAlone := named == 0 && (len(ids) == 1 || len(ids) == 2 && seen[""])
		name := id
		if id == "" && !isAlone && named == 0 {
			name = "beside " + ids[len(ids)-2]
		}
		switch {
		case !isFull:
			all = false
		case proof.IsAhead && named == 0 && !isAlone && m.isNew(name, now):
			all = false
		case id == "" && m.isOwn(ids), id != "" && homes == 0 && (isAlone || id == proof.Own):
			m.projects[id] = ""
		default:
			m.projects[id] = cmp.Or(id, "(none)")
		}
	}
	return all
}

// isOwn reports whether all Opper projects that are known, with those of an answer, are
// the project's own.
func (m *spendModel) isOwn(ids []string) bool {
	for _, id := range ids {
		if _, ok := m.projects[id]; id != "" && !ok {
			return false
		}
	}
	return !m.hasOthers()
}

// isNew reports whether what is named so in an answer has not been known for 15 minutes.
func (m *spendModel) isNew(name string, now time.Time) bool {
	since, ok := m.sighted[name]
	if !ok || now.Before(since) {
		since = now
	}
	m.sighted[name] = since
	return now.Sub(since) < 15*time.Minute
}

// count takes in a trace that is counted at now, which is some wall-clock time.
func (m *spendModel) count(c ledger.Counted, isInitial bool, now, wall time.Time) {
	v := ledgertest.Version(c)
	t := spentTrace{id: v.ID, name: c.Name, outcome: v.Outcome, counted: now, from: c.Start, hasStart: !c.Start.IsZero()}
	if isInitial || !c.Start.IsZero() && c.Start.Before(wall.Add(-maxCostAge)) {
		t.state = costUnknown
	}
	m.traces = append(m.traces, t)
}

// mayLack reports whether rows of a trace may be in some hours, by clocks that are off by one.
func (t *spentTrace) mayLack(hours []time.Time) bool {
	return slices.ContainsFunc(hours, func(h time.Time) bool { return h.Add(2 * time.Hour).After(t.from) })
}

// costs counts an answer about usage by trace, of what usage was at some time. There are
// no rows if Opper refuses it. It returns how many costs are unknown by that.
func (m *spendModel) costs(rows []opper.Usage, as, now time.Time) (unknown int) {
	costs, incomplete := sumByTrace(rows), usage.Incomplete(rows)
	for i := range m.traces {
		t := &m.traces[i]
		if t.state != costWaiting {
			continue
		}
		cost, ok := costs[t.id]
		ok = ok && !t.mayLack(incomplete)
		isDue := now.Sub(t.counted) >= costDelay
		switch {
		case ok && (isDue || t.seen != nil && *t.seen == cost):
			t.state, t.amounts, t.completeAt = costFinal, cost, as
		case isDue:
			t.state = costUnknown
			unknown++
		case ok:
			t.seen = &cost
		default:
			t.seen = nil
		}
	}
	return unknown
}

// expire takes in which names are there. Those whose expiry has not been published, and that
// are there again, have not expired.
func (m *spendModel) expire(names map[string]bool) {
	for i := range m.traces {
		switch t := &m.traces[i]; {
		case t.label == "":
		case !t.expired && !names[t.label]:
			t.expired, t.mayReturn = true, true
			if t.state == costWaiting {
				t.state = costUnknown
			}
		case t.mayReturn && names[t.label]:
			t.expired, t.mayReturn = false, false
		}
	}
}

// published takes in that what is counted is published.
func (m *spendModel) published() {
	for i := range m.traces {
		m.traces[i].mayReturn = false
	}
}
