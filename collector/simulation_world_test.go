package collector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
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

// traffic lists what arrives at an interval until some time. What nobody could
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
		s.tell("nobody syncs for %v", d)
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
	case s.chance(s.moved) && s.recognizable():
		n := []int{0, 1 + s.pick(5), s.opper.Len(), 150 + s.pick(200)}[s.pick(4)]
		s.other, s.away, s.strangers = s.otherProject(n), 1+s.pick(12), true
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
	s.away, s.wrong = max(s.away-1, 0), max(s.wrong-1, 0)
	s.strangers = s.away > 0
	if s.down > 0 {
		if s.down--; s.down == 0 && s.pick(2) == 0 {
			s.arriveAtOnce()
		}
	}
}

// otherProject makes one of n traces.
func (s *simulation) otherProject(n int) *oppertest.Server {
	other := oppertest.New(oppertest.Config{Now: func() time.Time { return s.at }})
	for range n {
		other.Add(s.trace(true, time.Duration(1+s.pick(180))*time.Minute))
	}
	return other
}

// lie is a way in which lists are not what was asked for.
type lie string

const (
	samePage     lie = "the page at 0 answers for each offset"
	sameFullPage lie = "the page at 0 answers for each offset and limit"
	longPage     lie = "pages are longer than asked for"
	endless      lie = "the list is made up and has no end"
)

// simulatedSource is Opper as the project reads it.
type simulatedSource struct{ *simulation }

func (s simulatedSource) List(_ context.Context, offset, limit int) (opper.Page, error) {
	if err := s.request(limit, true); err != nil {
		return opper.Page{}, err
	}
	at, n, from := offset, limit, s.opper
	switch {
	case s.strangers:
		from = s.other
	case s.wrong == 0:
	case s.wrongBy == endless:
		return s.madeUp(offset, limit), nil
	case s.wrongBy == longPage:
		n += 1 + s.pick(50)
	case s.wrongBy == sameFullPage:
		at, n = 0, 100
	case s.wrongBy == samePage:
		at = 0
	}
	if s.short > 0 {
		n = min(n, s.short)
	}
	rows, total, ok := from.List(at, n)
	s.tell("rows %d to %d", at, at+len(rows))
	s.tick()
	s.point()
	switch {
	case ok:
	case s.list.MaxOffset > 0 && offset > s.list.MaxOffset:
		return opper.Page{}, &opper.Error{Status: http.StatusUnprocessableEntity}
	default:
		if len(s.dims) > 0 {
			s.disturbed = true
			if n == 1 {
				s.blinded()
			}
		}
		return opper.Page{}, opper.ErrTooLarge
	}
	if s.strangers || at != offset || len(rows) > limit {
		s.lieTold(from != s.opper && len(rows) > 0)
	} else {
		s.gotOurs = true
	}
	page := opper.Page{Total: -1, Traces: make([]opper.Trace, len(rows))}
	if total != nil {
		page.Total = *total
	}
	for i := range rows {
		page.Traces[i] = readBy(&rows[i])
	}
	return page, nil
}

// lieTold notes a list that is not what was asked for.
func (s *simulation) lieTold(foreign bool) {
	s.spoiled, s.disturbed, s.lied = true, true, s.at
	s.gotOther = s.gotOther || foreign
}

// madeUp is a page of a list without end.
func (s *simulation) madeUp(offset, limit int) opper.Page {
	s.lieTold(true)
	s.tick()
	page := opper.Page{Traces: make([]opper.Trace, limit)}
	for i := range page.Traces {
		page.Traces[i] = opper.Trace{
			ID: fmt.Sprintf("%08x-0000-4000-9000-%012d", s.salt, offset+i), Name: "made up",
			Start: s.at.Add(-time.Minute - time.Duration(offset+i)*time.Second), End: s.at.Add(-time.Minute),
		}
	}
	page.Total = []int{-1, s.opper.Len(), 1000, offset + limit + 1}[s.salt%4]
	s.tell("rows %d to %d, made up", offset, offset+limit)
	s.point()
	return page
}

