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

// sweep is a full scan in the background, a page between two syncs. It finds rows
// that were inserted behind the head.
type sweep struct {
	Began time.Time     `json:"began"`
	Took  time.Duration `json:"took"` // in reading
	Last  []ledger.ID   `json:"last"` // the last rows that it read; the next page has to share one
	Done  bool          `json:"done"` // the end was reached; a head read after it completes the sweep
}

// IsSweepDue reports whether a page of a sweep may be read now.
func (s *Syncer) IsSweepDue() bool {
	if s.ledger.IsInitialSync() {
		return false
	}
	if s.retryDue() {
		return true
	}
	if s.known.Sweep != nil {
		return !s.known.Sweep.Done
	}
	now := s.cfg.Now()
	due := s.known.FullScanWanted || s.IsUnsorted() || (s.cfg.SweepInterval > 0 && now.Sub(s.known.LastFullScan) >= s.cfg.SweepInterval)
	return due && !now.Before(s.known.NextFullScan)
}

// IsUnsorted reports whether new rows may be anywhere in the list, so that only
// sweeps find them.
func (s *Syncer) IsUnsorted() bool { return !s.known.Sorted && s.ledger.Listed() > maxLimit }

// Sweep reads the next page of a sweep, and begins one if none is under way.
// The events are those since the last call, also if there is an error.
func (s *Syncer) Sweep(ctx context.Context, src Source) (ledger.Events, error) {
	s.ev = ledger.Events{}
	r := s.newReader(src)
	if s.retryDue() {
		err := s.retryUnreadable(ctx, r)
		return s.ev, err
	}
	began := s.cfg.Now()
	if s.known.Sweep == nil {
		s.known.Sweep = &sweep{Began: began}
		s.trend, s.sampled = trend{}, true
	}
	defer func(current *sweep) { current.Took += s.cfg.Now().Sub(began) }(s.known.Sweep)
	c := newCursor(r, s.ledger, 0, s.known.Total)
	c.unreadable.retry = true
	for _, id := range s.known.Sweep.Last {
		if i := s.ledger.Index(id); i >= 0 {
			c.next, c.last.end = max(i+1-overlap, 0), i+1
			c.last.offset = max(c.next-maxLimit, 0)
		}
	}
	if len(s.known.Sweep.Last) > 0 {
		c.stitchTo(slices.Clone(s.known.Sweep.Last))
	}
	// Close to rows that can't be read, pages are small: a new start after each
	// would fall back behind them again and again.
	for more := true; more; more = !s.known.Sweep.Done && c.size < maxLimit {
		run, err := c.page(ctx)
		switch {
		case opper.OutOfRange(err) && c.next > 0:
			s.tooDeep(c.next, err)
			s.pause(s.known.Sweep.Took)
			s.known.Sweep, s.known.LastFullScan = nil, s.cfg.Now()
			return s.ev, nil
		case errors.Is(err, errMoving):
			level.Warn(s.cfg.Logger).Log("msg", "sweep interrupted", "restarts", true, "offset", c.next, "err", err)
			s.pause(s.known.Sweep.Took)
			s.known.Sweep = nil
			return s.ev, nil
		case err != nil:
			return s.ev, fmt.Errorf("sweep: %w", err)
		}
		if !s.ties(run.Rows) {
			// A burst may have arrived: the next sync finds out.
			return s.ev, fmt.Errorf("sweep: no row is known at offset %d", c.last.end-len(run.Rows))
		}
		s.take(run)
		s.trend.addAll(run.Rows)
		s.known.Sweep.Last = s.known.Sweep.Last[:0]
		for _, row := range run.Rows[max(len(run.Rows)-overlap, 0):] {
			if row.Kind != ledger.Unreadable {
				s.known.Sweep.Last = append(s.known.Sweep.Last, row.ID)
			}
		}
		if run.AtEnd {
			s.known.Sweep.Done, s.known.Refused = true, 0
			s.detectOrder()
			s.pause(s.known.Sweep.Took + s.cfg.Now().Sub(began))
		}
	}
	return s.ev, nil
}
