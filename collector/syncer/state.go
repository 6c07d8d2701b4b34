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
func (s *Syncer) State() ([]byte, error) {
	b, err := json.Marshal(state{
		Total: s.total, Surplus: s.surplus, Unexplained: s.unexplained, Refused: s.refused, Expiries: s.expiries,
		Sorted: s.sorted, NewestLast: s.newestLast, TotalUnreliable: s.totalUnreliable, TotalCapped: s.totalCapped, FullScanWanted: s.fullScanWanted,
		NextFullScan: s.nextFullScan, LastFullScan: s.lastFullScan, LastSuccess: s.lastSuccess, Newest: s.span.newest,
		OldestAge: s.span.age, Retention: s.retention, Sweep: s.sweep,
	})
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	return b, nil
}

// Restore takes in what State returned. The ledger must be the one that was stored
// with it. If the clock has been set back meanwhile, no wait is longer than it was.
func (s *Syncer) Restore(b []byte) error {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return fmt.Errorf("syncer: %w", err)
	}
	s.total, s.surplus, s.unexplained, s.refused, s.expiries = st.Total, st.Surplus, st.Unexplained, st.Refused, st.Expiries
	s.sorted, s.newestLast, s.totalUnreliable, s.totalCapped, s.fullScanWanted = st.Sorted, st.NewestLast, st.TotalUnreliable, st.TotalCapped, st.FullScanWanted
	s.nextFullScan, s.lastFullScan, s.lastSuccess = st.NextFullScan, st.LastFullScan, st.LastSuccess
	s.span, s.retention, s.sweep = span{st.Newest, st.OldestAge}, st.Retention, st.Sweep
	if s.ledger.HasUnreadable() {
		s.retryAt = s.cfg.Now()
	}
	if now := s.cfg.Now(); s.lastSuccess.After(now) {
		s.nextFullScan, s.lastFullScan = time.Time{}, time.Time{}
	}
	return nil
}
