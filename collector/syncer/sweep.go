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
func (w *Syncer) IsSweepDue() bool {
	if w.ledger.IsInitialSync() {
		return false
	}
	if w.retryDue() {
		return true
	}
	if w.sweep != nil {
		return !w.sweep.Done
	}
	now := w.cfg.Now()
	due := w.fullScanWanted || w.IsUnsorted() || (w.cfg.SweepInterval > 0 && now.Sub(w.lastFullScan) >= w.cfg.SweepInterval)
	return due && !now.Before(w.nextFullScan)
}

// IsUnsorted reports whether new rows may be anywhere in the list, so that only
// sweeps find them.
func (w *Syncer) IsUnsorted() bool { return !w.sorted && w.ledger.Listed() > maxLimit }

// Sweep reads the next page of a sweep, and begins one if none is under way.
// The events are those since the last call, also if there is an error.
func (w *Syncer) Sweep(ctx context.Context, src Source) (ledger.Events, error) {
	w.ev = ledger.Events{}
	r := w.newReader(src)
	if w.retryDue() {
		err := w.retryUnreadable(ctx, r)
		return w.ev, err
	}
	began := w.cfg.Now()
	if w.sweep == nil {
		w.sweep = &sweep{Began: began}
		w.trend, w.sampled = trend{}, true
	}
	defer func(s *sweep) { s.Took += w.cfg.Now().Sub(began) }(w.sweep)
	c := newCursor(r, w.ledger, 0, w.total)
	c.unreadable.retry = true
	for _, id := range w.sweep.Last {
		if i := w.ledger.Index(id); i >= 0 {
			c.next, c.last.end = max(i+1-overlap, 0), i+1
			c.last.offset = max(c.next-maxLimit, 0)
		}
	}
	if len(w.sweep.Last) > 0 {
		c.stitchTo(slices.Clone(w.sweep.Last))
	}
	// Close to rows that can't be read, pages are small: a new start after each
	// would fall back behind them again and again.
	for more := true; more; more = !w.sweep.Done && c.size < maxLimit {
		run, err := c.page(ctx)
		switch {
		case opper.OutOfRange(err) && c.next > 0:
			w.tooDeep(c.next, err)
			w.pause(w.sweep.Took)
			w.sweep, w.lastFullScan = nil, w.cfg.Now()
			return w.ev, nil
		case errors.Is(err, errMoving):
			level.Warn(w.cfg.Logger).Log("msg", "sweep aborted, another one follows", "offset", c.next, "err", err)
			w.pause(w.sweep.Took)
			w.sweep = nil
			return w.ev, nil
		case err != nil:
			return w.ev, fmt.Errorf("sweep: %w", err)
		}
		if !w.ties(run.Rows) {
			// A burst may have arrived: the next sync finds out.
			return w.ev, fmt.Errorf("sweep: no row is known at offset %d", c.last.end-len(run.Rows))
		}
		w.take(run)
		w.trend.addAll(run.Rows)
		w.sweep.Last = w.sweep.Last[:0]
		for _, row := range run.Rows[max(len(run.Rows)-overlap, 0):] {
			if row.Kind != ledger.Unreadable {
				w.sweep.Last = append(w.sweep.Last, row.ID)
			}
		}
		if run.AtEnd {
			w.sweep.Done, w.refused = true, 0
			w.detectOrder()
			w.pause(w.sweep.Took + w.cfg.Now().Sub(began))
		}
	}
	return w.ev, nil
}
