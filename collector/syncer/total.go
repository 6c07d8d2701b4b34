package syncer

import (
	"context"

	"github.com/go-kit/log/level"
)

// balance compares what is believed to be listed with what Opper says. A
// surplus that lasts for two syncs was inserted behind the head.
func (s *Syncer) balance(ctx context.Context, r *reader, whole bool, headEnd int) error {
	if whole {
		s.known.FullScanWanted = false
	}
	if s.minTotal < 0 {
		if !s.warnedOfTotal {
			s.warnedOfTotal = true
			level.Warn(s.cfg.Logger).Log("msg", "total_count is missing, only sweeps find out-of-order traces")
		}
		return nil
	}
	if s.known.Refused > 0 {
		return nil
	}
	before := s.known.Surplus
	s.known.Surplus = s.minTotal - s.ledger.Listed()
	switch {
	case whole && s.known.Surplus <= 0:
		s.known.Unexplained, s.known.TotalUnreliable = 0, false
	case whole:
		s.known.Unexplained++
		s.known.FullScanWanted = s.known.Unexplained == 1
		if s.known.Unexplained == 2 {
			s.known.TotalUnreliable = true
			s.ev.Gaps++
			level.Warn(s.cfg.Logger).Log("msg", "two full scans read fewer rows than total_count", "listed", s.ledger.Listed(), "total_count", s.minTotal)
		}
	case !s.known.TotalUnreliable && !s.known.FullScanWanted && min(before, s.known.Surplus) > 0:
		return s.searchInserted(ctx, r, headEnd)
	}
	return nil
}

// searchInserted reads some more pages at the end where new rows are. If they do not
// explain the surplus, a full scan has to.
func (s *Syncer) searchInserted(ctx context.Context, r *reader, headEnd int) error {
	at := headEnd
	if s.known.NewestLast {
		at = max(s.ledger.Listed()-maxSearch*(maxLimit-overlap), 0)
	}
	c := newCursor(r, s.ledger, at, s.known.Total)
	for range maxSearch {
		run, err := c.page(ctx)
		if err != nil {
			return err
		}
		s.observe(run)
		s.known.Surplus = s.minTotal - s.ledger.Listed()
		if s.known.Surplus <= 0 || run.AtEnd {
			break
		}
	}
	s.known.FullScanWanted = s.known.Surplus > 0
	return nil
}

func (s *Syncer) note(total int) {
	s.known.Total = total
	if total >= 0 && (s.minTotal < 0 || total < s.minTotal) {
		s.minTotal = total
	}
}
