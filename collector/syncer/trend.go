package syncer

import (
	"math"
	"time"

	"opper_exporter/collector/ledger"
)

// A list that is sorted by time has its new rows at one end and its expiry at the
// other, and reading both ends is enough. Whether it is such a list must show
// in the rows: nothing documents it.
const (
	minTrend  = 0.6 // Kendall's tau; a list in another order gives about 0
	MinSample = 8   // from so many rows on, it tells something
	maxSample = 512
)

// Order reports whether rows that began at these times, in the order of the list,
// are sorted by time, and which way.
func Order(starts []time.Time) (sorted, newestLast bool) {
	var t trend
	for _, start := range starts {
		t.add(start)
	}
	return t.sorted()
}

// trend samples the start times of a list evenly.
type trend struct {
	every, skip int     // rows left out between two samples, and before the next
	starts      []int64 // microseconds: each project keeps them
}

func (s *trend) add(start time.Time) {
	if start.IsZero() {
		return
	}
	if s.skip > 0 {
		s.skip--
		return
	}
	if len(s.starts) == maxSample {
		for i := range maxSample / 2 {
			s.starts[i] = s.starts[2*i]
		}
		s.starts = s.starts[:maxSample/2]
		s.every = 2*s.every + 1
	}
	s.starts = append(s.starts, start.UnixMicro())
	s.skip = s.every
}

func (s *trend) addAll(rows []ledger.Row) {
	for _, row := range rows {
		s.add(row.Start)
	}
}

// tau returns how far the rows rise (1) or fall (-1) in time.
func (s *trend) tau() float64 {
	var up, down float64
	for i, a := range s.starts {
		for _, b := range s.starts[i+1:] {
			switch {
			case a < b:
				up++
			case a > b:
				down++
			}
		}
	}
	if len(s.starts) < MinSample || up+down == 0 {
		return 0
	}
	return (up - down) / (up + down)
}

// sorted reports whether the rows are sorted by time, and newestLast which way.
func (s *trend) sorted() (sorted, newestLast bool) {
	tau := s.tau()
	return math.Abs(tau) >= minTrend, tau > 0
}

// detectOrderOf decides from all rows of a short list whether it is sorted, as soon
// as they are enough to tell.
func (s *Syncer) detectOrderOf(rows []ledger.Row) {
	var t trend
	t.addAll(rows)
	if len(t.starts) >= MinSample {
		s.known.Sorted, s.known.NewestLast = t.sorted()
	}
}
