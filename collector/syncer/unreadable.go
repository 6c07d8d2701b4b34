package syncer

import (
	"context"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// Rows that could not be read are read again soon, because Opper may only have
// had trouble, and then ever more rarely.
const (
	minRetry     = 15 * time.Second
	maxRetry     = time.Hour
	maxStretches = 10 // read again at a time
)

func (w *Syncer) retryDue() bool {
	return !w.retryAt.IsZero() && !w.cfg.Now().Before(w.retryAt)
}

// scheduleRetry sets when unreadable rows are read again.
func (w *Syncer) scheduleRetry() {
	w.retryWait = min(max(2*w.retryWait, minRetry, w.cfg.Interval), maxRetry)
	w.retryAt = w.cfg.Now().Add(w.retryWait)
}

// retryUnreadable reads rows that could not be read before. That they may have
// been missed stays counted as a gap. An error is for the service: it says nothing
// about the rows, which stay due.
func (w *Syncer) retryUnreadable(ctx context.Context, r *reader) error {
	stretches := w.ledger.Unreadable()
	before := unreadable(stretches)
	if before == 0 {
		w.retryAt = time.Time{}
		return nil
	}
	for range min(len(stretches), maxStretches) {
		s := stretches[w.retried%len(stretches)]
		w.retried++
		// One request tells whether the rows around it are worth reading, too.
		_, err := r.list(ctx, s.Index, 1)
		if opper.Unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		c := newCursor(r, w.ledger, s.Index-overlap, w.total)
		c.unreadable.retry = true
		c.size = min(s.Rows+2*overlap, maxLimit)
		for read := 0; read < s.Rows+overlap; {
			run, err := c.page(ctx)
			if err != nil {
				return err
			}
			w.observe(run)
			read += len(run.Rows) - overlap
			if run.AtEnd || len(run.Rows) <= overlap {
				break
			}
		}
	}
	w.scheduleRetry()
	if read := before - unreadable(w.ledger.Unreadable()); read > 0 {
		level.Info(w.cfg.Logger).Log("msg", "unreadable rows read", "rows", read)
	}
	return nil
}

func unreadable(stretches []ledger.Stretch) (rows int) {
	for _, s := range stretches {
		rows += s.Rows
	}
	return rows
}
