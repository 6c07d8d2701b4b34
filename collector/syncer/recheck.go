package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// recheckDue reads the pending traces that are due for a recheck: page by page where they
// are believed to stand, and by id those that are not there.
func (s *Syncer) recheckDue(ctx context.Context, r *reader) error {
	c := recheck{syncer: s, reader: r, due: s.ledger.Due(s.cfg.Now(), s.cfg.MaxTaken)}
	s.behind = s.behind || len(c.due) == s.cfg.MaxTaken
	for len(c.due) > 0 {
		if err := c.page(ctx); err != nil {
			return err
		}
	}
	var delisted []ledger.ID
	for _, d := range c.outOfPlace[:min(len(c.outOfPlace), maxByID)] {
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

// recheck looks for pending traces, page by page.
type recheck struct {
	syncer          *Syncer
	reader          *reader
	due, outOfPlace []ledger.Due // still to be looked for, and not where they should stand
	shift           int          // how much further down than believed the last page stood
	misses          int          // pages in a row without any row that was looked for
}

// page looks at the page of the next trace.
func (c *recheck) page(ctx context.Context) error {
	s := c.syncer
	at := s.ledger.Index(c.due[0].ID)
	if at < 0 || c.misses == maxMisses || s.known.Refused > 0 && at+c.shift-overlap >= s.known.Refused {
		c.miss()
		return nil
	}
	cursor := newCursor(c.reader, s.ledger, at+c.shift-overlap, s.known.Total)
	until := at
	for _, d := range c.due[1:] {
		i := s.ledger.Index(d.ID)
		if i >= at+maxLimit-2*overlap {
			break
		}
		until = max(until, i)
	}
	if c.misses == 0 { // after a miss, a whole page: the row stands at some distance
		cursor.limit = until - at + 2*overlap + 1
	}
	from := cursor.next
	run, err := cursor.page(ctx)
	// An unreadable row may end pages before the row that they are read for.
	for err == nil && !run.AtEnd && cursor.last.end <= at+c.shift {
		s.observe(run)
		run, err = cursor.page(ctx)
		from = cursor.last.end - len(run.Rows)
	}
	switch {
	case opper.OutOfRange(err) && s.known.Refused > 0:
		s.known.Refused = min(s.known.Refused, cursor.next)
		c.miss()
		return nil
	case opper.OutOfRange(err):
		// No page can be read here, or Opper is in trouble:
		// what it says of an id would be no better.
		s.ledger.Unanswered(c.due[0].ID, s.cfg.Now(), &s.ev)
		c.due = c.due[1:]
		return nil
	case err != nil:
		return err
	}
	s.observe(run)
	behind, before := until+overlap+1, c.shift
	if n := len(run.Rows); n == 0 {
		c.shift = from - maxLimit + overlap - at // the list ends before this page
	} else if last := s.ledger.Index(run.Rows[n-1].ID); last >= 0 {
		behind, c.shift = last-overlap, from+n-1-last
	}
	c.find(run.Rows, behind, c.shift != before)
	return nil
}

// find goes on behind the traces that these rows show or should show. If rows have moved,
// or from an index on, close to the page's end, one may just stand beside the page, and
// one that begins closer to it follows.
func (c *recheck) find(rows []ledger.Row, behind int, moved bool) {
	c.misses++
	read := make(map[ledger.ID]struct{}, len(rows))
	for _, row := range rows {
		read[row.ID] = struct{}{}
	}
	for first := true; len(c.due) > 0; first = false {
		if _, ok := read[c.due[0].ID]; ok {
			c.misses, c.due = 0, c.due[1:]
			continue
		}
		if moved || !first && c.syncer.ledger.Index(c.due[0].ID) >= behind {
			break
		}
		c.miss()
	}
}

// miss leaves the next trace to be asked for by id.
func (c *recheck) miss() { c.outOfPlace, c.due = append(c.outOfPlace, c.due[0]), c.due[1:] }

// ask asks Opper for one trace. It reports false if Opper has none.
func (s *Syncer) ask(ctx context.Context, r *reader, d ledger.Due) (there bool, err error) {
	when := ledger.When{Asked: s.cfg.Now()}
	if d.Ref == ledger.NoRef {
		s.ledger.Unanswered(d.ID, when.Asked, &s.ev)
		return true, nil
	}
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
