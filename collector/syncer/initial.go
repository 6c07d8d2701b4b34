package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// initialSync reads the whole list, from where it stopped. It reports whether it
// came to the end.
func (s *Syncer) initialSync(ctx context.Context, r *reader, yield func(Part) bool) (bool, error) {
	began := s.cfg.Now()
	c := s.fullScan(r, max(s.ledger.Listed()-overlap, 0))
	defer func() { c.prefetch.close() }()
	reached, tied := false, false // a start of unreadable rows may tie only further on
	for restarts := 0; !reached; {
		run, err := c.page(ctx)
		ties := s.ties(run.Rows)
		if err == nil && tied && !ties {
			ties, err = s.isOurs(ctx, r, run)
			if err == nil && !ties {
				err = fmt.Errorf("initial sync: no row is known before offset %d: %w", c.last.end, errMoving)
			}
		}
		if errors.Is(err, errMoving) && restarts < maxSteps {
			// The rows at which it stopped may all be delisted since, or stand behind
			// more new ones than a page holds.
			restarts++
			c.prefetch.close()
			if _, _, err := s.head(ctx, r); err != nil {
				return false, err
			}
			tied = false
			c = s.fullScan(r, 0)
			continue
		}
		if opper.OutOfRange(err) && c.next > 0 {
			s.tooDeep(c.next, err)
			break
		}
		if err != nil {
			return false, err
		}
		tied = tied || ties
		s.note(c.total)
		if ties {
			s.takeScanned(run)
		}
		s.trend.addAll(run.Rows)
		if !yield(Part{Events: s.ev, Read: s.ledger.Listed(), Total: c.total}) {
			return false, errAborted
		}
		s.ev.Clear()
		reached = run.AtEnd
		release(run)
	}
	if reached {
		s.known.Refused = 0
	}
	s.detectOrder()
	s.pause(s.cfg.Now().Sub(began))
	return reached, nil
}

// isOurs reports whether a run that shares only rows without an id with what is
// known is of the same list. One without any other row is taken to be: nothing in
// it could tell.
func (s *Syncer) isOurs(ctx context.Context, r *reader, run ledger.Run) (bool, error) {
	if !slices.ContainsFunc(run.Rows, func(row ledger.Row) bool { return row.Kind == ledger.Normal }) {
		return true, nil
	}
	ev := evidence{syncer: s, reader: r, runs: []ledger.Run{run}}
	if err := ev.ask(ctx); err != nil {
		return false, err
	}
	return ev.areOurs(ctx)
}

// fullScan returns a cursor that reads the whole list from a row on.
func (s *Syncer) fullScan(r *reader, from int) *cursor {
	c := newCursor(r, s.ledger, from, s.known.Total)
	c.unreadable.retry, c.prefetch.requests = true, s.cfg.Concurrency
	if from > 0 {
		c.stitchTo(s.ledger.IDs(from, from+overlap))
	} else {
		c.overlap = longOverlap
		s.trend, s.sampled = trend{}, true
	}
	return c
}

// pause delays the next full scan, given how long the last one took.
func (s *Syncer) pause(took time.Duration) {
	s.known.NextFullScan = s.cfg.Now().Add(max(s.cfg.Interval, FullScanPause*took))
}

// detectOrder decides from the rows of a full scan where new rows are to be found.
func (s *Syncer) detectOrder() {
	if !s.sampled && !s.ledger.IsInitialSync() {
		return // restarted in the middle: what is known is better than half a sample
	}
	s.known.Sorted, s.known.NewestLast = s.trend.sorted()
	if s.IsUnsorted() && !s.warnedOfOrder {
		s.warnedOfOrder = true
		level.Warn(s.cfg.Logger).Log("msg", "list is not sorted by time, falling back to full scans", "listed", s.ledger.Listed())
	}
}

// tooDeep notes that Opper does not list rows from offset on.
func (s *Syncer) tooDeep(offset int, err error) {
	if s.known.Refused == 0 {
		s.known.Refused = offset
		s.ev.Gaps++
		level.Warn(s.cfg.Logger).Log("msg", "Opper refuses deeper offsets, traces beyond are not counted", "offset", offset, "err", err)
	}
}
