package usage

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

// errUngrouped is an answer that would be counted as one more Opper project.
var errUngrouped = errors.New("usage without a project.uuid (expected one, as several Opper projects are known)")

// Proof says which Opper project is the configured one.
type Proof struct {
	Own     string // empty if none is proven
	IsAhead bool   // none is, and a later answer may prove one
}

// Apply counts the rows that were read from the begin of a Window on, which say their Opper
// project if they were read by project. A series that is new since the first read was
// created at the one before, and starts zero-first. After an error, nothing has been
// counted, and the next window is a longer one.
//
// An Opper project that is not known is taken in only when all hours that are not final
// were read, so that none of its hours is missing in that. While it is undecided who
// counts it, no hour becomes final. The first read counts nothing until all is decided,
// so that history appears at once.
func (s *Set) Apply(rows []opper.Usage, from time.Time, byProject bool, proof Proof, now time.Time) error {
	if s.own != "" {
		proof = Proof{Own: s.own}
	}
	if !proof.IsAhead {
		s.cfg.Owners.endAwait(s.cfg.Project)
	}
	first := hourOf(from)
	if s.newest == 0 {
		s.border = first
	}
	newest, seen := s.newest, map[string]int64{} // costs by Opper project
	for i := range rows {
		if hour := hourOf(rows[i].Bucket); hour >= s.border {
			newest = max(newest, hour)
			seen[rows[i].Project] = aggregate.AddSaturating(seen[rows[i].Project], rows[i].Cost)
		}
	}
	fullAt := s.fullAt
	s.undecided, s.fullAt = false, 0
	isFull := first <= s.border
	if _, hasNull := seen[""]; hasNull && len(seen) == 1 {
		switch {
		case !byProject && s.hasOthers(), s.isSum(first):
			return errUngrouped
		case !isFull && s.hasOthers():
			s.undecided = true // the hours before show whether it is a sum
			return nil
		}
	}
	s.own = proof.Own
	taken := s.assign(rows, seen, newest, isFull, proof, now)
	if s.undecided && !s.begun {
		for id := range taken { // later, as nothing is counted yet
			delete(s.accounts, id)
			s.others[id] = ""
		}
		return nil
	}
	bases := s.bases(rows, taken)
	sums := s.sum(rows, bases)
	if !s.begun {
		s.givePlaces(sums)
	}
	present := min(newest, hourOf(now))
	s.count(sums, bases, first, present, now)
	s.expire(present)
	s.begun, s.newest, s.lastRead = true, newest, now
	switch {
	case s.undecided:
	case isFull:
		s.fullAt = hourOf(now)
		s.end(present - finalAfter)
	default:
		s.fullAt = fullAt
	}
	s.giveUpWanted()
	return nil
}

// end makes the hours before one final.
func (s *Set) end(border int64) {
	s.border = max(s.border, border)
	for hour := range s.hours {
		if hour < s.border {
			delete(s.hours, hour)
			s.changed[hour] = true
		}
	}
}

// total is the sum of rows, of which some may be unreadable or missing.
type total struct {
	Amounts
	isUnreadable, isPart bool
}

// hourTotals are the totals of an hour. Where it is but a part, that is so of all cells.
type hourTotals struct {
	cells  map[cell]total
	added  int // cells that are new in the hour
	isPart bool
}

// maxCells is how many cells an hour has. More are one, of aggregate.Other: the name of a
// model may be a client's, and another one in each call.
const maxCells = 4096

func (h hourTotals) of(c cell) total {
	sum := h.cells[c]
	sum.isPart = h.isPart
	return sum
}

// sum adds up the rows that are to be counted here, as an hour may have several of the
// same model.
func (s *Set) sum(rows []opper.Usage, bases map[int64]map[cell]Amounts) map[int64]hourTotals {
	sums := map[int64]hourTotals{}
	for i := range rows {
		hour := hourOf(rows[i].Bucket)
		project, isCounted := s.accounts[rows[i].Project]
		if !isCounted || hour < s.border {
			continue
		}
		h := sums[hour]
		if h.cells == nil {
			h.cells = map[cell]total{}
			for c := range bases[hour] { // what others have counted has a mark of its own, too
				if !s.hasMark(hour, c) {
					h.added++
				}
			}
		}
		c := cell{project, aggregate.LabelOr(rows[i].Model, None)}
		_, hasBase := bases[hour][c]
		if _, ok := h.cells[c]; !ok && !hasBase && !s.hasMark(hour, c) {
			if len(s.hours[hour])+h.added >= maxCells {
				c.model = aggregate.Other
			} else {
				h.added++
			}
		}
		sum := h.cells[c]
		sum.add(amounts(&rows[i]))
		sum.isUnreadable = sum.isUnreadable || rows[i].IsUnreadable()
		h.cells[c], h.isPart = sum, h.isPart || rows[i].IsPart
		sums[hour] = h
	}
	return sums
}

