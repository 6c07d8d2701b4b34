package syncer

import (
	"context"

	"github.com/go-kit/log/level"
)

// balance compares what is believed to be listed with what Opper says. A
// surplus that lasts for two syncs was inserted behind the head.
func (w *Syncer) balance(ctx context.Context, r *reader, whole bool, headEnd int) error {
	if whole {
		w.fullScanWanted = false
	}
	if w.least < 0 {
		if w.warnOnce(noTotal) {
			level.Warn(w.cfg.Logger).Log("msg", "total_count is missing, only sweeps find out-of-order traces")
		}
		return nil
	}
	if w.refused > 0 {
		return nil
	}
	before := w.surplus
	w.surplus = w.least - w.ledger.Listed()
	switch {
	case whole && w.surplus <= 0:
		w.unexplained, w.totalUnreliable = 0, false
	case whole:
		w.unexplained++
		w.fullScanWanted = w.unexplained == 1
		if w.unexplained == 2 {
			w.totalUnreliable = true
			w.ev.Gaps++
			level.Warn(w.cfg.Logger).Log("msg", "two full scans read fewer rows than total_count", "listed", w.ledger.Listed(), "total_count", w.least)
		}
	case !w.totalUnreliable && !w.fullScanWanted && min(before, w.surplus) > 0:
		return w.searchInserted(ctx, r, headEnd)
	}
	return nil
}

// searchInserted reads some more pages at the end where new rows are. If they do not
// explain the surplus, a full scan has to.
func (w *Syncer) searchInserted(ctx context.Context, r *reader, headEnd int) error {
	at := headEnd
	if w.newestLast {
		at = max(w.ledger.Listed()-maxSearch*(maxLimit-overlap), 0)
	}
	c := newCursor(r, w.ledger, at, w.total)
	for range maxSearch {
		run, err := c.page(ctx)
		if err != nil {
			return err
		}
		w.observe(run)
		w.surplus = w.least - w.ledger.Listed()
		if w.surplus <= 0 || run.AtEnd {
			break
		}
	}
	w.fullScanWanted = w.surplus > 0
	return nil
}

func (w *Syncer) note(total int) {
	w.total = total
	if total >= 0 && (w.least < 0 || total < w.least) {
		w.least = total
	}
}
