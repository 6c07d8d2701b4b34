package collector

import (
	"errors"
	"maps"
	"slices"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
)

// disk is the store as the project sees it: it can be full, and the program can
// be killed before and after a commit.
type disk struct{ *simulation }

var errFull = errors.New("no space left on device")

func (d disk) Load(project string) (store.State, bool, error) { return d.inner.Load(project) }

func (d disk) Commit(project string, changes store.State, fresh bool) error {
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
	d.lasts(!changes.Ledger.InitialSync)
	d.point()
	if refused {
		return errFull
	}
	return nil
}

// lasts notes that all that was counted so far is durable.
func (s *simulation) lasts(baselineDone bool) {
	s.sweepLasts, s.savedAt = s.sweepBegan, s.at
	for _, z := range s.zero {
		z.released = z.released || z.read || s.at.Sub(z.since) >= maxZeroPending || s.clockSet.After(z.since)
	}
	if baselineDone && s.lasted.IsZero() {
		s.lasted = s.at
		if !s.ended.IsZero() {
			s.lasted = s.ended
		}
	}
	for _, c := range s.counting.Counted {
		v := versionOf(c)
		if s.judged[v.ID] {
			s.fail("trace %s is counted twice", v.ID)
		}
		s.judged[v.ID] = true
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
}

// memory is a Store that shares nothing with who uses it.
type memory struct {
	listed, gone map[uint64]ledger.Chunk
	pending      map[ledger.ID]ledger.Pending
	abandoned    map[ledger.ID]bool
	holes        uint64
	baseline     bool
	names, docs  map[string][]byte
	found        bool
}

func newMemory() *memory {
	return &memory{
		listed: map[uint64]ledger.Chunk{}, gone: map[uint64]ledger.Chunk{},
		pending: map[ledger.ID]ledger.Pending{}, abandoned: map[ledger.ID]bool{},
		names: map[string][]byte{}, docs: map[string][]byte{},
	}
}

// clone may share what is never changed: it is replaced as a whole.
func (m *memory) clone() *memory {
	c := *m
	c.listed, c.gone = maps.Clone(m.listed), maps.Clone(m.gone)
	c.pending, c.abandoned = maps.Clone(m.pending), maps.Clone(m.abandoned)
	c.names, c.docs = maps.Clone(m.names), maps.Clone(m.docs)
	return &c
}

func (m *memory) Load(string) (store.State, bool, error) {
	if !m.found {
		return store.State{}, false, nil
	}
	st := store.State{Names: map[string][]byte{}, Docs: map[string][]byte{}}
	st.Ledger = ledger.State{
		Listed: sorted(m.listed), Delisted: sorted(m.gone), Pending: map[ledger.ID]*ledger.Pending{},
		Abandoned: maps.Clone(m.abandoned), Unreadable: m.holes, InitialSync: m.baseline,
	}
	for id, p := range m.pending {
		st.Ledger.Pending[id] = &p
	}
	for k, v := range m.names {
		st.Names[k] = slices.Clone(v)
	}
	for k, v := range m.docs {
		st.Docs[k] = slices.Clone(v)
	}
	return st, true, nil
}

func sorted(chunks map[uint64]ledger.Chunk) []ledger.Chunk {
	var out []ledger.Chunk
	for _, key := range slices.Sorted(maps.Keys(chunks)) {
		c := chunks[key]
		c.IDs = slices.Clone(c.IDs)
		out = append(out, c)
	}
	return out
}

func (m *memory) Commit(_ string, changes store.State, fresh bool) error {
	if fresh {
		*m = *newMemory()
	}
	m.found = true
	for _, half := range []struct {
		to   map[uint64]ledger.Chunk
		from []ledger.Chunk
	}{{m.listed, changes.Ledger.Listed}, {m.gone, changes.Ledger.Delisted}} {
		for _, c := range half.from {
			if len(c.IDs) == 0 {
				delete(half.to, c.Key)
				continue
			}
			c.IDs = slices.Clone(c.IDs)
			half.to[c.Key] = c
		}
	}
	for id, p := range changes.Ledger.Pending {
		if p == nil {
			delete(m.pending, id)
		} else {
			m.pending[id] = *p
		}
	}
	for id, is := range changes.Ledger.Abandoned {
		if is {
			m.abandoned[id] = true
		} else {
			delete(m.abandoned, id)
		}
	}
	m.holes, m.baseline = changes.Ledger.Unreadable, changes.Ledger.InitialSync
	put(m.names, changes.Names)
	put(m.docs, changes.Docs)
	return nil
}

func put(to, from map[string][]byte) {
	for k, v := range from {
		if v == nil {
			delete(to, k)
		} else {
			to[k] = slices.Clone(v)
		}
	}
}
