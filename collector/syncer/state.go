package syncer

import (
	"encoding/json"
	"fmt"
	"time"
)

// state is what a Syncer knows of the list, in the form in which it is stored.
type state struct {
	Total, Surplus, Unexplained, Refused, Expiries                   int
	Sorted, NewestLast, TotalUnreliable, TotalCapped, FullScanWanted bool
	NextFullScan, LastFullScan, LastSuccess, Newest                  time.Time
	OldestAge, Retention                                             time.Duration
	Sweep                                                            *sweep
}

// State returns what the Syncer knows of the list, to be stored.
func (w *Syncer) State() ([]byte, error) {
	b, err := json.Marshal(state{
		Total: w.total, Surplus: w.surplus, Unexplained: w.unexplained, Refused: w.refused, Expiries: w.expiries,
		Sorted: w.sorted, NewestLast: w.newestLast, TotalUnreliable: w.totalUnreliable, TotalCapped: w.totalCapped, FullScanWanted: w.fullScanWanted,
		NextFullScan: w.nextFullScan, LastFullScan: w.lastFullScan, LastSuccess: w.lastSuccess, Newest: w.span.newest,
		OldestAge: w.span.age, Retention: w.retention, Sweep: w.sweep,
	})
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	return b, nil
}

// Restore takes in what State returned. The ledger must be the one that was stored
// with it. If the clock has been set back meanwhile, no wait is longer than it was.
func (w *Syncer) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("syncer: %w", err)
	}
	w.total, w.surplus, w.unexplained, w.refused, w.expiries = s.Total, s.Surplus, s.Unexplained, s.Refused, s.Expiries
	w.sorted, w.newestLast, w.totalUnreliable, w.totalCapped, w.fullScanWanted = s.Sorted, s.NewestLast, s.TotalUnreliable, s.TotalCapped, s.FullScanWanted
	w.nextFullScan, w.lastFullScan, w.lastSuccess = s.NextFullScan, s.LastFullScan, s.LastSuccess
	w.span, w.retention, w.sweep = span{s.Newest, s.OldestAge}, s.Retention, s.Sweep
	if w.ledger.HasUnreadable() {
		w.retryAt = w.cfg.Now()
	}
	if now := w.cfg.Now(); w.lastSuccess.After(now) {
		w.nextFullScan, w.lastFullScan = time.Time{}, time.Time{}
	}
	return nil
}
