package syncer

import (
	"context"
	"slices"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

func isUnreadable(p page) bool {
	return len(p.rows) == 1 && p.rows[0].Kind == ledger.Unreadable
}

// passUnreadable goes on behind a row that can't be read, unless the last page should
// share it: then the list has moved, and what follows has to be tied to a row before it.
func (c *cursor) passUnreadable(p page) {
	if c.border.ids != nil && !c.last.asked.IsZero() && c.unreadable.returns < maxBacks {
		c.next, c.size, c.border.shared, c.unreadable.within = max(0, c.next-maxOverlap), maxOverlap, 0, 0
		c.unreadable.returns++
		return
	}
	c.border.carried = append(c.border.carried, p.rows[0])
	c.border.ids, c.border.shared, c.unreadable.within = nil, 0, 0
	c.next++
	if p.isSkipped {
		c.unreadable.skipped = true
	} else {
		// It may be the one that is believed to stand further down.
		c.size, c.unreadable.isShiftSure = 1, false
	}
}

// unreadableFrom returns the offset of the first row from offset on that is known to be
// unreadable, or -1.
func (c *cursor) unreadableFrom(offset int) int {
	if c.unreadable.retry {
		return -1
	}
	i := c.ledger.NextUnreadable(offset-c.unreadable.shift, maxLimit)
	if i < 0 {
		return -1
	}
	return i + c.unreadable.shift
}

// approach notes within how many rows one stands that can't be read: a page up to there
// was read, and a longer one could not be, now or before. A page that is known to fail
// is not asked for: where the list moves with each request, it would never get there.
func (c *cursor) approach(p page, before []ledger.ID) {
	n := len(p.rows)
	if p.failed > 0 {
		c.unreadable.within = max(p.failed-n, 0)
		return
	}
	for i := n; i > 0 && c.unreadable.within > 0; i-- {
		if slices.Contains(before, p.rows[i-1].ID) {
			break
		}
		c.unreadable.within--
	}
}

// isLastUnshared reports whether nothing shows that a page follows the last row: that one
// was read alone, or before one that could not be read, and is not there any more.
func (c *cursor) isLastUnshared() bool {
	return len(c.border.carried) > 0 && c.border.carried[len(c.border.carried)-1].Kind != ledger.Unreadable
}

// mustCheck reports whether a page was read beside a row that can't be read, and
// nothing shows yet that the list has not moved between the two.
func (c *cursor) mustCheck(p page) bool {
	return len(c.border.carried) > 0 && len(p.rows) > 0 && len(c.last.ids) > 0 && !c.unreadable.skipped && c.border.rereads < maxSteps && c.unreadable.returns < maxBacks
}

// check reports whether a page follows the last one, with the unreadable rows that
// lie between: then the last row is still where it was. If it is not, the border is
// read again, from where it has moved to.
func (c *cursor) check(ctx context.Context, p page) (bool, error) {
	c.border.rereads++
	last := p.rows[len(p.rows)-1].ID
	if c.aim(p.rows[0].ID, p.offset) || c.isLastUnshared() && c.aim(last, p.offset+len(p.rows)-1) {
		return false, nil
	}
	got, follows, err := c.readBorder(ctx, p.rows[0].ID)
	switch {
	case opper.OutOfRange(err):
		return true, nil
	case err != nil && !opper.Unreadable(err):
		return false, err
	case follows:
		return true, nil
	case err == nil && len(got.rows) > 0 && c.aim(got.rows[0].ID, got.offset):
		return false, nil
	}
	c.stitchTo(c.last.ids)
	c.border.carried, c.next, c.size, c.border.shared, c.unreadable.within = nil, max(0, c.last.end-maxOverlap), maxOverlap, 0, 0
	c.unreadable.returns++
	return false, nil
}

// readBorder reads the last row again, together with the one behind it where no unreadable
// row lies between them, as others may leave and arrive between two requests. It reports
// whether they are the last row and the one with an id.
func (c *cursor) readBorder(ctx context.Context, id ledger.ID) (got page, follows bool, err error) {
	if c.isLastUnshared() {
		got, err = c.reader.list(ctx, c.last.end-1, 2)
		if !opper.Unreadable(err) {
			return got, len(got.rows) > 1 && got.rows[0].ID == c.last.row.ID && got.rows[1].ID == id, err
		}
	}
	got, err = c.reader.list(ctx, c.last.end-1, 1)
	return got, len(got.rows) > 0 && got.rows[0].ID == c.last.row.ID, err
}

// aim makes the cursor read again what follows the last page, if a row of it shows
// where that has moved to.
func (c *cursor) aim(id ledger.ID, offset int) bool {
	i := slices.Index(c.last.ids, id)
	if i < 0 {
		return false
	}
	moved := offset - (c.last.end - len(c.last.ids) + i)
	c.last.offset, c.last.end = c.last.offset+moved, c.last.end+moved
	c.border.carried, c.next, c.size = []ledger.Row{c.last.row}, c.last.end, 1
	return true
}