func (s simulatedSource) Get(_ context.Context, id string) (opper.Trace, error) {
	if err := s.request(0, false); err != nil {
		return opper.Trace{}, err
	}
	if s.list.NoGet != 0 {
		return opper.Trace{}, &opper.Error{Status: s.list.NoGet}
	}
	from := s.opper
	if s.strangers {
		s.lieTold(false)
		from, s.saidNo = s.other, true
	}
	tr, ok := from.Show(id)
	if s.strangers && s.other.Len() == 0 {
		s.denied[id] = true
	}
	s.tell("trace %s: %v", id, ok)
	s.tick()
	s.point()
	if !ok {
		return opper.Trace{}, &opper.Error{Status: http.StatusNotFound}
	}
	return readBy(&tr), nil
}

// request is what happens before an answer, and in its place.
func (s *simulation) request(limit int, list bool) error {
	if s.requests++; s.requests > 5000 {
		s.fail("a sync or a page of a sweep does not end")
	}
	s.tick()
	s.point()
	if s.chance(s.stall) {
		d := s.stand()
		s.tell("the process stands still for %v", d)
		s.disturbed = true // all may have moved between two pages
		s.wait(d)
	}
	for !s.idle && s.chance(s.change) {
		s.changeList()
	}
	if s.down > 0 {
		s.disturbed, s.unanswered = true, s.unanswered || !list
		s.tell("answer: %v", s.badAnswer)
		return s.badAnswer
	}
	if s.badness == 0 && s.chance(s.fault) {
		s.badness = 1 + s.pick(3)*s.pick(6)
		answers := []error{
			&opper.Error{Status: 500}, &opper.Error{Status: 503}, opper.ErrTooLarge, &opper.Error{Status: 429},
			&opper.Error{Status: 401}, errors.New("connection refused"), context.DeadlineExceeded,
			&opper.Error{Status: 404}, &opper.Error{Status: 422},
		}
		s.badAnswer = answers[s.pick(len(answers))]
	}
	if s.badness > 0 {
		s.badness--
		s.disturbed = true
		if opper.OutOfRange(s.badAnswer) {
			// That one trace is gone could only be believed.
			s.unanswered = true
			if !list {
				return &opper.Error{Status: 500}
			}
			s.spoiled = true
		}
		if limit == 1 && opper.Unreadable(s.badAnswer) {
			s.blinded()
		}
		// What is asked for by id and not answered has to be asked again.
		s.unanswered, s.spoiled = s.unanswered || !list, s.spoiled || !list
		s.tell("answer: %v", s.badAnswer)
		return s.badAnswer
	}
	if s.isWrongOverall() && s.mayMislead() {
		if s.saidNo {
			// Ours would confirm what the other project said of a trace.
			s.disturbed = true
			return &opper.Error{Status: 503}
		}
		s.tell("the list is ours again")
		s.strangers, s.away, s.wrong = false, 0, 0
	}
	if !s.strangers && s.chance(s.foreign) && s.project.ledger.Listed() > 20 && s.recognizable() {
		s.strangers = true
		s.tell("another project's list")
	}
	return nil
}

// isWrongOverall reports whether all that is listed is another list.
func (s *simulation) isWrongOverall() bool {
	return s.strangers || s.wrong > 0 && s.wrongBy == endless
}

// readBy is what a client makes of a row.
func readBy(tr *oppertest.Trace) opper.Trace {
	out := opper.Trace{ID: tr.ID}
	if tr.Name != nil {
		out.Name = *tr.Name
	}
	if tr.Status != nil {
		out.Status, out.HasStatus = *tr.Status, true
	}
	if tr.Start != nil {
		out.Start = *tr.Start
	}
	if tr.End != nil {
		out.End = *tr.End
	}
	switch {
	case tr.DurationMS != nil:
		out.Duration, out.HasDuration = time.Duration(math.Round(*tr.DurationMS*1000))*time.Microsecond, true
	case tr.Start != nil && tr.End != nil:
		out.Duration, out.HasDuration = out.End.Sub(out.Start), true
	}
	if tr.Tokens != nil {
		out.Tokens, out.HasTokens = *tr.Tokens, true
	}
	return out
}

// lateTotal says how long the list was, each time for so many answers.
func lateTotal(answers int) func(int) *int {
	said, left := 0, 0
	return func(n int) *int {
		if left--; left < 0 {
			said, left = n, answers
		}
		return new(said)
	}
}

func missingTotal(int) *int { return nil }

func cappedTotal(at int) func(int) *int { return func(n int) *int { return new(min(n, at)) } }

func lyingTotal(by int) func(int) *int { return func(n int) *int { return new(max(n+by, 0)) } }
