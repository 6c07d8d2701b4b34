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
func (w *Syncer) initialSync(ctx context.Context, r *reader, yield func(Part) bool) (bool, error) {
	began := w.cfg.Now()
	c := w.fullScan(r, max(w.ledger.Listed()-overlap, 0))
	defer func() { c.prefetch.close() }()
	reached, tied := false, false // a start of unreadable rows may tie only further on
	for restarts := 0; !reached; {
		run, err := c.page(ctx)
		ties := w.ties(run.Rows)
		if err == nil && tied && !ties {
			ties, err = w.isOurs(ctx, r, run)
			if err == nil && !ties {
				err = fmt.Errorf("initial sync: no row is known before offset %d: %w", c.last.end, errMoving)
			}
		}
		if errors.Is(err, errMoving) && restarts < maxSteps {
			// The rows at which it stopped may all have left since, or stand behind
			// more new ones than a page holds.
			restarts++
			c.prefetch.close()
			if _, _, err := w.head(ctx, r); err != nil {
				return false, err
			}
			tied = false
			c = w.fullScan(r, 0)
			continue
		}
		if opper.OutOfRange(err) && c.next > 0 {
			w.tooDeep(c.next, err)
			break
		}
		if err != nil {
			return false, err
		}
		tied = tied || ties
		w.note(c.total)
		if ties {
			w.takeScanned(run)
		}
		w.trend.addAll(run.Rows)
		if !yield(Part{Events: w.ev, Read: w.ledger.Listed(), Total: c.total}) {
			return false, errAborted
		}
		w.ev.Clear()
		reached = run.AtEnd
		release(run)
	}
	if reached {
		w.refused = 0
	}
	w.detectOrder()
	w.pause(w.cfg.Now().Sub(began))
	return reached, nil
}

// isOurs reports whether a run that shares only rows without an id with what is
// known is of the same list. One without any other row is taken to be: nothing in
// it could tell.
func (w *Syncer) isOurs(ctx context.Context, r *reader, run ledger.Run) (bool, error) {
	if !slices.ContainsFunc(run.Rows, func(row ledger.Row) bool { return row.Kind == ledger.Normal }) {
		return true, nil
	}
	ev := evidence{syncer: w, reader: r, runs: []ledger.Run{run}}
	if err := ev.ask(ctx); err != nil {
		return false, err
	}
	return ev.areOurs(ctx)
}

// fullScan returns a cursor that reads the whole list from a row on.
func (w *Syncer) fullScan(r *reader, from int) *cursor {
	c := newCursor(r, w.ledger, from, w.total)
	c.unreadable.retry, c.prefetch.requests = true, w.cfg.Concurrency
	if from > 0 {
		c.stitchTo(w.ledger.IDs(from, from+overlap))
	} else {
		c.overlap = longOverlap
		w.trend, w.sampled = trend{}, true
	}
	return c
}

// pause delays the next full scan after one that took so long.
func (w *Syncer) pause(took time.Duration) {
	w.nextFullScan = w.cfg.Now().Add(max(w.cfg.Interval, fullPause*took))
}

// detectOrder decides from the rows of a full scan where new rows are to be found.
func (w *Syncer) detectOrder() {
	if !w.sampled && !w.ledger.IsInitialSync() {
		return // after a restart in the middle: what was known says more than half a sample
	}
	w.sorted, w.newestLast = w.trend.sorted()
	if w.IsUnsorted() && w.warnOnce(noOrder) {
		level.Warn(w.cfg.Logger).Log("msg", "list is not sorted by time, falling back to full scans", "listed", w.ledger.Listed())
	}
}

// tooDeep notes that Opper does not list rows from offset on.
func (w *Syncer) tooDeep(offset int, err error) {
	if w.refused == 0 {
		w.refused = offset
		w.ev.Gaps++
		level.Warn(w.cfg.Logger).Log("msg", "Opper refuses deeper offsets, traces beyond are not counted", "offset", offset, "err", err)
	}
}
