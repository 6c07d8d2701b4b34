package aggregate

import (
	"fmt"
	"time"

	"opper_exporter/collector/codec"
	"opper_exporter/collector/ledger"
)

// The encoding of sums begins with its version, so that another one can follow.
const stateVersion = 2

// State is sums, or what has changed in them, in a form that can be stored.
type State struct {
	Names   map[string][]byte // by label; nil if there are none under this label any more
	Project []byte            // the counters of the project
	// Met is the names that were met; nil if no new one was.
	Met []byte
	// Deferred are documents by name, and nil if there is none under this name
	// any more.
	Deferred map[string][]byte
}

// Changes returns what has changed since Saved was called.
func (s *Set) Changes() State {
	st := State{Names: map[string][]byte{}, Deferred: s.deferred.changes()}
	for label := range s.dropped {
		st.Names[label] = nil
	}
	for label, n := range s.names {
		if n.saved != n.Changes+1 {
			st.Names[label] = n.encode()
		}
	}
	var w codec.Writer
	w.Uint(stateVersion)
	w.Time(s.Since)
	w.Uint(flag(s.initialSync))
	w.Uint(flag(s.Renewed))
	for _, c := range s.counters() {
		w.Uint(*c)
	}
	st.Project = w.Bytes()
	if s.distinct.changed {
		var w codec.Writer
		w.Uint(stateVersion)
		w.Uint(uint64(len(s.distinct.smallest)))
		var before uint64
		for _, h := range s.distinct.smallest {
			w.Uint(h - before)
			before = h
		}
		st.Met = w.Bytes()
	}
	return st
}

// Committed says that all that Changes returned is stored.
func (s *Set) Committed() {
	clear(s.dropped)
	for _, n := range s.names {
		n.saved = n.Changes + 1
	}
	s.distinct.changed = false
	s.deferred.saved()
}

// Restore returns the sums that were stored. Bounds of buckets must be those
// with which they were stored, but see Reset.
func Restore(cfg Config, st State) (*Set, error) {
	s := New(cfg, time.Time{})
	r := codec.NewReader(st.Project)
	if v := r.Uint(); v != stateVersion {
		return nil, fmt.Errorf("project counters: version %d is not known", v)
	}
	s.Since = r.Time()
	s.initialSync = r.Uint() == 1
	s.Renewed = r.Uint() == 1
	for _, c := range s.counters() {
		*c = r.Uint()
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("project counters: %w", err)
	}
	if st.Met != nil {
		r := codec.NewReader(st.Met)
		if v := r.Uint(); v != stateVersion {
			return nil, fmt.Errorf("names met: version %d is not known", v)
		}
		s.distinct.smallest = make([]uint64, r.Len())
		var before uint64
		for i := range s.distinct.smallest {
			before += r.Uint()
			s.distinct.smallest[i] = before
		}
		if err := r.Close(); err != nil {
			return nil, fmt.Errorf("names met: %w", err)
		}
	}
	for label, b := range st.Names {
		n := &Aggregate{Label: label}
		if err := n.decode(b); err != nil {
			return nil, fmt.Errorf("sums of trace name %q: %w", label, err)
		}
		n.saved = n.Changes + 1
		s.names[label] = n
	}
	if err := s.deferred.restore(st.Deferred); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Set) counters() []*uint64 {
	return []*uint64{
		&s.Gaps, &s.NoID, &s.VanishedOpen, &s.LateEnds,
		&s.Unmapped, &s.Overflow, &s.NoDuration, &s.BadDuration,
	}
}

func (n *Aggregate) encode() []byte {
	var w codec.Writer
	w.Uint(stateVersion)
	w.Time(n.Created)
	w.Time(n.DurationsCreated)
	w.Time(n.TokensCreated)
	w.Time(n.LastEnd)
	w.Uint(uint64(n.zeroPending))
	w.Uint(uint64(n.met))
	for i := range n.ByOutcome {
		t := &n.ByOutcome[i]
		w.Uint(t.Traces)
		w.Int(t.Tokens)
		t.Durations.encode(&w)
	}
	n.Tokens.encode(&w)
	return w.Bytes()
}

