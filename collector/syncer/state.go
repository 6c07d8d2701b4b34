package syncer

import (
	"encoding/json"
	"fmt"
	"time"
)

// state is what a Syncer remembers, in a form that can be stored.
type state struct {
	Total           int       `json:"total"`
	Sorted          bool      `json:"sorted"`
	NewestLast      bool      `json:"newest_last"`
	Surplus         int       `json:"surplus"`
	Unexplained     int       `json:"unexplained"`
	TotalUnreliable bool      `json:"totalUnreliable"`
	Low             bool      `json:"low"`
	FullScanWanted  bool      `json:"want_full"`
	NextFullScan    time.Time `json:"next_full"`
	LastFullScan    time.Time `json:"full_at"`
	Sweep           *sweep    `json:"sweep,omitempty"`
	Refused         int       `json:"refused"`
	LastSuccess     time.Time `json:"last_good"`
	Newest          time.Time `json:"newest"`

	OldestAge time.Duration `json:"oldest_age"`
	Retention time.Duration `json:"retention"`
	Expiries  int           `json:"expiries"`
}

// State returns what the Syncer remembers of the list, to be stored.
func (w *Syncer) State() ([]byte, error) {
	b, err := json.Marshal(state{
		Total: w.total, Sorted: w.sorted, NewestLast: w.newestLast,
		Surplus: w.surplus, Unexplained: w.unexplained, TotalUnreliable: w.totalUnreliable, Low: w.totalCapped, Refused: w.refused,
		FullScanWanted: w.fullScanWanted, NextFullScan: w.nextFullScan, LastFullScan: w.lastFullScan, Sweep: w.sweep,
		LastSuccess: w.lastSuccess, Newest: w.span.newest, OldestAge: w.span.age, Retention: w.retention, Expiries: w.expiries,
	})
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	return b, nil
}

// Restore makes the Syncer remember what was stored. Its ledger must be the one
// that was stored with it. No wait is longer than it was, if the clock has been
// set back meanwhile.
func (w *Syncer) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("syncer: %w", err)
	}
	w.total, w.sorted, w.newestLast = s.Total, s.Sorted, s.NewestLast
	w.surplus, w.unexplained, w.totalUnreliable, w.totalCapped, w.refused = s.Surplus, s.Unexplained, s.TotalUnreliable, s.Low, s.Refused
	w.fullScanWanted, w.nextFullScan, w.lastFullScan, w.sweep = s.FullScanWanted, s.NextFullScan, s.LastFullScan, s.Sweep
	w.lastSuccess, w.span, w.retention, w.expiries = s.LastSuccess, span{s.Newest, s.OldestAge}, s.Retention, s.Expiries
	if w.ledger.HasUnreadable() {
		w.retryAt = w.cfg.Now()
	}
	if now := w.cfg.Now(); w.lastSuccess.After(now) {
		w.nextFullScan, w.lastFullScan = time.Time{}, time.Time{}
	}
	return nil
}
