package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

const (
	// maxUntied bounds the rows that wait in memory for a known row. Beyond it, answers
	// for a known id and for one that was read have to do; without them, what follows is
	// read twice.
	maxUntied = 5_000
	// maxAsked is how many known ids are asked for at each end of the list.
	maxAsked = 3
)

// evidence decides whether the pages of a head are of the list that we know.
// Only a known row ties them to it. There may be more new rows than the list had, so
// pages wait until one has such a row or the list ends.
type evidence struct {
	syncer *Syncer
	reader *reader
	tied   bool         // what is read from now on is of our list
	runs   []ledger.Run // read before that
	rows   int          // of these runs
	isLong bool         // there were more, which are to be read again once they are tied
	again  bool         // they are tied: the list is read again from its start
	found  verdict      // what asking for known ids said
	loose  bool         // some of these runs share no row that was read with both

	proven map[ledger.ID]struct{} // rows that are known to be of our list since it was read before
}

// verdict is what Opper says of known ids.
type verdict int

const (
	notAsked verdict = iota
	unsure           // it does not say
	absent           // it has none of them, although it has others
	present          // it has one
)

// add takes in a run, or keeps it until a known row ties it to our list. The error is
// errForeign if nothing explains why no row is known.
func (e *evidence) add(ctx context.Context, run ledger.Run, c *cursor) error {
	s := e.syncer
	if run.AtStart {
		// Nothing ties what was read before to this.
		*e = evidence{syncer: s, reader: e.reader, proven: e.proven, tied: s.ledger.Listed() == 0}
	}
	if len(run.Rows) > 0 {
		s.emptySince = time.Time{}
	}
	if e.tied {
		s.take(run)
		return nil
	}
	e.loose = e.loose || c.last.isLoose
	if e.isLong = e.rows >= s.cfg.MaxTaken; !e.isLong {
		e.runs = append(e.runs, run)
	}
	e.rows += len(run.Rows)
	switch {
	case e.anyKnown(run.Rows):
		if e.loose {
			if has, err := e.hasRowSurely(ctx, e.runs[0].Rows); err != nil || has == absent {
				if err == nil {
					err = errForeign
				}
				return err
			}
		}
		s.foreign, s.asked = nil, 0
	case e.rows == 0 && run.AtEnd && !s.unproven && !s.isOtherKey():
		if err := e.checkEmpty(ctx); err != nil {
			return err
		}
	case !run.AtEnd:
		return e.wait(ctx)
	default:
		return e.conclude(ctx)
	}
	e.accept()
	return nil
}

// conclude decides where no more rows can be read.
func (e *evidence) conclude(ctx context.Context) error {
	if e.tied || len(e.runs) == 0 {
		return nil
	}
	if e.mayHaveExpired() && !e.isForeign() {
		e.accept()
		return nil
	}
	if err := e.ask(ctx); err != nil {
		return err
	}
	ours, err := e.areOurs(ctx)
	if err != nil {
		return err
	}
	if !ours {
		return e.refuse(e.runs)
	}
	e.accept()
	return nil
}

// areOurs reports whether the key that has a known trace has those that were
// read, too.
func (e *evidence) areOurs(ctx context.Context) (bool, error) {
	if e.found != present {
		return false, nil
	}
	for _, run := range []ledger.Run{e.runs[0], e.runs[len(e.runs)/2], e.runs[len(e.runs)-1]} {
		has, err := e.hasRow(ctx, run.Rows)
		if err != nil || has == present {
			return err == nil, err
		}
	}
	return false, nil
}

func (e *evidence) anyKnown(rows []ledger.Row) bool {
	return slices.ContainsFunc(rows, func(row ledger.Row) bool {
		_, isProven := e.proven[row.ID]
		return row.Kind == ledger.Normal && (isProven || e.syncer.ledger.HasSeen(row.ID))
	})
}

// accept takes in what waited, or has it read again if not all of it is in memory.
func (e *evidence) accept() {
	if e.again = e.isLong; e.again {
		e.proven = map[ledger.ID]struct{}{}
		for _, run := range e.runs {
			for _, row := range run.Rows {
				e.proven[row.ID] = struct{}{}
			}
		}
		return
	}
	e.syncer.unproven = false
	for _, run := range e.runs {
		e.syncer.take(run)
	}
	e.tied, e.runs = true, nil
}

// wait decides whether it is worth reading on. After a single whole page it always
// is: what two pages hold often arrives between two syncs, and needs no further
// requests.
func (e *evidence) wait(ctx context.Context) error {
	s := e.syncer
	pages := 1
	if len(e.runs[0].Rows) < maxLimit {
		pages++
	}
	if e.found == notAsked && len(e.runs) > pages {
		if err := e.ask(ctx); err != nil {
			return err
		}
		// In a list that is not sorted by time, those that are left may be any, and
		// they may be rows that could not be read.
		if e.found == absent && s.known.Sorted && len(s.ledger.Unreadable()) == 0 && (e.isForeign() || !e.mayHaveExpired()) {
			return e.refuseEarly(ctx)
		}
	}
	if e.rows < s.cfg.MaxTaken {
		return nil
	}
	ours, err := e.areOurs(ctx)
	if ours {
		e.accept()
	}
	return err
}