func (n *Aggregate) decode(b []byte) error {
	r := codec.NewReader(b)
	if v := r.Uint(); v != stateVersion {
		return fmt.Errorf("version %d is not known", v)
	}
	n.Created, n.DurationsCreated, n.TokensCreated, n.LastEnd = readTime(r), readTime(r), readTime(r), readTime(r)
	n.zeroPending = part(r.Uint())
	n.met = int(r.Uint())
	for i := range n.ByOutcome {
		t := &n.ByOutcome[i]
		t.Traces, t.Tokens = r.Uint(), r.Int()
		t.Durations.decode(r)
	}
	n.Tokens.decode(r)
	if err := r.Close(); err != nil {
		return err
	}
	for i := range n.ByOutcome {
		if !n.ByOutcome[i].Durations.isSound() {
			return codec.ErrDamaged
		}
	}
	if !n.Tokens.isSound() {
		return codec.ErrDamaged
	}
	return nil
}

func (h *Histogram) encode(w *codec.Writer) {
	w.Uint(h.Count)
	if h.Count == 0 {
		return
	}
	w.Int(h.Sum)
	w.Uint(uint64(len(h.Classic)))
	for i, n := range h.Classic {
		w.Uint(n)
		ex := &h.Exemplars[i]
		w.Text(ex.TraceID)
		if ex.TraceID != "" {
			w.Float(ex.Value)
			w.Time(ex.Time)
		}
	}
	w.Uint(h.Zero)
	w.Uint(uint64(h.Halvings))
	w.Uint(uint64(len(h.Positive)))
	var key int32
	for _, b := range h.Positive {
		w.Int(int64(b.Key - key))
		w.Uint(b.Count)
		key = b.Key
	}
}

func (h *Histogram) decode(r *codec.Reader) {
	h.Count = r.Uint()
	if h.Count == 0 {
		return
	}
	h.Sum = r.Int()
	h.grow(r.Len())
	for i := range h.Classic {
		h.Classic[i] = r.Uint()
		ex := &h.Exemplars[i]
		if ex.TraceID = r.Text(); ex.TraceID != "" {
			ex.Value, ex.Time = r.Float(), readTime(r)
		}
		if ex.Time.IsZero() {
			*ex = Exemplar{}
		}
	}
	h.Zero = r.Uint()
	h.Halvings = int32(r.Uint())
	h.Positive = make([]Bucket, r.Len())
	var key int32
	for i := range h.Positive {
		key += int32(r.Int())
		h.Positive[i] = Bucket{Key: key, Count: r.Uint()}
	}
}

// isSound reports whether a histogram can be added to and shown. The number of
// its classic buckets is up to CheckBuckets.
func (h *Histogram) isSound() bool {
	for i := range h.Positive {
		if i > 0 && h.Positive[i].Key <= h.Positive[i-1].Key {
			return false
		}
	}
	return h.Halvings >= 0 && h.Schema() >= minSchema
}

// CheckBuckets returns an error unless all histograms have the classic buckets
// of the configuration.
func (s *Set) CheckBuckets() error {
	for _, n := range s.names {
		sound := n.Tokens.hasBuckets(s.cfg.TokenBuckets)
		for i := range n.ByOutcome {
			sound = sound && n.ByOutcome[i].Durations.hasBuckets(s.cfg.DurationBuckets)
		}
		if !sound {
			return fmt.Errorf("sums of trace name %q: %w", n.Label, codec.ErrDamaged)
		}
	}
	return nil
}

func (h *Histogram) hasBuckets(bounds []float64) bool {
	return len(h.Classic) == len(bounds)+1 || h.Count == 0 && h.Classic == nil
}

// readTime reads a time. States of earlier versions may hold client times that
// must not be published.
func readTime(r *codec.Reader) time.Time {
	t := r.Time()
	return ledger.ClientTime(t, t)
}

func flag(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}
