package syncer

import (
	"context"
	"time"
)

// Trouble at Opper can empty a list. That it is empty is doubted for minEmpty and
// minEmptyIntervals, and for maxEmpty while Opper has a trace that was listed.
const (
	minEmpty          = time.Minute
	minEmptyIntervals = 3
	maxEmpty          = time.Hour
)

// checkEmpty returns ErrEmpty while it is in doubt that nothing is listed any more.
func (e *evidence) checkEmpty(ctx context.Context) error {
	s, now := e.syncer, e.runs[0].Read
	if !s.known.LastSuccess.IsZero() && e.mayHaveExpired() {
		return nil
	}
	if s.emptySince.IsZero() {
		s.emptySince = now
	}
	switch lasts := now.Sub(s.emptySince); {
	case lasts < max(minEmptyIntervals*s.cfg.Interval, minEmpty):
		return ErrEmpty
	case lasts >= maxEmpty:
		return nil
	}
	err := e.ask(ctx)
	if err == nil && e.found == present {
		err = ErrEmpty
	}
	return err
}
