package syncer

import (
	"context"
	"errors"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// head reads from the start of the list until rows are where they are believed
// to be. It reports whether it came to the end, and else how far it came.
// Nothing is taken in before a known row shows that this is the list that we
// know, and pages that share rows tie what came before it to that row.
func (s *Syncer) head(ctx context.Context, r *reader) (whole bool, end int, err error) {
	h := headReader{syncer: s, cursor: s.headCursor(r, s.known.Total), evidence: evidence{syncer: s, reader: r}}
	h.cursor.limit = s.headLimit()
	s.minTotal = -1
	h.unreadable = s.skipUnreadable(h.cursor)
	for done := false; !done; {
		if done, err = h.page(ctx); err != nil {
			return false, 0, err
		}
		if !done && h.evidence.tied && s.isFull() {
			s.interrupt(h.cursor)
			break
		}
	}
	if h.whole {
		s.known.Unread = nil
	}
	s.note(h.cursor.total)
	s.skipped = s.skipped || h.skipped
	if !h.cursor.restarted {
		s.moved = nil
	}
	return h.whole, h.cursor.next, nil
}

// headReader reads one head.
type headReader struct {
	syncer     *Syncer
	cursor     *cursor
	evidence   evidence
	unreadable int  // rows that the next page begins with, as they are believed to
	skipped    bool // rows known to be unreadable were not tried
	whole      bool // the end was reached
}

// page takes in the next page, and reports whether it is the last one.
func (h *headReader) page(ctx context.Context) (done bool, err error) {
	s, c, unreadable := h.syncer, h.cursor, h.unreadable
	limit := c.limit
	run, err := c.page(ctx)
	h.unreadable = 0
	switch isDeep := opper.OutOfRange(err); {
	case unreadable > 0 && (isDeep || err == nil && (len(run.Rows) <= unreadable || s.ledger.Index(run.Rows[unreadable].ID) != unreadable)):
		h.cursor = s.headCursor(c.reader, c.total)
		return false, nil
	case isDeep && c.next > 0:
		s.tooDeep(c.next, err)
		return true, h.evidence.conclude(ctx)
	case err != nil:
		return false, err
	}
	h.skipped = h.skipped || c.unreadable.skipped
	h.whole = run.AtEnd
	moved := s.moved
	if c.restarted {
		// The list moves so fast that this head could read the same rows again
		// and again: what it may miss is left to the next one.
		moved = nil
	}
	settled := s.settledDown(c, run, limit, moved) // before its new rows are known
	err = h.evidence.add(ctx, run, c)
	if errors.Is(err, errForeign) && h.skipped {
		// The row that we know may be one that could not be read before.
		h.skipped, h.cursor = false, s.headCursor(c.reader, c.total)
		h.cursor.unreadable.retry = true
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if h.evidence.again {
		h.evidence.again, h.cursor = false, s.headCursor(c.reader, c.total)
		return false, nil
	}
	if h.evidence.tied {
		c.waiting.places = nil
	}
	if h.whole && run.AtStart {
		s.detectOrderOf(run.Rows)
	}
	return h.whole || h.evidence.tied && settled, nil
}

func (s *Syncer) headCursor(r *reader, total int) *cursor {
	c := newCursor(r, s.ledger, 0, total)
	c.canRestart, c.waiting.places = true, map[ledger.ID]int{}
	return c
}

// skipUnreadable makes a cursor begin behind unreadable rows that are believed to
// stand at the start, and returns how many. If another row stands behind them,
// there are new rows, and the start has to be read after all.
func (s *Syncer) skipUnreadable(c *cursor) int {
	n := 0
	for n < maxLimit && s.ledger.NextUnreadable(n, 1) == n {
		c.border.carried = append(c.border.carried, ledger.Row{Kind: ledger.Unreadable})
		n++
	}
	c.next, c.unreadable.skipped = n, n > 0
	return n
}

// headLimit returns how many rows the first page of a head asks for. An idle list
// shows in a few that nothing is new, if total_count would show what was inserted
// further down. Rows that are due come with them if they stand close to the start, and
// as many new ones as may have arrived since.
func (s *Syncer) headLimit() int {
	hasTotal := s.known.Total >= 0 && !s.known.TotalUnreliable && !s.known.TotalCapped
	limit := idleHead(s.ledger.Listed(), s.known.Sorted, s.known.NewestLast, hasTotal)
	if limit == maxLimit || s.known.NewestLast {
		return limit
	}
	for _, d := range s.ledger.Due(s.cfg.Now(), s.cfg.MaxTaken) {
		if d.Index < maxLimit {
			limit = max(limit, 2*(d.Index+1)+idleRows)
		}
	}
	return min(limit, maxLimit)
}

func idleHead(listed int, isSorted, newestLast, hasTotal bool) int {
	if !isSorted || listed <= 2*overlap || !newestLast && !hasTotal { // so few are read as a whole
		return maxLimit
	}
	return idleRows
}

// IdleRows returns how many rows a sync reads, at both ends of a list, where nothing is
// new. hasTotal says that its total_count is there and right.
func IdleRows(listed int, isSorted, newestLast, hasTotal bool) int {
	return min(idleHead(listed, isSorted, newestLast, hasTotal)+idleRows, listed)
}

// SweepReads returns how many pages a sweep reads of a list, and rows: pages share some.
func SweepReads(listed int) (pages, rows int) {
	pages = max(listed-overlap, 0)/NewRowsPerPage + 1
	return pages, listed + (pages-1)*overlap
}

// settledDown reports whether the last rows that a cursor read stand where they are
// believed to be. They add up over pages: one beside an unreadable row may hold nothing but
// a row that has moved. Where a page of fewer than maxLimit rows was asked for at the end
// where new rows are, they must be the first ones that were listed before, without any
// missing.
func (s *Syncer) settledDown(c *cursor, run ledger.Run, limit int, moved map[ledger.ID]struct{}) bool {
	rows := run.Rows
	n := s.outOfPlace(rows, moved)
	if n > 0 || run.AtStart {
		c.inPlace = c.last.end - len(rows) + n
	}
	switch {
	case s.known.NewestLast:
		return n <= max(len(rows)-overlap, 0)
	case limit == maxLimit:
		return c.last.end-c.inPlace >= overlap
	}
	return len(rows)-n > idleRows/2 && s.standFrom(0, rows[n:]) == len(rows)-n
}

// standFrom returns how many rows there are up to the first one that does not stand
// where it is believed to, given the index of the first one.
func (s *Syncer) standFrom(index int, rows []ledger.Row) int {
	for i, row := range rows {
		if row.Kind != ledger.Unreadable && s.ledger.Index(row.ID) != index+i {
			return i
		}
	}
	return len(rows)
}

// outOfPlace returns how many rows there are up to the last one that does not stand
// behind the one before it, as it is believed to, or that is one of moved. Only rows
// that were in place before a head began show it that all behind them are known: what
// arrives meanwhile may fill a small page with what it has just read itself.
func (s *Syncer) outOfPlace(rows []ledger.Row, moved map[ledger.ID]struct{}) int {
	n, before := 0, -1
	for i, row := range rows {
		if row.Kind == ledger.Unreadable {
			continue
		}
		at := s.ledger.Index(row.ID)
		if _, again := moved[row.ID]; again || at <= before {
			n = i + 1
		}
		before = at
	}
	return n
}
