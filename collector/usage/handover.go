package usage

import (
	"slices"
	"strings"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

// handover is what a configured project has counted of an Opper project that it no longer
// counts. The next one begins with these amounts and counts only increases.
type handover struct {
	border int64                        // all of the hours before it has been counted
	high   map[int64]map[string]Amounts // by hour and model
}

// merge returns what two projects have counted one after the other: the second one began
// with what the first one had.
func (h *handover) merge(o *handover) *handover {
	both := &handover{high: map[int64]map[string]Amounts{}}
	for _, one := range []*handover{h, o} {
		if one == nil {
			continue
		}
		both.border = max(both.border, one.border)
		for hour, models := range one.high {
			for model, amounts := range models {
				both.add(hour, model, amounts)
			}
		}
	}
	return both
}

// add takes in amounts, unless there are higher ones.
func (h *handover) add(hour int64, model string, amounts Amounts) {
	if h.high[hour] == nil {
		h.high[hour] = map[string]Amounts{}
	}
	high := h.high[hour][model]
	for i := range high {
		high[i] = max(high[i], amounts[i])
	}
	h.high[hour][model] = high
}

// prefixHandedOver begins the label of the marks of an Opper project that has been handed
// over, before its UUID. No other label begins so, see aggregate.LabelOr.
const prefixHandedOver = `\handed over `

// givenUp stands for the owner of an Opper project that was counted here before.
const givenUp = "given up"

func isHandedOver(label string) bool { return strings.HasPrefix(label, prefixHandedOver) }

// handover returns what has been counted under a label.
func (s *Set) handover(label string) *handover {
	h := &handover{border: s.border, high: map[int64]map[string]Amounts{}}
	for hour, marks := range s.hours {
		for _, m := range marks {
			if m.project == label {
				h.add(hour, m.model, m.high)
			}
		}
	}
	return h
}

// isLabelShared reports whether the marks of an Opper project have those of others in them.
func (s *Set) isLabelShared(id string) bool {
	n := 0
	for _, label := range s.accounts {
		if label == s.accounts[id] {
			n++
		}
	}
	return n > 1
}

// HandOver hands over all that is counted here, when the project is not configured any
// more or its usage is not read. What is stored does not change: it may come back.
func (s *Set) HandOver() {
	for id, label := range s.accounts {
		if !s.isLabelShared(id) {
			s.cfg.Owners.handOver(s.cfg.Project, s.claims(id), s.handover(label))
		}
	}
	s.handOverGivenUp()
}

// giveUpWanted gives up what other projects have proven to be their own.
func (s *Set) giveUpWanted() {
	for id := range s.accounts {
		if id != s.own && s.cfg.Owners.isWanted(s.cfg.Project, id) && !s.isLabelShared(id) {
			s.giveUp(id)
		}
	}
}

// giveUp leaves an Opper project to another one. What was counted of it is handed over
// once that is durable, and kept until its hours are final. Rows without an Opper project
// need none of that: the project that counts them has read the same rows.
func (s *Set) giveUp(id string) {
	label, isShared := s.accounts[id], s.isLabelShared(id)
	delete(s.accounts, id)
	if s.others[id] = ""; isShared {
		return
	}
	if id != "" {
		s.others[id], s.givenUp[id] = givenUp, s.handover(label)
	}
	for hour, marks := range s.hours {
		for i, m := range marks {
			if m.project == label {
				marks[i].cell = &cell{prefixHandedOver + id, m.model}
				s.changed[hour] = true
			}
		}
		marks = slices.DeleteFunc(marks, func(m mark) bool { return m.project == prefixHandedOver })
		slices.SortFunc(marks, func(a, b mark) int { return compareCells(*a.cell, *b.cell) })
		s.hours[hour] = marks
	}
}

// handOverGivenUp hands over what has been given up, which is durable.
func (s *Set) handOverGivenUp() {
	for id, counted := range s.givenUp {
		s.cfg.Owners.handOver(s.cfg.Project, []string{id}, counted)
	}
}

// restoreGivenUp hands over once more what had been given up: the next project may not
// have begun to count it.
func (s *Set) restoreGivenUp() {
	for id, owner := range s.others {
		if owner == givenUp {
			s.givenUp[id] = s.handover(prefixHandedOver + id)
		}
	}
	s.handOverGivenUp()
}

// bases returns what others have counted, by hour, of the Opper projects that are counted
// here from now on. Where that is not known, it is all that there is.
func (s *Set) bases(rows []opper.Usage, taken map[string]*handover) map[int64]map[cell]Amounts {
	bases := map[int64]map[cell]Amounts{}
	add := func(hour int64, c cell, amounts Amounts) {
		if bases[hour] == nil {
			bases[hour] = map[cell]Amounts{}
		}
		sum := bases[hour][c]
		sum.add(amounts)
		bases[hour][c] = sum
	}
	for i := range rows {
		hour := hourOf(rows[i].Bucket)
		if h, isTaken := taken[rows[i].Project]; isTaken && hour >= s.border && (h == nil || hour < h.border) {
			add(hour, cell{s.accounts[rows[i].Project], aggregate.LabelOr(rows[i].Model, None)}, amounts(&rows[i]))
		}
	}
	for id, h := range taken {
		if h == nil {
			continue
		}
		for hour, models := range h.high {
			for model, amounts := range models {
				if hour >= max(s.border, h.border) {
					add(hour, cell{s.accounts[id], model}, amounts)
				}
			}
		}
	}
	return bases
}