func (s *Set) hasMark(hour int64, c cell) bool {
	_, ok := slices.BinarySearchFunc(s.hours[hour], c, compareMark)
	return ok
}

// givePlaces gives the places to the models of the first read with the highest cost, ties
// by label. Later ones go by arrival.
func (s *Set) givePlaces(sums map[int64]hourTotals) {
	costs := map[string]int64{}
	for _, h := range sums {
		for c, sum := range h.cells {
			costs[c.model] = aggregate.AddSaturating(costs[c.model], sum.Amounts[Cost])
		}
	}
	ranked := slices.SortedFunc(maps.Keys(costs), func(a, b string) int {
		return cmp.Or(cmp.Compare(costs[b], costs[a]), cmp.Compare(a, b))
	})
	for _, label := range ranked[:min(len(ranked), s.cfg.MaxModels)] {
		s.places[label] = true
	}
}

// count adds what each hour from first on has more than before, also by others. That is
// seen in an hour.
func (s *Set) count(sums map[int64]hourTotals, bases map[int64]map[cell]Amounts, first, seen int64, now time.Time) {
	read, shared := map[int64]bool{}, map[cell]*cell{}
	for hour, marks := range s.hours {
		read[hour] = hour >= first
		for _, m := range marks {
			shared[*m.cell] = m.cell
		}
	}
	for hour := range sums {
		read[hour] = true
	}
	for hour := range bases {
		read[hour] = true
	}
	for _, hour := range slices.Sorted(maps.Keys(read)) {
		if !read[hour] {
			continue
		}
		known, present := s.hours[hour], sums[hour]
		cells := slices.AppendSeq(slices.Collect(maps.Keys(present.cells)), maps.Keys(bases[hour]))
		for _, m := range known {
			cells = append(cells, *m.cell) // it may be gone
		}
		slices.SortFunc(cells, compareCells)
		cells = slices.Compact(cells)
		marks := make([]mark, len(cells))
		for n, c := range cells {
			if shared[c] == nil {
				own := c // taken here, so that cells that are known take no memory
				shared[c] = &own
			}
			before := mark{cell: shared[c]}
			i, isKnown := slices.BinarySearchFunc(known, c, compareMark)
			if isKnown {
				before = known[i]
				before.cell = shared[c]
			}
			if isHandedOver(c.project) {
				marks[n] = before
				continue
			}
			base, isTaken := bases[hour][c]
			before.high.add(base)
			after, increase := before.raise(present.of(c))
			s.note(before, after)
			if !isKnown || isTaken || after != before {
				s.changed[hour] = true
			}
			if !isKnown || increase != (Amounts{}) {
				m := s.model(c, hour, now)
				m.used = seen
				if s.begun || !s.countsNothing() {
					m.counted.add(increase)
				}
			}
			marks[n] = after
		}
		s.hours[hour] = marks
	}
}

// countsNothing reports whether the amounts of the first read are not counted.
func (s *Set) countsNothing() bool { return s.cfg.Lookback != nil && *s.cfg.Lookback == 0 }

// note counts what has become of the usage of a model in an hour.
func (s *Set) note(before, after mark) {
	if after.fell && !before.fell {
		s.Corrections++
	}
	if after.isIncomplete && !before.isIncomplete {
		s.Incomplete++
	}
}

// raise takes in the present amounts, and returns what they have more than the highest
// ones before. With a row that cannot be read they wait, as it may be a correction. Those
// beside which rows are missing are no more than there was, or was before a correction.
func (m mark) raise(present total) (after mark, increase Amounts) {
	after = m
	if after.isIncomplete = present.isUnreadable || present.isPart; present.isUnreadable {
		return after, Amounts{}
	}
	after.fell = m.fell && present.isPart
	for i, amount := range present.Amounts {
		after.fell = after.fell || amount < m.high[i] && !present.isPart
		if amount > m.high[i] {
			after.high[i], increase[i] = amount, amount-m.high[i]
		}
	}
	return after, increase
}

// model returns the counters of a cell that was first seen in an hour.
func (s *Set) model(c cell, hour int64, now time.Time) *Model {
	if !s.places[c.model] {
		if s.begun && len(s.places) < s.cfg.MaxModels {
			s.places[c.model] = true
		} else {
			c.model = aggregate.Other
		}
	}
	m := s.models[c]
	if m == nil {
		m = &Model{Label: c.model, OpperProject: c.project, Created: now}
		switch {
		case s.begun:
			m.zeroPending = true
			if !s.lastRead.IsZero() && s.lastRead.Before(now) {
				m.Created = s.lastRead
			}
		case timeOf(hour).Before(now) && !s.countsNothing():
			m.Created = timeOf(hour)
		}
		s.models[c] = m
	}
	return m
}
