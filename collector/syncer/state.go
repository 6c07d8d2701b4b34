package syncer

import (
	"encoding/json"
	"fmt"
	"time"
)

const stateVersion = 1

// state is what a Syncer remembers, in a form that can be stored.
type state struct {
	Version    int       `json:"version"`
	Total      int       `json:"total"`
	Sorted     bool      `json:"sorted"`
	NewestLast bool      `json:"newest_last"`
	Surplus    int       `json:"surplus"`
	Puzzles    int       `json:"puzzles"`
	Distrust   bool      `json:"distrust"`
	Low        bool      `json:"low"`
	WantFull   bool      `json:"want_full"`
	NextFull   time.Time `json:"next_full"`
	FullAt     time.Time `json:"full_at"`
	Sweep      *sweep    `json:"sweep,omitempty"`
	Refused    int       `json:"refused"`
	LastGood   time.Time `json:"last_good"`
	Newest     time.Time `json:"newest"`

	OldestAge time.Duration `json:"oldest_age"`
	Retention time.Duration `json:"retention"`
	Expiries  int           `json:"expiries"`
}

// State returns what the Syncer remembers of the list, to be stored.
func (w *Syncer) State() ([]byte, error) {
	b, err := json.Marshal(state{
		Version: stateVersion, Total: w.total, Sorted: w.sorted, NewestLast: w.newestLast,
		Surplus: w.surplus, Puzzles: w.puzzles, Distrust: w.distrust, Low: w.low, Refused: w.refused,
		WantFull: w.wantFull, NextFull: w.nextFull, FullAt: w.fullAt, Sweep: w.sweep,
		LastGood: w.lastGood, Newest: w.span.newest, OldestAge: w.span.age, Retention: w.retention, Expiries: w.expiries,
	})
	if err != nil {
		return nil, fmt.Errorf("state of the walk: %w", err)
	}
	return b, nil
}

// Restore makes the Syncer remember what was stored. Its ledger must be the one
// that was stored with it. No wait is longer than it was, if the clock has been
// set back meanwhile.
func (w *Syncer) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("state of the walk: %w", err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("state of the walk: version %d is not known", s.Version)
	}
	w.total, w.sorted, w.newestLast = s.Total, s.Sorted, s.NewestLast
	w.surplus, w.puzzles, w.distrust, w.low, w.refused = s.Surplus, s.Puzzles, s.Distrust, s.Low, s.Refused
	w.wantFull, w.nextFull, w.fullAt, w.sweep = s.WantFull, s.NextFull, s.FullAt, s.Sweep
	w.lastGood, w.span, w.retention, w.expiries = s.LastGood, span{s.Newest, s.OldestAge}, s.Retention, s.Expiries
	if w.led.HasUnreadable() {
		w.retryAt = w.cfg.Now()
	}
	if now := w.cfg.Now(); w.lastGood.After(now) {
		w.nextFull, w.fullAt = time.Time{}, time.Time{}
	}
	return nil
}
