package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// trace makes one that began some time ago.
func (s *simulation) trace(ended bool, age time.Duration) oppertest.Trace {
	s.made++
	tr := oppertest.Trace{ID: fmt.Sprintf("%08x-0000-4000-8000-%012d", s.pick(math.MaxInt32), s.made)}
	if s.pick(30) == 0 {
		tr.ID = fmt.Sprintf("odd-%d", s.made)
	}
	if s.pick(200) == 0 {
		tr.ID = ""
	}
	tr.Name = []*string{nil, new("a"), new("a"), new("a"), new("b"), new("b"), new("c"), new("d"), new("")}[s.pick(9)]
	clients := time.Duration(0)
	if s.clients != 0 && s.pick(2) == 0 {
		clients = s.clients
	}
	if s.pick(12) > 0 {
		tr.Start = new(s.at.Add(clients - age))
	}
	if ended {
		s.finish(&tr, clients)
	}
	return tr
}

func (s *simulation) finish(tr *oppertest.Trace, clients time.Duration) {
	tr.End = new(s.at.Add(clients))
	tr.Status = []*string{nil, new("success"), new("success"), new("OK"), new("error"), new("who knows")}[s.pick(6)]
	if s.pick(3) > 0 {
		tr.DurationMS = new(float64(s.pick(100_000) - 1000))
	}
	if s.pick(3) > 0 {
		tr.Tokens = new(int64(s.pick(1 << 20)))
	}
}

func (s *simulation) arrive(running bool, age time.Duration) {
	tr := s.trace(!running, age)
	s.opper.Add(tr)
	s.arrived[tr.ID] = s.at
	s.tell("%s arrives, running: %v", tr.ID, running)
	if tr.ID == "" {
		return
	}
	s.ids = append(s.ids, tr.ID)
	if running {
		s.open = append(s.open, tr.ID)
	}
}

// changeList does one of the things that happen to a list.
func (s *simulation) changeList() {
	some := func(ids []string) string { return ids[s.pick(len(ids))] }
	if s.chance(s.backdate) {
		s.arrive(s.pick(4) == 0, time.Duration(1+s.pick(120))*time.Minute)
	}
	if s.chance(s.remove) {
		if rows := s.opper.Snapshot(); len(rows) > 0 {
			i := s.pick(len(rows))
			n := 1 + s.pick(3)
			if s.pick(8) == 0 {
				n = 20
			}
			for _, row := range rows[i:min(len(rows), i+n)] {
				s.tell("%s is deleted", row.ID)
				s.opper.Delete(row.ID)
				s.left[row.ID] = s.at
			}
		}
	}
	if s.chance(s.relist) && len(s.left) > 0 {
		ids := slices.Sorted(maps.Keys(s.left))
		id := some(ids)
		// An id that is missing for a day may be forgotten.
		if id != "" && s.at.Sub(s.left[id]) < 15*time.Hour {
			tr := s.trace(s.pick(3) > 0, time.Minute)
			tr.ID = id
			if _, listed := s.opper.Get(id); !listed {
				s.tell("%s comes back", id)
				s.opper.Add(tr)
				s.arrived[id] = s.at
			}
		}
		delete(s.left, id)
	}
	switch n := s.pick(16); {
	case n < 4:
		s.arrive(false, time.Duration(1+s.pick(100))*time.Second)
	case n < 6:
		s.arrive(true, time.Duration(1+s.pick(10))*time.Second)
	case n < 10 && len(s.open) > 0:
		i := s.pick(len(s.open))
		id := s.open[i]
		s.open = slices.Delete(s.open, i, i+1)
		s.tell("%s ends", id)
		s.opper.Update(id, func(tr *oppertest.Trace) { s.finish(tr, 0) })
	case n == 10 && len(s.ids) > 0:
		s.opper.Update(some(s.ids), func(tr *oppertest.Trace) { tr.Name = []*string{new("a"), new("b"), new("e")}[s.pick(3)] })
	case n < 13 && len(s.ids) > 0:
		recent := s.ids[max(len(s.ids)-5, 0):]
		s.opper.Update(some(recent), func(tr *oppertest.Trace) {
			if tr.End != nil {
				tr.Tokens, tr.Status = new(int64(s.pick(1<<20))), new("failed")
			}
		})
	case n == 13 && s.pick(20) == 0:
		for range 20 + s.pick(100) {
			s.arrive(false, time.Duration(1+s.pick(100))*time.Second)
		}
	case n == 14 && s.pick(20) == 0 && !s.quiet && len(s.ids) > 0:
		s.opper.Update(some(s.ids), func(tr *oppertest.Trace) { tr.End = nil })
	}
}

