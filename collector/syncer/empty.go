package syncer

import (
	"context"
	"time"

	"opper_exporter/collector/ledger"
)

// Trouble at Opper can empty a list. That it is empty is doubted for minEmpty and
// minEmptyIntervals, and for maxEmpty while Opper has a trace that was listed.
const (
	minEmpty          = time.Minute
	minEmptyIntervals = 3
	maxEmpty          = time.Hour
)

// checkEmpty returns errEmpty while it is in doubt that nothing is listed any more.
func (e *evidence) checkEmpty(ctx context.Context) error {
	s, now := e.syncer, e.runs[0].Read
	// A retention that is only guessed explains it after any pause of hours.
	isKnown := s.known.Expiries >= minExpiries || now.Sub(s.known.LastSuccess) >= ledger.MaxAge
	if !s.known.LastSuccess.IsZero() && isKnown && e.mayHaveExpired() {
		return nil
	}
	if s.emptySince.IsZero() {
		s.emptySince = now
	}
	switch lasts := now.Sub(s.emptySince); {
	case lasts < max(minEmptyIntervals*s.cfg.Interval, minEmpty):
		return errEmpty
	case lasts >= maxEmpty:
		return nil
	}
	err := e.ask(ctx)
	if err == nil && e.found == present {
		err = errEmpty
	}
	return err
}
