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

func (s *Syncer) retryDue() bool {
	return !s.retryAt.IsZero() && !s.cfg.Now().Before(s.retryAt)
}

// scheduleRetry sets when unreadable rows are read again.
func (s *Syncer) scheduleRetry() {
	s.retryWait = min(max(2*s.retryWait, minRetry, s.cfg.Interval), maxRetry)
	s.retryAt = s.cfg.Now().Add(s.retryWait)
}

// retryUnreadable reads rows that could not be read before. That they may have
// been missed stays counted as a gap. An error is for the service: it says nothing
// about the rows, which stay due.
func (s *Syncer) retryUnreadable(ctx context.Context, r *reader) error {
	stretches := s.ledger.Unreadable()
	before := unreadable(stretches)
	if before == 0 {
		s.retryAt = time.Time{}
		return nil
	}
	for range min(len(stretches), maxStretches) {
		stretch := stretches[s.retried%len(stretches)]
		s.retried++
		at, err := s.find(ctx, r, stretch.Index)
		if opper.Unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		c := newCursor(r, s.ledger, at-overlap, s.known.Total)
		c.unreadable.retry = true
		c.size = min(stretch.Rows+2*overlap, maxLimit)
		for read := 0; read < stretch.Rows+overlap; {
			run, err := c.page(ctx)
			if err != nil {
				return err
			}
			s.observe(run)
			read += len(run.Rows) - overlap
			if run.AtEnd || len(run.Rows) <= overlap {
				break
			}
		}
	}
	s.scheduleRetry()
	if read := before - unreadable(s.ledger.Unreadable()); read > 0 {
		level.Info(s.cfg.Logger).Log("msg", "unreadable rows read", "rows", read)
	}
	return nil
}

// find returns the offset of the row that is believed to be at an index. Rows before it may
// have been delisted without our knowing. Its first request also tells whether the rows
// around it can be read.
func (s *Syncer) find(ctx context.Context, r *reader, index int) (at int, err error) {
	at = index
	for range maxSteps {
		p, err := r.list(ctx, at, 1)
		if err != nil {
			return 0, err
		}
		switch {
		case len(p.rows) == 0 && 0 < p.total && p.total <= at: // the list ends before it
			at = p.total - 1
			continue
		case len(p.rows) == 0:
			at /= 2
			continue
		}
		i := s.ledger.Index(p.rows[0].ID)
		if i < 0 || i == index || i-index > at {
			break
		}
		at -= i - index
	}
	return at, nil
}

func unreadable(stretches []ledger.Stretch) (rows int) {
	for _, s := range stretches {
		rows += s.Rows
	}
	return rows
}
