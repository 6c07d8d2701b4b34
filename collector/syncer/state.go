package syncer

import (
	"encoding/json"
	"fmt"
	"time"
)

// state is what a Syncer knows of the list, as it is stored.
type state struct {
	Total       int // the newest meta.total_count, -1 if missing
	Surplus     int // rows listed beyond those believed to be, at the last sync
	Unexplained int // full scans in a row that did not explain it
	Refused     int // the offset from which on Opper refuses to list, 0 if it does not

	Sorted          bool // new rows and expiry are at the ends of the list
	NewestLast      bool
	TotalUnreliable bool // total_count does not agree with what is listed
	TotalCapped     bool // more rows were found than total_count said: it is capped, perhaps

	FullScanWanted bool // a row was inserted where only a full scan finds it
	NextFullScan   time.Time
	LastFullScan   time.Time // end of the last full scan, or of the last try where deep rows are refused
	Unread         []stretch // by bursts; the last one is closest to the start of the list
	Sweep          *sweep    // running, or done and to be completed by a sync; else nil

	LastSuccess time.Time
	Key         string        // see Config, of that sync or, before it, the last one that took in a page
	span                      // of the rows read by the last successful sync
	Retention   time.Duration // age at which rows were last seen to expire
	Expiries    int           // how often they were
}

// span is how old some rows were.
type span struct {
	Newest    time.Time     // latest start; zero if none had one
	OldestAge time.Duration // when the oldest was read
}

// add takes in a row that was read at some time.
func (s *span) add(start, read time.Time) {
	if start.IsZero() {
		return
	}
	if start.After(read) {
		start = read // a client's clock is fast
	}
	if start.After(s.Newest) {
		s.Newest = start
	}
	s.OldestAge = max(s.OldestAge, read.Sub(start))
}

// and returns how old these rows and others were.
func (s span) and(other span) span {
	if other.Newest.After(s.Newest) {
		s.Newest = other.Newest
	}
	s.OldestAge = max(s.OldestAge, other.OldestAge)
	return s
}

// State returns what the Syncer knows of the list, to be stored.
func (s *Syncer) State() ([]byte, error) {
	b, err := json.Marshal(s.known)
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	return b, nil
}

// Restore takes in what State returned. The ledger must be the one that was stored
// with it. If the clock has been set back meanwhile, no wait is longer than it was.
func (s *Syncer) Restore(b []byte) error {
	s.known = state{}
	if err := json.Unmarshal(b, &s.known); err != nil {
		return fmt.Errorf("syncer: %w", err)
	}
	if s.ledger.HasUnreadable() {
		s.retryAt = s.cfg.Now()
	}
	if now := s.cfg.Now(); s.known.LastSuccess.After(now) {
		s.known.NextFullScan, s.known.LastFullScan = time.Time{}, time.Time{}
	}
	return nil
}
