package walk

import (
	"encoding/json"
	"fmt"
	"time"
)

// state is what a Walker remembers, in a form that can be stored.
type state struct {
	Total      int             `json:"total"`
	Sorted     bool            `json:"sorted"`
	NewestLast bool            `json:"newest_last"`
	Surplus    int             `json:"surplus"`
	Puzzles    int             `json:"puzzles"`
	Distrust   bool            `json:"distrust"`
	Low        bool            `json:"low"`
	WantFull   bool            `json:"want_full"`
	NextFull   time.Time       `json:"next_full"`
	FullFrom   time.Time       `json:"full_from"`
	FullAt     time.Time       `json:"full_at"`
	Sweep      *sweep          `json:"sweep,omitempty"`
	Told       map[string]bool `json:"told"`
	LastGood   time.Time       `json:"last_good"`
	Oldest     time.Time       `json:"oldest"`
	Newest     time.Time       `json:"newest"`
}

// State returns what the Walker remembers of the list, to be stored.
func (w *Walker) State() ([]byte, error) {
	b, err := json.Marshal(state{
		w.total, w.sorted, w.newestLast, w.surplus, w.puzzles, w.distrust, w.low, w.wantFull,
		w.nextFull, w.fullFrom, w.fullAt, w.sweep, w.told, w.lastGood, w.oldest, w.newest,
	})
	if err != nil {
		return nil, fmt.Errorf("state of the walk: %w", err)
	}
	return b, nil
}

// Restore makes the Walker remember what was stored. Its ledger must be the one
// that was stored with it. No wait is longer than it was, if the clock has been
// set back meanwhile.
func (w *Walker) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("state of the walk: %w", err)
	}
	w.total, w.sorted, w.newestLast, w.surplus, w.puzzles = s.Total, s.Sorted, s.NewestLast, s.Surplus, s.Puzzles
	w.distrust, w.low, w.wantFull = s.Distrust, s.Low, s.WantFull
	w.nextFull, w.fullFrom, w.fullAt, w.sweep = s.NextFull, s.FullFrom, s.FullAt, s.Sweep
	w.lastGood, w.oldest, w.newest = s.LastGood, s.Oldest, s.Newest
	for what := range s.Told {
		w.told[what] = true
	}
	if now := w.cfg.Now(); w.lastGood.After(now) {
		w.nextFull, w.fullFrom, w.fullAt = time.Time{}, time.Time{}, time.Time{}
	}
	return nil
}
