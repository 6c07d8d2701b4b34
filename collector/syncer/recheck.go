package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// recheckDue looks at the pending traces that want it: page by page where they
// are believed to stand, and by id those that are not there.
func (s *Syncer) recheckDue(ctx context.Context, r *reader) error {
	var outOfPlace []ledger.Due
	shift := 0  // how much further down than believed the last page stood
	misses := 0 // pages in a row without any row that was looked for
	due := s.ledger.Due(s.cfg.Now())
	for len(due) > 0 {
		at := s.ledger.Index(due[0].ID)
		if at < 0 || misses == maxMisses {
			outOfPlace, due = append(outOfPlace, due[0]), due[1:]
			continue
		}
		if s.refused > 0 && at+shift-overlap >= s.refused {
			outOfPlace, due = append(outOfPlace, due[0]), due[1:]
			continue
		}
		c := newCursor(r, s.ledger, at+shift-overlap, s.total)
		until := at
		for _, d := range due[1:] {
			i := s.ledger.Index(d.ID)
			if i >= at+maxLimit-2*overlap {
				break
			}
			until = max(until, i)
		}
		if misses == 0 { // after a miss, a whole page: the row stands at some distance
			c.limit = until - at + 2*overlap + 1
		}
		from := c.next
		run, err := c.page(ctx)
		// An unreadable row ends a page before the row that it was read for.
		for err == nil && !run.AtEnd && c.unreadableFrom(c.last.end) == c.last.end && c.last.end <= at+shift {
			s.observe(run)
			run, err = c.page(ctx)
			from = c.last.end - len(run.Rows)
		}
		if opper.OutOfRange(err) && s.refused > 0 {
			s.refused = min(s.refused, c.next)
			outOfPlace, due = append(outOfPlace, due[0]), due[1:]
			continue
		}
		if opper.OutOfRange(err) {
			// No page can be read here, or Opper is in trouble:
			// what it says of an id would be no better.
			s.ledger.Unanswered(due[0].ID, s.cfg.Now(), &s.ev)
			due = due[1:]
			continue
		}
		if err != nil {
			return err
		}
		s.observe(run)
		misses++
		read := make(map[ledger.ID]struct{}, len(run.Rows))
		for _, row := range run.Rows {
			read[row.ID] = struct{}{}
		}
		behind, before := until+overlap+1, shift
		if n := len(run.Rows); n == 0 {
			shift = from - maxLimit + overlap - at // the list ends before this page
		} else if last := s.ledger.Index(run.Rows[n-1].ID); last >= 0 {
			behind, shift = last-overlap, from+n-1-last
		}
		for first := true; len(due) > 0; first = false {
			if _, ok := read[due[0].ID]; !ok {
				// If rows have moved, or close to the page's end, it may just stand
				// beside the page, and one that begins closer to it follows.
				if shift != before || !first && s.ledger.Index(due[0].ID) >= behind {
					break
				}
				outOfPlace = append(outOfPlace, due[0])
			} else {
				misses = 0
			}
			due = due[1:]
		}
	}
	var delisted []ledger.ID
	for _, d := range outOfPlace[:min(len(outOfPlace), maxByID)] {
		there, err := s.ask(ctx, r, d)
		if err != nil {
			return err
		}
		if !there {
			delisted = append(delisted, d.ID)
		}
	}
	if len(delisted) == 0 {
		return nil
	}
	// Another project has none of our traces.
	if _, _, err := s.head(ctx, r); err != nil {
		return err
	}
	for _, id := range delisted {
		s.ledger.Delist(id, &s.ev)
	}
	return nil
}

// ask asks Opper for one trace. It reports false if Opper has none.
func (s *Syncer) ask(ctx context.Context, r *reader, d ledger.Due) (there bool, err error) {
	when := ledger.When{Asked: s.cfg.Now()}
	t, err := r.src.Get(ctx, cmp.Or(d.Ref, d.ID.String()))
	when.Read = s.cfg.Now()
	switch {
	case err == nil:
		var row ledger.Row
		setRow(&row, &t)
		row.ID, row.Ref, row.Kind = d.ID, d.Ref, ledger.Normal
		s.ledger.Resolve(row, when, &s.ev)
	case errors.Is(err, opper.ErrNotFound):
		return false, nil
	case ctx.Err() != nil || opper.Refused(err):
		return true, fmt.Errorf("trace %s: %w", d.ID, err)
	default:
		s.ledger.Unanswered(d.ID, when.Read, &s.ev)
	}
	return true, nil
}
