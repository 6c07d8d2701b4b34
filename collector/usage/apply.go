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

// Apply counts the rows that were read from the begin of a Window on. Own is the Opper
// project that is proven to be the configured one, empty if none is. A series that is new
// since the first read was created at the one before, and starts zero-first. After an
// error, nothing has been counted, and the next window is a longer one.
//
// An Opper project that is not known is taken in only when all hours that are not final
// were read, so that none of its hours is missing in that. While it is undecided who
// counts it, no hour becomes final. The first read counts nothing until all is decided,
// so that history appears at once.
func (s *Set) Apply(rows []opper.Usage, from time.Time, own string, now time.Time) error {
	s.cfg.Owners.hear(s.cfg.Project)
	first := hourOf(from)
	if s.newest == 0 {
		s.border = first
	}
	newest, ids := s.newest, map[string]bool{}
	for i := range rows {
		if hour := hourOf(rows[i].Bucket); hour >= s.border {
			newest = max(newest, hour)
			ids[rows[i].Project] = true
		}
	}
	isFull := first <= s.border
	baseLine, waiting, err := s.assign(slices.Sorted(maps.Keys(ids)), isFull, own, now)
	if s.waiting = waiting; err != nil || waiting {
		s.fullAt = 0
	}
	if err != nil || waiting && !s.begun {
		return err
	}
	sums := s.sum(rows)
	if !s.begun {
		s.givePlaces(sums)
	}
	s.count(sums, first, baseLine, now)
	s.begun, s.newest, s.lastRead = true, newest, now
	if isFull && !waiting {
		s.fullAt = hourOf(now)
		s.border = max(s.border, newest-finalAfter)
		for hour := range s.hours {
			if hour < s.border {
				delete(s.hours, hour)
				s.changed[hour] = true
			}
		}
	}
	return nil
}

// assign decides where to count the Opper projects of an answer, which are sorted; the
// empty one stands for rows without any. It returns those labels whose amounts so far
// are not to be counted, as they were counted elsewhere.
func (s *Set) assign(ids []string, isFull bool, own string, now time.Time) (baseLine map[string]bool, waiting bool, err error) {
	hasNone := len(ids) > 0 && ids[0] == ""
	named := len(ids)
	if hasNone {
		named--
	}
	if hasNone && named == 0 && s.known() > 1 {
		return nil, false, errUngrouped
	}
	hadNamed, hadHome := s.hasNamed()
	home, wasUngrouped := s.accounts[""]
	wasUngrouped = wasUngrouped && home == "" && !hadNamed
	baseLine = map[string]bool{}
	for _, id := range ids {
		if _, ok := s.accounts[id]; ok || !isFull && s.others[id] {
			continue
		}
		if !isFull {
			waiting = true
			continue
		}
		if named == 0 {
			s.accounts[id] = "" // all that there is, so the project's own
			continue
		}
		isAlone := named == 1 && !hadNamed && id != ""
		v := s.cfg.Owners.decide(s.cfg.Project, id, id != "" && id == own, isAlone, now)
		switch v {
		case undecided:
			waiting = true
			continue
		case notMine:
			s.others[id] = true
			continue
		}
		label := aggregate.LabelOr(id, None)
		if id != "" && !hadHome && v == mine && (id == own || isAlone) {
			label = ""
		}
		if s.others[id] || wasUngrouped && label != "" {
			baseLine[label] = true
		}
		delete(s.others, id)
		s.accounts[id] = label
	}
	return baseLine, waiting, nil
}

// known returns how many Opper projects are told apart.
func (s *Set) known() int {
	labels := map[string]bool{}
	for _, label := range s.accounts {
		labels[label] = true
	}
	return len(labels) + len(s.others)
}

// hasNamed reports whether an Opper project with a UUID is known, and whether one is the
// configured project itself.
func (s *Set) hasNamed() (named, home bool) {
	named = len(s.others) > 0
	for id, label := range s.accounts {
		named = named || id != ""
		home = home || id != "" && label == ""
	}
	return named, home
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
	read := map[int64]bool{}
	for hour := range s.hours {
		read[hour] = hour >= first
	}
	for hour := range sums {
		read[hour] = true
	}
	for _, hour := range slices.Sorted(maps.Keys(read)) {
		if !read[hour] {
			continue
		}
		if s.hours[hour] == nil {
			s.hours[hour] = map[cell]mark{}
		}
		marks, present := s.hours[hour], sums[hour]
		cells := slices.AppendSeq(slices.Collect(maps.Keys(present)), maps.Keys(marks)) // some of these may be gone
		slices.SortFunc(cells, compareCells)
		for _, c := range slices.Compact(cells) {
			before, isKnown := marks[c]
			after, increase := before.raise(present[c])
			if after.fell && !before.fell {
				s.Corrections++
			}
			if !isKnown || after != before {
				marks[c] = after
				s.changed[hour] = true
			}
			if m := s.model(c, hour, now); !baseLine[c.project] && (s.begun || !s.countsNothing()) {
				m.counted.add(increase)
			}
		}
	}
}

// countsNothing reports whether the first read is a base line.
func (s *Set) countsNothing() bool { return s.cfg.Lookback != nil && *s.cfg.Lookback == 0 }

// raise takes in the present amounts, and returns what they have more than the highest
// ones before.
func (m mark) raise(present Amounts) (after mark, increase Amounts) {
	after.high = m.high
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
