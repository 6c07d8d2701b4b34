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
			seen[rows[i].Project] = add(seen[rows[i].Project], rows[i].Cost)
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
	baseLine := s.assign(rows, seen, newest, isFull, proof, now)
	if s.undecided && !s.begun {
		return nil
	}
	sums := s.sum(rows)
	if !s.begun {
		s.givePlaces(sums)
	}
	s.count(sums, first, baseLine, now)
	s.begun, s.newest, s.lastRead = true, newest, now
	switch {
	case s.undecided:
	case isFull:
		s.fullAt = hourOf(now)
		s.end(min(newest, hourOf(now)) - finalAfter)
	default:
		s.fullAt = fullAt
	}
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

// nullLabel returns the label of rows without an Opper project, in an answer without others.
func (s *Set) nullLabel() string {
	if label, ok := s.accounts[""]; ok {
		return label
	}
	if s.hasOthers() {
		return None
	}
	return ""
}

// hasOthers reports whether anything is known that is not the project's own.
func (s *Set) hasOthers() bool {
	for _, label := range s.accounts {
		if label != "" {
			return true
		}
	}
	for id := range s.others {
		if id != "" || s.CountedBy() == "" {
			return true
		}
	}
	return false
}

// isSum reports whether an answer of rows without an Opper project may be the sum of
// all: what others had in these hours is gone.
func (s *Set) isSum(first int64) bool {
	_, ids := s.named()
	_, isOther := s.others[""]
	if len(ids) > 0 && !isOther {
		return true
	}
	label := s.nullLabel()
	for hour, marks := range s.hours {
		for _, m := range marks {
			if hour >= first && (m.project != label || isOther) {
				return true
			}
		}
	}
	return false
}

// assign decides where to count the Opper projects seen in an answer; the empty one
// stands for rows without any. It returns the labels whose amounts so far are not to be
// counted, as they were counted elsewhere.
func (s *Set) assign(rows []opper.Usage, seen map[string]int64, newest int64, isFull bool, proof Proof, now time.Time) (baseLine map[string]bool) {
	baseLine = map[string]bool{}
	counted, foreign := s.named()
	isFirst, homes := len(counted)+len(foreign) == 0, 0
	for _, id := range counted {
		if s.accounts[id] == "" {
			homes++
		}
	}
	sum, ok := s.accounts[""]
	wasSum := isFirst && (ok && sum == "" || s.CountedBy() != "")
	_, hasNull := seen[""]
	ids := slices.SortedFunc(maps.Keys(seen), func(a, b string) int { // places go by cost
		if (a == "") != (b == "") {
			return cmp.Compare(b, a) // the empty one last
		}
		return cmp.Or(cmp.Compare(seen[b], seen[a]), cmp.Compare(a, b))
	})
	for _, id := range ids {
		_, isCounted := s.accounts[id]
		_, isOther := s.others[id]
		if isCounted || isOther && (!isFull || id == "" && len(ids) == 1 && s.isCountedElsewhere()) {
			continue
		}
		if !isFull {
			s.undecided = true
			continue
		}
		claims, isProven := []string{id}, id == proof.Own
		isAlone := isFirst && (len(ids) == 1 || len(ids) == 2 && hasNull)
		if id == "" {
			if len(ids) == 1 && len(foreign) == 0 && len(counted) == homes {
				s.assignSum(rows, newest, now)
				if isOther {
					baseLine[""] = true
				}
				continue
			}
			claims = s.beside(ids)
			counted, _ = s.named() // with those of this answer
			isProven, isAlone = len(claims) == 1 && len(counted) == 1, false
		}
		awaitsProof := proof.IsAhead && isFirst && !isProven && !isAlone
		v := s.cfg.Owners.decide(s.cfg.Project, claims, isProven, isAlone, awaitsProof, now)
		if v == undecided {
			s.undecided = true
			continue
		}
		if v == notMine {
			s.others[id] = ""
			continue
		}
		label := aggregate.LabelOr(id, None)
		switch {
		case id == "" && s.isOwn(ids):
			label = "" // such a row may have its Opper project later, and must not count as another's
		case id != "" && v == mine && homes == 0 && (isProven || isAlone):
			label = ""
		case id != "" && s.ofOthers() >= s.cfg.MaxOpperProjects:
			label = aggregate.Other
		}
		if isOther || wasSum && (label != "" || s.CountedBy() != "") {
			baseLine[label] = true
		}
		delete(s.others, id)
		s.accounts[id] = label
	}
	return baseLine
}

