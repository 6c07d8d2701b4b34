package syncer

import (
	"context"
	"errors"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// believedEnd returns the offset at which the list is believed to end.
func (s *Syncer) believedEnd() int {
	if listed := s.ledger.Listed(); s.known.Total < 0 || s.known.TotalCapped || s.known.Total > listed {
		return listed
	}
	return s.known.Total
}

// tail reads the end of the list: what is believed to be listed behind its last
// row has expired.
func (s *Syncer) tail(ctx context.Context, r *reader) error {
	search := tailSearch{syncer: s, reader: r, beyond: -1}
	c, run, err := search.start(ctx, s.believedEnd()-idleRows)
	// Where a page shares none with the one before, as behind a row that can't be read, it
	// may have new rows only: it follows one that has a row that we know.
	var tied *cursor
	for err == nil && c != nil {
		if s.ties(run.Rows) {
			tied = c
		}
		if tied != c {
			// At the start of the list, this takes more than one page to tell.
			_, _, err = s.head(ctx, r)
			return err
		}
		s.note(c.total)
		s.take(run)
		if run.AtEnd {
			// What was refused once may have been left out by a head.
			s.known.FullScanWanted = s.known.FullScanWanted || s.known.Refused > 0
			s.known.Refused, s.known.TotalCapped = 0, c.total >= 0 && c.last.end > c.total
			return nil
		}
		if s.isFull() {
			s.behind = true // the next tail reads on
			return nil
		}
		c, run, err = search.next(ctx, c, run)
	}
	return err
}

// tailSearch looks for the end of the list. An offset at which nothing is
// listed says only that the list ends before it.
type tailSearch struct {
	syncer *Syncer
	reader *reader
	beyond int // lowest offset found to have no row, -1 if none was

	unknown  bool // more rows than we know are listed before the last page
	restarts int
}

// start reads the first page that begins with a row that we know, going back
// from an offset.
func (s *tailSearch) start(ctx context.Context, at int) (*cursor, ledger.Run, error) {
	at = max(at, 0)
	for back := maxLimit; ; back *= 2 {
		c := newCursor(s.reader, s.syncer.ledger, at, s.syncer.known.Total)
		run, err := s.page(ctx, c, at)
		// The start of the list is not too deep.
		if err != nil && (at == 0 || !opper.OutOfRange(err)) {
			return nil, run, err
		}
		if err != nil && s.syncer.known.Refused > 0 {
			return nil, run, nil
		}
		if err == nil && (at == 0 || s.isClosed(run.Rows, at)) {
			return c, run, nil
		}
		at = max(at-back, 0)
	}
}

// isClosed reports whether all rows before an offset are known: if new rows are at
// the end of the list, there may be no more of them than we know.
func (s *tailSearch) isClosed(rows []ledger.Row, at int) bool {
	if len(rows) == 0 {
		return false
	}
	i := s.syncer.ledger.Index(rows[0].ID)
	return i >= 0 && (!s.syncer.known.NewestLast || i >= at) && s.hasPlace(rows, i)
}

// hasPlace reports whether rows stand from an index on, as they are believed to. If
// new rows are at the end of the list, the first one may have moved behind new ones: the
// first few must follow each other as before.
func (s *tailSearch) hasPlace(rows []ledger.Row, i int) bool {
	return !s.syncer.known.NewestLast || s.syncer.standFrom(i, rows) > idleRows/2
}

// next reads the next page, or one closer to the end where many rows are
// believed to be listed between.
func (s *tailSearch) next(ctx context.Context, c *cursor, read ledger.Run) (*cursor, ledger.Run, error) {
	last := s.syncer.ledger.Index(read.Rows[len(read.Rows)-1].ID)
	for at := s.target(c, last); !s.unknown && at-c.next > maxLimit; at = s.target(c, last) {
		closer := newCursor(s.reader, s.syncer.ledger, at, s.syncer.known.Total)
		run, err := s.page(ctx, closer, at)
		switch {
		case opper.OutOfRange(err), err == nil && len(run.Rows) == 0:
			continue
		case err != nil:
			return nil, run, err
		}
		// More rows between than are known to be there have to be read.
		i := s.syncer.ledger.Index(run.Rows[0].ID)
		if known := i - last; known > 0 && at-(c.last.end-1) <= known && s.hasPlace(run.Rows, i) {
			return closer, run, nil
		}
		s.unknown = true
	}
	run, err := s.page(ctx, c, c.next)
	if errors.Is(err, errMoving) && s.restarts < maxSteps {
		s.restarts++ // many rows have expired since
		return s.start(ctx, c.last.offset)
	}
	if opper.OutOfRange(err) {
		if s.syncer.known.Refused == 0 {
			s.syncer.tooDeep(c.next, err)
		}
		return nil, run, nil
	}
	return c, run, err
}

// target returns where the list is believed to end, given a row of a known
// index before c, or else the middle of where its end must be.
func (s *tailSearch) target(c *cursor, last int) int {
	switch {
	case last < 0:
		return c.next
	case s.beyond >= 0:
		return (c.next + s.beyond) / 2
	}
	return c.next + s.syncer.ledger.Listed() - 1 - last - overlap
}

// page reads a page at some offset, and notes whether nothing is listed there.
func (s *tailSearch) page(ctx context.Context, c *cursor, at int) (ledger.Run, error) {
	run, err := c.page(ctx)
	if (opper.OutOfRange(err) || err == nil && len(run.Rows) == 0) && (s.beyond < 0 || at < s.beyond) {
		s.beyond = at
	}
	return run, err
}