// traffic lists what arrives at an interval until some time. What no sync could
// ever see is left out.
func (s *simulation) traffic(until time.Time) {
	if s.every == 0 || s.calm {
		return
	}
	most := 400 * s.every
	if stay := s.list.Retention; stay > 0 {
		most = stay + stay/5
	}
	if start := until.Add(-most); s.next.Before(start) {
		s.next = start
	}
	for ; !s.next.After(until); s.next = s.next.Add(s.every/2 + time.Duration(s.pick(int(s.every)))) {
		if s.next.After(s.at) {
			s.at = s.next
		}
		s.arrive(s.pick(12) == 0, time.Duration(1+s.pick(100))*time.Second)
	}
}

// brighten makes rows readable whose time has come.
func (s *simulation) brighten() {
	for id, until := range s.dims {
		if !s.at.Before(until) {
			s.tell("%s can be read again", id)
			s.opper.Heal(id)
			delete(s.dims, id)
		}
	}
}

// arriveAtOnce lists more than are listed, or many. Where many are listed, it
// would only make the schedule long.
func (s *simulation) arriveAtOnce() {
	if s.opper.Len() > 300 {
		return
	}
	n := 20 + s.pick(150)
	if listed := s.opper.Len(); listed < 200 && s.pick(2) == 0 {
		n = listed + 91 + s.pick(100)
	} else if s.pick(4) == 0 {
		n = 150 + s.pick(250)
	}
	for range n {
		s.arrive(s.pick(20) == 0, time.Duration(1+s.pick(100))*time.Second)
	}
}

// stand is how long the process stands still.
func (s *simulation) stand() time.Duration {
	return []time.Duration{
		time.Duration(5+s.pick(60)) * time.Second,
		time.Duration(60+s.pick(600)) * time.Second,
		time.Duration(10+s.pick(50)) * time.Minute,
		time.Duration(60+s.pick(11*60)) * time.Minute,
	}[s.pick(4)]
}

// beginTrouble begins what lasts for some syncs.
func (s *simulation) beginTrouble() {
	if s.chance(s.pause) {
		d := s.stand()
		s.tell("no sync for %v", d)
		s.wait(d)
	}
	if s.chance(s.burst) {
		s.arriveAtOnce()
	}
	if s.down == 0 && s.chance(s.outage) {
		s.down = 1 + s.pick(6)
		s.badAnswer = []error{
			errors.New("connection refused"), context.DeadlineExceeded, opper.ErrTooLarge,
			&opper.Error{Status: 500}, &opper.Error{Status: 503}, &opper.Error{Status: 401},
		}[s.pick(6)]
		s.tell("Opper is down for %d syncs: %v", s.down, s.badAnswer)
	}
	if s.chance(s.dim) {
		if rows := s.opper.Snapshot(); len(rows) > 0 {
			i := []int{0, s.pick(len(rows)), max(len(rows)-4, 0)}[s.pick(3)]
			until := s.at.Add(time.Second + time.Duration(s.pick(int(longestDim))))
			for _, row := range rows[i:min(len(rows), i+1+s.pick(4))] {
				if _, before := s.dims[row.ID]; row.ID == "" || before || s.poisoned[row.ID] {
					continue
				}
				s.tell("%s can't be read until %v", row.ID, until.Sub(epoch))
				s.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row.ID, Times: -1})
				s.dims[row.ID] = until
			}
		}
	}
	switch {
	case s.away > 0 || s.wrong > 0:
	case s.chance(s.moved) && s.isKeyKnown():
		n := []int{0, 1 + s.pick(5), s.opper.Len(), 150 + s.pick(200)}[s.pick(4)]
		s.other = s.otherProject(n)
		s.goElsewhere(1 + s.pick(12))
		s.tell("the key belongs to another project of %d traces for %d syncs", n, s.away)
	case s.chance(s.stuck):
		s.wrong, s.wrongBy = 1+s.pick(3), []lie{samePage, sameFullPage, longPage}[s.pick(3)]
		s.tell("for %d syncs, %s", s.wrong, s.wrongBy)
	case s.chance(s.endless) && s.recognizable():
		s.wrong, s.wrongBy = 1+s.pick(3), endless
		s.salt++
		s.tell("for %d syncs, %s", s.wrong, s.wrongBy)
	}
}

// relieve ends what lasted long enough.
func (s *simulation) relieve() {
	s.goElsewhere(max(s.away-1, 0))
	s.wrong = max(s.wrong-1, 0)
	if s.down > 0 {
		if s.down--; s.down == 0 && s.pick(2) == 0 {
			s.arriveAtOnce()
		}
	}
}

// goElsewhere makes the key, with the header that chooses its project, lead to another one
// for some syncs.
func (s *simulation) goElsewhere(syncs int) {
	s.away, s.strangers = syncs, syncs > 0
	s.cfg.Opper.Header.Set("X-Opper-Project", strconv.FormatBool(s.strangers))
}

// otherProject makes one of n traces.
func (s *simulation) otherProject(n int) *oppertest.Server {
	other := oppertest.New(oppertest.Config{Now: func() time.Time { return s.at }})
	for range n {
		other.Add(s.trace(true, time.Duration(1+s.pick(180))*time.Minute))
	}
	return other
}
