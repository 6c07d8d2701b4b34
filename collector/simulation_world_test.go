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

// simulatedSource is Opper as the project reads it.
type simulatedSource struct{ *simulation }

func (s simulatedSource) List(_ context.Context, offset, limit int) (opper.Page, error) {
	if err := s.request(limit, true); err != nil {
		return opper.Page{}, err
	}
	from := s.opper
	if s.strangers {
		s.spoiled = true
		from = s.other
	}
	if s.short > 0 {
		limit = min(limit, s.short)
	}
	rows, total, ok := from.List(offset, limit)
	s.tell("rows %d to %d", offset, offset+len(rows))
	s.tick()
	s.point()
	switch {
	case ok:
	case s.list.MaxOffset > 0 && offset > s.list.MaxOffset:
		return opper.Page{}, &opper.Error{Status: http.StatusUnprocessableEntity}
	default:
		return opper.Page{}, opper.ErrTooLarge
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

func (s simulatedSource) Get(_ context.Context, id string) (opper.Trace, error) {
	if err := s.request(0, false); err != nil {
		return opper.Trace{}, err
	}
	if s.list.NoGet != 0 {
		return opper.Trace{}, &opper.Error{Status: s.list.NoGet}
	}
	from := s.opper
	if s.strangers {
		s.spoiled = true
		from = s.other
	}
	tr, ok := from.Show(id)
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
	for s.chance(s.change) {
		s.changeList()
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
		if opper.OutOfRange(s.badAnswer) {
			// That one trace is gone could only be believed.
			s.unanswered = true
			if !list {
				return &opper.Error{Status: 500}
			}
			s.spoiled = true
		}
		if limit == 1 && opper.Unreadable(s.badAnswer) {
			s.blind = s.at
		}
		s.unanswered = s.unanswered || !list
		s.tell("answer: %v", s.badAnswer)
		return s.badAnswer
	}
	if !s.strangers && s.recognizable() && s.chance(s.foreign) {
		s.strangers = true
		s.tell("another project's list")
	}
	return nil
}

// recognizable reports whether the list can be told from another one: some of
// it must be known, and expiry must not explain that all of it is gone.
func (s *simulation) recognizable() bool {
	w := s.walked()
	return !s.project.led.Baseline() && s.project.led.Listed() > 20 &&
		!w.Newest.IsZero() && s.now().Sub(w.Newest) < max(w.LastGood.Sub(w.Oldest), time.Hour)-10*time.Minute
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

func missingTotal(int) *int { return nil }

func cappedTotal(at int) func(int) *int { return func(n int) *int { return new(min(n, at)) } }

func lyingTotal(by int) func(int) *int { return func(n int) *int { return new(max(n+by, 0)) } }
