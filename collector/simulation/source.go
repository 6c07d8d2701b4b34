package simulation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

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
	if s.seemsEmpty() {
		return s.nothing(), nil
	}
	at, n, from := offset, limit, s.opper
	switch {
	case s.strangers:
		from = s.other
	case s.isMadeUp():
		return s.madeUp(offset, limit), nil
	case s.wrong == 0:
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
	if limit == 1 && len(s.poisoned)+len(s.dims) > 0 && s.project.Ledger().IsInitialSync() {
		// Read one by one, rows that move up are skipped, and only sweeps find them.
		s.partial = true
	}
	if s.list.MaxOffset > 0 && len(rows) > 0 && !slices.ContainsFunc(rows, func(tr oppertest.Trace) bool {
		return s.project.Ledger().Index(ledger.KeyOf(tr.ID)) >= 0
	}) {
		// Where not all rows can be reached, nothing may ever tie these to the list.
		s.untied = true
	}
	if s.strangers || at != offset || len(rows) > limit {
		s.noteLie(from != s.opper && len(rows) > 0)
	} else {
		s.gotOurs = true
	}
	if len(rows) > 0 {
		s.emptySince = time.Time{}
	}
	page := opper.Page{Total: -1, Traces: make([]opper.Trace, len(rows))}
	if total != nil {
		page.Total = *total
	}
	for i := range rows {
		page.Traces[i] = Read(&rows[i])
	}
	return page, nil
}

// noteLie notes a list that is not what was asked for.
func (s *simulation) noteLie(foreign bool) {
	s.spoiled, s.disturbed, s.lied = true, true, s.at
	s.gotOther = s.gotOther || foreign
	if !s.blind.IsZero() {
		s.blinded() // a row that is read again now is read in vain
	}
}

// seemsEmpty reports whether lists are empty, though the list is not. While the project
// may still ask whether a trace that it was denied is listed, it does not end.
func (s *simulation) seemsEmpty() bool {
	return !s.strangers && (s.at.Before(s.emptyTo) || s.emptyAll && s.saidNo)
}

// nothing is a page where the list seems to be empty.
func (s *simulation) nothing() opper.Page {
	s.noteLie(true)
	s.tick()
	s.tell("no rows, though %d are listed", s.opper.Len())
	s.point()
	return opper.Page{Total: []int{-1, 0, 0, s.opper.Len()}[s.pick(4)]}
}

// madeUp is a page of a list without end.
func (s *simulation) madeUp(offset, limit int) opper.Page {
	s.noteLie(true)
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
	if s.seemsEmpty() && s.emptyAll {
		s.noteLie(false)
		s.saidNo = true
		s.tell("trace %s: not found", id)
		s.tick()
		s.point()
		return opper.Trace{}, &opper.Error{Status: http.StatusNotFound}
	}
	from := s.opper
	if s.strangers {
		s.noteLie(false)
		from, s.saidNo = s.other, true
	}
	tr, ok := from.Show(id)
	s.tell("trace %s: %v", id, ok)
	s.tick()
	s.point()
	if !ok {
		return opper.Trace{}, &opper.Error{Status: http.StatusNotFound}
	}
	return Read(&tr), nil
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
		s.certain = s.certain && s.isCertain()
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
			// That one trace is delisted could only be believed.
			s.unanswered, s.spoiled = true, true
			if !list {
				return &opper.Error{Status: 500}
			}
		}
		if limit == 1 && opper.Unreadable(s.badAnswer) {
			s.blinded()
		}
		// What is asked for by id and not answered has to be asked again.
		s.unanswered, s.spoiled = s.unanswered || !list, s.spoiled || !list
		s.tell("answer: %v", s.badAnswer)
		return s.badAnswer
	}
	if !s.seemsEmpty() && !s.goodAt.Before(s.emptyTo) && s.opper.Len() > 0 && s.chance(s.empty) {
		s.emptyTo, s.emptyAll = s.at.Add(time.Duration(s.pick(int(longestEmpty)))), s.pick(2) == 0
		s.tell("nothing seems to be listed until %v, nor any single trace: %v", s.emptyTo.Sub(epoch), s.emptyAll)
	}
	if (s.strangers && s.away == 0 || s.isMadeUp()) && s.mayMislead() {
		if s.saidNo {
			// Ours would confirm what the other project said of a trace.
			s.disturbed = true
			return &opper.Error{Status: 503}
		}
		s.tell("the list is ours again")
		s.strangers, s.wrong = false, 0
	}
	if !s.strangers && s.chance(s.foreign) && s.project.Ledger().Listed() > 20 && s.recognizable() {
		s.strangers = true
		s.tell("another project's list")
	}
	return nil
}

// isMadeUp reports whether the list is.
func (s *simulation) isMadeUp() bool { return s.wrong > 0 && s.wrongBy == endless }

// Read returns what a client makes of a row.
func Read(tr *oppertest.Trace) opper.Trace {
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

// lateTotal says how long the list was, for a number of answers each time.
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
