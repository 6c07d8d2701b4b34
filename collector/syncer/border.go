package syncer

import (
	"fmt"
	"slices"

	"opper_exporter/collector/ledger"
)

// stitched reports whether rows begin no later than where the page before them
// ended: they share a row with it, and only rows that already stood before that one do so
// now. Behind others, a row may have been moved by an update. Before that page, rows
// that follow each other as when they were read do as well.
func (c *cursor) stitched(rows []ledger.Row) bool {
	last, follow := -1, 0
	for j, r := range rows {
		i := c.index(r.ID)
		if (j == 0 || i > last) && slices.Contains(c.border.ids, r.ID) {
			return true
		}
		if i < 0 {
			return false
		}
		if follow++; i != last+1 {
			follow = 1
		}
		last = max(last, i)
		if follow == minFollow && i < c.index(c.border.ids[0]) {
			return true
		}
	}
	return false
}

func hasNew(rows []ledger.Row, ids []ledger.ID) bool {
	return slices.ContainsFunc(rows, func(r ledger.Row) bool { return !slices.Contains(ids, r.ID) })
}

// remember notes the places of rows that have to wait.
func (c *cursor) remember(run ledger.Run) {
	if c.waiting.places == nil {
		return
	}
	if run.AtStart {
		clear(c.waiting.places)
		c.waiting.atMismatch = 0
	}
	for _, r := range run.Rows {
		if _, again := c.waiting.places[r.ID]; !again && r.Kind != ledger.Unreadable {
			c.waiting.places[r.ID] = len(c.waiting.places)
		}
	}
}

// index returns the place of a row among those that were read before, -1 if it was not.
// Rows that wait have places of their own: one that the ledger knows is not among them,
// as another upstream may have answered before.
func (c *cursor) index(id ledger.ID) int {
	if !c.waiting.isReturning {
		return c.ledger.Index(id)
	}
	if i, waits := c.waiting.places[id]; waits {
		return i
	}
	return -1
}

// progress returns an error if reading on leads nowhere. Rows that arrive while
// pages are read can make one page repeat another, but not again and again.
func (c *cursor) progress(p page) error {
	end := p.offset + len(p.rows)
	if end > c.maxEnd(p.total) && len(p.rows) > 0 {
		return fmt.Errorf("%w: a row at offset %d, total_count %d", errEndless, end-1, c.firstTotal)
	}
	if c.goesRound(p) {
		return fmt.Errorf("%w: so far rows come again and again, the last of them at %d", errEndless, p.offset)
	}
	if n := len(c.border.carried); isUnreadable(p) && n > maxUnreadableBeyond && p.offset > max(c.ledger.Listed(), c.total) {
		return fmt.Errorf("%w: no row can be read from offset %d on", errEndless, p.offset-n)
	}
	weight := 1 // so few rows can be the same again
	if p.asked == maxLimit {
		weight = maxLimit/maxRepeats + 1
	}
	if c.isStalled(p, weight) {
		return errMoving
	}
	switch {
	case len(p.rows) == 0 || p.rows[0].Kind == ledger.Unreadable:
		return nil
	case p.offset == 0 && c.last.end > 0 && !c.isAhead(p): // again
	case p.offset > c.last.offset && c.last.beginsWith(p.rows[0]):
		weight = min(weight, p.offset-c.last.offset)
	default:
		if c.border.ids == nil || hasNew(p.rows, c.border.ids) && c.stitched(p.rows) {
			// One new row at the start makes all pages new where offset is ignored.
			c.repeats = max(c.repeats-weight, 0)
		}
		return nil
	}
	if c.repeats += weight; c.repeats >= maxLimit {
		return fmt.Errorf("%w, the last of them at %d", errRepeated, p.offset)
	}
	return nil
}

// isStalled reports whether pages have led no further for long, each following another one
// that was read before. From the start of the list, it may be shorter by now.
func (c *cursor) isStalled(p page, weight int) bool {
	if end := p.offset + len(p.rows); p.offset == 0 || end > c.furthest {
		c.furthest, c.stalled = end, 0
	} else {
		c.stalled += weight
	}
	return c.stalled > maxStalled*maxLimit/maxRepeats
}

// maxEnd returns how far the list can go, by the total_count of the first page that says
// one: later ones may grow with the offset. One that is a power of ten may be capped.
func (c *cursor) maxEnd(total int) int {
	if c.firstTotal < 0 {
		c.firstTotal = total
	}
	if c.firstTotal < 0 || isRound(c.firstTotal) || c.firstTotal > maxUncounted/totalFactor {
		return maxUncounted
	}
	return min(totalFactor*max(c.firstTotal, c.known)+totalSlack, maxUncounted)
}

func isRound(total int) bool {
	for total >= 10_000 && total%10 == 0 {
		total /= 10
	}
	return total == 1_000
}

// goesRound reports whether pages in a row, each further down, have brought only rows that
// were read long before, as of a list that is given again and again. Some rows stand for all.
func (c *cursor) goesRound(p page) bool {
	c.pages++
	isOld, sampled := true, 0
	for _, r := range p.rows {
		if r.Kind != ledger.Normal || r.ID[len(r.ID)-1]%sampleOf != 0 {
			continue
		}
		sampled++
		if at, ok := c.sample[r.ID]; !ok {
			isOld, c.sample[r.ID] = false, c.pages
		} else if at > c.pages-minRound {
			isOld = false
		}
	}
	switch {
	case sampled == 0:
	case isOld && p.offset+len(p.rows) > c.furthest:
		c.oldPages++
	case !isOld:
		c.oldPages = 0
	}
	return c.oldPages >= maxOldPages
}

func (l *lastPage) beginsWith(r ledger.Row) bool { return len(l.ids) > 0 && l.ids[0] == r.ID }

// isAhead reports whether a page at the start of the list shows that all rows of the
// last page, which was there as well, have moved behind new ones.
func (c *cursor) isAhead(p page) bool {
	return slices.IndexFunc(p.rows, c.last.beginsWith) >= c.last.end
}
