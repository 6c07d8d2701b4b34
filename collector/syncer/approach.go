package syncer

import (
	"context"
	"slices"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// approach notes within how many rows one stands that can't be read: a page up to there
// was read, and a longer one could not be, now or before. A page that is known to fail
// is not asked for: where the list moves with each request, it would never get there.
func (c *cursor) approach(p page, before []ledger.ID) {
	n := len(p.rows)
	if p.failed > 0 {
		c.near = max(p.failed-n, 0)
		return
	}
	for i := n; i > 0 && c.near > 0; i-- {
		if slices.Contains(before, p.rows[i-1].ID) {
			break
		}
		c.near--
	}
}

// isLoose reports whether nothing shows that a page follows the last row: that one
// was read alone, or before one that could not be read, and is not there any more.
func (c *cursor) isLoose() bool {
	return len(c.carry) > 0 && c.carry[len(c.carry)-1].Kind != ledger.Unreadable
}

// mustCheck reports whether a page was read beside a row that can't be read, and
// nothing shows yet that the list has not moved between the two.
func (c *cursor) mustCheck(p page) bool {
	return len(c.carry) > 0 && len(p.rows) > 0 && len(c.last) > 0 && !c.blind && c.aims < maxSteps && c.backs < maxBacks
}

// check reports whether a page follows the last one, with the unreadable rows that
// lie between: then the last row is still where it was. If it is not, the border is
// read again, from where it has moved to.
func (c *cursor) check(ctx context.Context, p page) (bool, error) {
	c.aims++
	last := p.rows[len(p.rows)-1].ID
	if c.aim(p.rows[0].ID, p.offset) || c.isLoose() && c.aim(last, p.offset+len(p.rows)-1) {
		return false, nil
	}
	got, err := c.r.list(ctx, c.end-1, 1)
	switch {
	case opper.OutOfRange(err):
		return true, nil
	case err != nil && !opper.Unreadable(err):
		return false, err
	case err == nil && len(got.rows) > 0 && got.rows[0].ID == c.lastRow.ID:
		return true, nil
	case err == nil && len(got.rows) > 0 && c.aim(got.rows[0].ID, got.offset):
		return false, nil
	}
	c.stitchTo(c.last)
	c.carry, c.next, c.size, c.share, c.near = nil, max(0, c.end-maxOverlap), maxOverlap, 0, 0
	c.backs++
	return false, nil
}

// aim makes the cursor read again what follows the last page, if a row of it shows
// where that has moved to.
func (c *cursor) aim(id ledger.ID, offset int) bool {
	i := slices.Index(c.last, id)
	if i < 0 {
		return false
	}
	moved := offset - (c.end - len(c.last) + i)
	c.floor, c.end = c.floor+moved, c.end+moved
	c.carry, c.next, c.size = []ledger.Row{c.lastRow}, c.end, 1
	return true
}
