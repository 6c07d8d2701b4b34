package usage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

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
// stands for rows without any. It returns those that were counted elsewhere, and what was
// counted of them, or nil if that is not known.
func (s *Set) assign(rows []opper.Usage, seen map[string]int64, newest int64, isFull bool, proof Proof, now time.Time) (taken map[string]*handover) {
	taken = map[string]*handover{}
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
	places := s.cfg.MaxOpperProjects - s.ofOthers()
	for _, id := range ids {
		_, isCounted := s.accounts[id]
		_, isOther := s.others[id]
		if isCounted || isOther && id == "" && len(ids) == 1 && s.isCountedElsewhere() {
			continue
		}
		if !isFull {
			s.undecided = s.undecided || !isOther || id != "" && s.cfg.Owners.isFree(s.cfg.Project, id)
			continue
		}
		claims, isProven := []string{id}, id == proof.Own
		isAlone := isFirst && (len(ids) == 1 || len(ids) == 2 && hasNull)
		if id == "" {
			if len(ids) == 1 && len(foreign) == 0 && len(counted) == homes {
				s.assignSum(rows, newest, now)
				if _, isCounted = s.accounts[""]; isCounted && isOther {
					taken[""] = s.cfg.Owners.handedOver(s.sumID)
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
			if !isOther {
				s.others[id] = ""
			}
			continue
		}
		label := aggregate.LabelOr(id, None)
		switch {
		case id == "" && s.isOwn(ids):
			label = "" // such a row may have its Opper project later, and must not count as another's
		case id != "" && v == mine && homes == 0 && (isProven || isAlone):
			label = ""
		case id != "" && places <= 0:
			label = aggregate.Other
		case id != "":
			places--
		}
		h := s.cfg.Owners.handedOver(claims...)
		if h != nil || isOther || wasSum && (label != "" || s.CountedBy() != "") {
			taken[id] = h
		}
		delete(s.others, id)
		s.accounts[id] = label
	}
	return taken
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

// claims returns as what an Opper project is claimed that is counted here.
func (s *Set) claims(id string) []string {
	if id != "" {
		return []string{id}
	}
	if claims := s.beside(nil); len(claims) > 0 {
		return claims
	}
	return []string{s.sumID}
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