// refuseEarly refuses a list of which the start was read. Its last rows tell
// best whether it is another project's.
func (e *evidence) refuseEarly(ctx context.Context) error {
	s := e.syncer
	p, err := e.reader.read(ctx, max(s.believedEnd(), 1)-1, maxLimit, 0)
	if err != nil {
		return err
	}
	return e.refuse([]ledger.Run{{Rows: p.rows, When: p.when}})
}

// refuse refuses a list. If most of its rows were listed when ours was read
// last, it is another one, and time does not change that.
func (e *evidence) refuse(runs []ledger.Run) error {
	s := e.syncer
	hasID := func(row ledger.Row) bool { return row.Kind != ledger.NoID }
	if e.rows > 0 && !slices.ContainsFunc(e.runs, func(run ledger.Run) bool { return slices.ContainsFunc(run.Rows, hasID) }) {
		return errNoIDs
	}
	if older, newer := e.ages(runs); older > newer || e.isForeign() {
		s.foreign = map[ledger.ID]struct{}{}
		for _, run := range append(runs, e.runs...) {
			for _, row := range run.Rows[:min(len(run.Rows), maxLimit)] {
				if row.Kind != ledger.Unreadable {
					s.foreign[row.ID] = struct{}{}
				}
			}
		}
	}
	return errForeign
}

// isForeign reports whether what was read shares a row with a list that was
// found to be another one.
func (e *evidence) isForeign() bool {
	for _, run := range e.runs {
		for _, row := range run.Rows {
			if _, ok := e.syncer.foreign[row.ID]; ok {
				return true
			}
		}
	}
	return false
}

// ages counts the rows that are older and newer than the last successful sync, as far
// as their times are plausible.
func (e *evidence) ages(runs []ledger.Run) (older, newer int) {
	for _, run := range runs {
		for _, row := range run.Rows {
			at := row.Start
			if !row.End.IsZero() {
				at = row.End
			}
			switch {
			case at.IsZero() || at.After(run.Read):
			case at.Before(e.syncer.known.LastSuccess):
				older++
			default:
				newer++
			}
		}
	}
	return older, newer
}

// ask asks Opper for known ids at both ends of the list, others each time.
// That it has one is the best proof that the list is ours. That it has none says
// something only if it has one that it has just listed.
func (e *evidence) ask(ctx context.Context) error {
	s := e.syncer
	if e.found != notAsked {
		return nil
	}
	e.found = unsure
	listed := s.ledger.Listed()
	for i := range min(2*maxAsked, listed) {
		at := 0 // the newest, which is the last to expire
		if i > 0 {
			at = (s.asked + i/2) % listed
		}
		if (i%2 == 1) != s.known.NewestLast {
			at = listed - 1 - at
		}
		id := s.ledger.IDs(at, at+1)[0]
		if id.IsUnreadable() {
			continue
		}
		switch has, err := e.has(ctx, id.String()); {
		case err != nil:
			return err
		case has == present:
			e.found = present
			return nil
		case has == unsure:
			return nil
		}
	}
	s.asked += maxAsked
	for _, run := range e.runs {
		for _, row := range run.Rows {
			if row.Ref != "" {
				return nil // nor can all of ours be asked for
			}
		}
	}
	has, err := e.hasRow(ctx, e.runs[0].Rows)
	if has == present {
		e.found = absent
	}
	return err
}

// hasRow asks Opper for the first of some rows that can be asked for.
func (e *evidence) hasRow(ctx context.Context, rows []ledger.Row) (verdict, error) {
	for _, row := range rows {
		if row.Kind == ledger.Normal && row.Ref != ledger.NoRef {
			return e.has(ctx, cmp.Or(row.Ref, row.ID.String()))
		}
	}
	return unsure, nil
}

// hasRowSurely is hasRow, but asks up to maxAsked times while the answer is unsure.
func (e *evidence) hasRowSurely(ctx context.Context, rows []ledger.Row) (has verdict, err error) {
	for range maxAsked {
		if has, err = e.hasRow(ctx, rows); err != nil || has != unsure {
			break
		}
	}
	return has, err
}

// has asks Opper for one trace. A temporary failure is an error and not unsure: the
// answer may be the only proof of whose list this is.
func (e *evidence) has(ctx context.Context, id string) (verdict, error) {
	_, err := e.reader.src.Get(ctx, id)
	switch {
	case err == nil:
		return present, nil
	case errors.Is(err, opper.ErrNotFound):
		return absent, nil
	case opper.Unreadable(err), opper.Answered(err):
		return unsure, nil
	}
	return unsure, fmt.Errorf("ask for a trace: %w", err)
}