// ofOthers returns how many Opper projects beside the project's own have counters.
func (s *Set) ofOthers() (n int) {
	for id, label := range s.accounts {
		if id != "" && label != "" && label != aggregate.Other {
			n++
		}
	}
	return n
}

// isOwn reports whether all that is known, with the Opper projects of an answer, is the
// project's own.
func (s *Set) isOwn(ids []string) bool {
	for _, id := range ids {
		if _, isCounted := s.accounts[id]; id != "" && !isCounted {
			return false
		}
	}
	return !s.hasOthers()
}

// beside returns as what rows without an Opper project are claimed: they are the same
// for two configured projects that also see the same Opper project.
func (s *Set) beside(seen []string) (claims []string) {
	counted, foreign := s.named()
	ids := slices.Concat(counted, foreign, seen)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if id != "" {
			claims = append(claims, "beside "+id)
		}
	}
	return claims
}

// named returns the known Opper projects, without the empty one.
func (s *Set) named() (counted, foreign []string) {
	for id := range s.accounts {
		if id != "" {
			counted = append(counted, id)
		}
	}
	for id := range s.others {
		if id != "" {
			foreign = append(foreign, id)
		}
	}
	return counted, foreign
}

// sum adds up the rows that are to be counted here, as an hour may have several of the
// same model.
func (s *Set) sum(rows []opper.Usage) map[int64]map[cell]Amounts {
	sums := map[int64]map[cell]Amounts{}
	for i := range rows {
		hour := hourOf(rows[i].Bucket)
		project, isCounted := s.accounts[rows[i].Project]
		if !isCounted || hour < s.border {
			continue
		}
		if sums[hour] == nil {
			sums[hour] = map[cell]Amounts{}
		}
		c := cell{project, aggregate.LabelOr(rows[i].Model, None)}
		sum := sums[hour][c]
		sum.add(amounts(&rows[i]))
		sums[hour][c] = sum
	}
	return sums
}

// givePlaces gives the places to the models of the first read with the highest cost, ties
// by label. Later ones go by arrival.
func (s *Set) givePlaces(sums map[int64]map[cell]Amounts) {
	costs := map[string]int64{}
	for _, cells := range sums {
		for c, sum := range cells {
			costs[c.model] = add(costs[c.model], sum[Cost])
		}
	}
	ranked := slices.SortedFunc(maps.Keys(costs), func(a, b string) int {
		return cmp.Or(cmp.Compare(costs[b], costs[a]), cmp.Compare(a, b))
	})
	for _, label := range ranked[:min(len(ranked), s.cfg.MaxModels)] {
		s.places[label] = true
	}
}

// count adds what each hour from first on has more than before.
func (s *Set) count(sums map[int64]map[cell]Amounts, first int64, baseLine map[string]bool, now time.Time) {
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
	for _, hour := range slices.Sorted(maps.Keys(read)) {
		if !read[hour] {
			continue
		}
		known, present := s.hours[hour], sums[hour]
		cells := slices.Collect(maps.Keys(present))
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
				before.high, before.fell = known[i].high, known[i].fell
			}
			after, increase := before.raise(present[c])
			if after.fell && !before.fell {
				s.Corrections++
			}
			if !isKnown || after != before {
				s.changed[hour] = true
			}
			m := s.model(c, hour, now)
			if !baseLine[c.project] && (s.begun || !s.countsNothing()) {
				m.counted.add(increase)
			}
			marks[n] = after
		}
		s.hours[hour] = marks
	}
}

// countsNothing reports whether the first read is a base line.
func (s *Set) countsNothing() bool { return s.cfg.Lookback != nil && *s.cfg.Lookback == 0 }

// raise takes in the present amounts, and returns what they have more than the highest
// ones before.
func (m mark) raise(present Amounts) (after mark, increase Amounts) {
	after = m
	after.fell = false
	for i, amount := range present {
		after.fell = after.fell || amount < m.high[i]
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
