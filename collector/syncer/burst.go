package syncer

import (
	"context"
	"errors"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// stretch is a part of the list that no sync has read yet: the sync that began it had
// taken in its maximum before it reached known rows.
type stretch struct {
	Above []ledger.ID `json:"above"` // the last rows before it; the next page has to share one
	Below []ledger.ID `json:"below"` // the first rows behind it
}

// IsBehind reports whether the last sync left something for the next one, which is to
// follow at once: what one takes in is bounded, as all of it is in memory until it ends.
func (s *Syncer) IsBehind() bool { return s.behind || len(s.known.Unread) > 0 }

// isFull reports whether this sync has taken in as much as one may.
func (s *Syncer) isFull() bool { return len(s.ev.FirstSeen)+len(s.ev.Counted) >= s.cfg.MaxTaken }

// interrupt leaves what follows the last page of a cursor for later.
func (s *Syncer) interrupt(c *cursor) {
	if !s.IsBehind() {
		level.Info(s.cfg.Logger).Log("msg", "many new traces, syncs follow each other", "read", c.last.end, "listed", c.total)
	}
	s.known.Unread = append(s.known.Unread, stretch{Above: lastOf(c.last.ids), Below: s.inPlaceFrom(s.ledger.Index(c.last.row.ID) + 1)})
}

// inPlaceFrom returns the first rows from an index on that an earlier head has read,
// which ended well: behind others there may be unread ones.
func (s *Syncer) inPlaceFrom(index int) (ids []ledger.ID) {
	for ; len(ids) < overlap && index < s.ledger.Listed(); index++ {
		id := s.ledger.IDs(index, index+1)[0]
		if _, ok := s.moved[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func lastOf(ids []ledger.ID) []ledger.ID { return ids[max(len(ids)-overlap, 0):] }

// readUnread reads what earlier syncs have left, the last one first, which is the
// closest to the start of the list.
func (s *Syncer) readUnread(ctx context.Context, r *reader) error {
	for again := false; len(s.known.Unread) > 0 && !s.isFull(); {
		last := len(s.known.Unread) - 1
		current := &s.known.Unread[last]
		c := newCursor(r, s.ledger, s.lastIndex(current.Above)+1-overlap, s.known.Total)
		c.stitchTo(current.Above)
		done, err := s.readStretch(ctx, c, current)
		if errors.Is(err, errMoving) && !again {
			// Another list may have answered, or an empty one.
			if _, _, err := s.head(ctx, r); err != nil {
				return err
			}
			again = true
			continue
		}
		switch {
		case errors.Is(err, errMoving): // rows beside it were deleted
			s.known.FullScanWanted = true
		case opper.OutOfRange(err):
			s.tooDeep(c.next, err)
		case err != nil:
			return err
		case !done:
			return nil
		}
		s.known.Unread, again = s.known.Unread[:last], false
	}
	return nil
}

// readStretch reads a stretch until the sync is full. It reports whether known rows
// followed before, which stand where they are believed to.
func (s *Syncer) readStretch(ctx context.Context, c *cursor, current *stretch) (done bool, err error) {
	for !done && !s.isFull() {
		run, err := c.page(ctx)
		if err != nil {
			return false, err
		}
		below, settled := s.lastIndex(current.Below), s.settledDown(c, run, maxLimit, nil)
		done = run.AtEnd || settled && below >= 0 && s.ledger.Index(c.last.row.ID) >= below
		s.take(run)
		s.note(c.total)
		current.Above = lastOf(c.last.ids)
	}
	return done, nil
}

// lastIndex returns where the last of some rows is believed to stand, -1 if none is
// believed to be listed.
func (s *Syncer) lastIndex(ids []ledger.ID) int {
	last := -1
	for _, id := range ids {
		last = max(last, s.ledger.Index(id))
	}
	return last
}
