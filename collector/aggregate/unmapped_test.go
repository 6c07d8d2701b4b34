package aggregate

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

// withStatus returns the event that traces with these statuses are counted.
func withStatus(statuses ...string) ledger.Events {
	var rows []ledger.Row
	for _, status := range statuses {
		r := row("a")
		r.Status = status
		rows = append(rows, r)
	}
	return counted(rows...)
}

// exposedStatuses returns what is exposed of each status that maps to no outcome.
func exposedStatuses(s *Set) map[string]uint64 {
	out := map[string]uint64{}
	for _, u := range s.Unmapped() {
		out[u.Label] = u.Exposed()
	}
	return out
}

// endZeros takes in that all zeros have been read.
func endZeros(s *Set) {
	for _, p := range s.ZeroPending() {
		p.EndZero()
	}
}

// restored returns the set as it is after a restart.
func restored(t *testing.T, cfg Config, s *Set) *Set {
	t.Helper()
	stored := map[string][]byte{}
	save(s, stored)
	s, err := Restore(cfg, stored)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A status names its series in the way in which it is compared, and bounded.
func TestUnmappedStatusLabels(t *testing.T) {
	s := summed(testConfig(), withStatus("Cancelled", "cancelled", " time\x00out\n", "\xff", "", strings.Repeat("é", 17), "success"))
	endZeros(s)
	want := map[string]uint64{"cancelled": 2, "timeout": 1, emptyStatus: 2, strings.Repeat("é", 16): 1}
	if got := exposedStatuses(s); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// There are ten series of statuses and one more, also after a restart.
func TestUnmappedStatusesAreBounded(t *testing.T) {
	cfg := testConfig()
	s := New(cfg, now)
	s.EndInitialSync(now)
	for round := range 2 {
		for i := range 2 * MaxUnmapped {
			s.Apply(withStatus(fmt.Sprint("status ", i+MaxUnmapped*round)), now, now)
		}
		s = restored(t, cfg, s)
	}
	endZeros(s)
	got := exposedStatuses(s)
	if len(got) != MaxUnmapped+1 || got[Other] != 30 || got["status 0"] != 1 {
		t.Errorf("got %v", got)
	}
}

// A status that is new since the initial sync is exposed at 0 until its zero has been read,
// also after a restart; one of the initial sync is history.
func TestUnmappedStatusStartsAtZero(t *testing.T) {
	cfg := testConfig()
	s := New(cfg, now)
	s.Apply(withStatus("cancelled"), now, now)
	s.EndInitialSync(now)
	before := now.Add(time.Hour)
	s.Apply(withStatus("cancelled", "paused"), before, before)
	s = restored(t, cfg, s)
	if got, want := exposedStatuses(s), map[string]uint64{"cancelled": 2, "paused": 0}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if u := s.Unmapped(); !u[0].Created.Equal(now) || !u[1].Created.Equal(before) {
		t.Errorf("created at %v and %v", u[0].Created, u[1].Created)
	}
	endZeros(s)
	if got := exposedStatuses(s)["paused"]; got != 1 {
		t.Errorf("%d after the zero was read", got)
	}
}
