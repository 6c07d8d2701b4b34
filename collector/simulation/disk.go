package simulation

import (
	"errors"
	"slices"

	"opper_exporter/collector/ledger"
)

// disk is the store as the project sees it: it can be full, and the program can
// be killed before and after a commit.
type disk struct{ *simulation }

var errFull = errors.New("no space left on device")

func (d disk) Load(project string, visit func(string, []byte) error) (bool, error) {
	return d.inner.Load(project, visit)
}

func (d disk) Projects() ([]string, error) { return d.inner.Projects() }

func (d disk) Commit(project string, changes map[string][]byte, fresh bool) error {
	d.point()
	refused := d.full > 0
	d.committed = !refused
	if refused {
		d.full--
		// What could not be synced may be on the disk all the same.
		if d.pick(3) > 0 {
			d.tell("the disk is full")
			return errFull
		}
	}
	if err := d.inner.Commit(project, changes, fresh); err != nil {
		return err
	}
	d.tell("commit, refused: %v", refused)
	if refused {
		// The sync is not published, so the truth does not know when it looked.
		for _, c := range d.counting.Counted {
			d.denied[versionOf(c).ID] = true
		}
	}
	// A start commits only what was durable before.
	d.lasts(d.project != nil && !d.project.Ledger().IsInitialSync())
	d.point()
	if refused {
		return errFull
	}
	return nil
}

// lasts notes that all that was counted so far is durable.
func (s *simulation) lasts(initialSyncDone bool) {
	s.sweepLasts, s.savedAt = s.sweepBegan, s.at
	if was := s.stored; was.DurationBuckets != nil {
		s.beginHistograms(!slices.Equal(was.DurationBuckets, s.running.DurationBuckets), !slices.Equal(was.TokenBuckets, s.running.TokenBuckets))
	}
	s.stored = s.running
	for _, z := range s.zero {
		z.hasEnded = z.hasEnded || z.read || s.at.Sub(z.since) >= longestZero || s.clockSet.After(z.since)
	}
	if initialSyncDone && s.lasted.IsZero() {
		s.lasted = s.at
		if !s.ended.IsZero() {
			s.lasted = s.ended
		}
	}
	for _, c := range s.counting.Counted {
		v := versionOf(c)
		if s.checked[v.ID] {
			s.fail("trace %s is counted twice", v.ID)
		}
		s.checked[v.ID] = true
		s.tell("counted: %+v", v)
		s.durable = append(s.durable, v)
		s.total(v)
	}
	s.totals["opper_exporter_gaps_total{}"] += s.counting.Gaps
	s.totals["opper_exporter_traces_skipped_total{no_id}"] += s.counting.NoID
	s.totals["opper_exporter_traces_skipped_total{vanished_open}"] += uint64(len(s.counting.Vanished))
	s.totals["opper_exporter_late_ends_total{}"] += uint64(len(s.counting.LateEnds))
	for _, r := range s.counting.LateEnds {
		s.lateEnds[versionOf(ledger.Counted{Row: r}).ID] = true
	}
	s.counting = ledger.Events{}
	s.usesLast()
}
