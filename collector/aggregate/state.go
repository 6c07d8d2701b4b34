package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/codec"
)

// The keys of entries that are stored.
const (
	keyProject  = "project"   // what belongs to no name
	keyDistinct = "distinct"  // hashes of the names seen
	keyName     = "name/"     // and the label
	keyDeferred = "deferred/" // and the document, see deferred.changes
	keyWaiting  = "waiting/"  // and the number of a batch
)

// Changes calls put with each entry that has changed since Committed was called,
// and no body if it is to be deleted.
func (s *Set) Changes(put func(key string, body []byte)) {
	for label := range s.dropped {
		put(keyName+label, nil)
	}
	for label, n := range s.names {
		if n.saved != n.Changes+1 {
			put(keyName+label, codec.Encode(n.code))
		}
	}
	put(keyProject, codec.Encode(s.code))
	if s.distinct.changed {
		put(keyDistinct, codec.Encode(s.distinct.code))
	}
	for doc, body := range s.deferred.changes() {
		put(keyDeferred+doc, body)
	}
	s.changesOfWaiting(put)
}

// Committed says that all that Changes has put is stored. Series of names that have expired
// may still be exposed, see Published.
func (s *Set) Committed() {
	maps.DeleteFunc(s.dropped, func(_ string, n *Aggregate) bool { return n == nil })
	for _, n := range s.names {
		n.saved = n.Changes + 1
	}
	s.distinct.changed = false
	s.deferred.committed()
	s.waiting.committed()
}

// Restore returns the Set that was stored as these entries. CheckBuckets tells
// whether its histograms have the buckets of the configuration.
func Restore(cfg Config, entries map[string][]byte) (*Set, error) {
	s := New(cfg, time.Time{})
	if _, ok := entries[keyProject]; !ok {
		return nil, fmt.Errorf("%q is missing", keyProject)
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if err := s.restore(key, entries[key]); err != nil {
			return nil, fmt.Errorf("%.24q: %w", key, err)
		}
	}
	if err := s.deferred.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Set) restore(key string, body []byte) error {
	if doc, ok := strings.CutPrefix(key, keyDeferred); ok {
		return s.deferred.restore(doc, body)
	}
	if strings.HasPrefix(key, keyWaiting) {
		return s.restoreWaiting(key, body)
	}
	switch label, isName := strings.CutPrefix(key, keyName); {
	case isName:
		n := &Aggregate{Label: label}
		s.names[label] = n
		err := codec.Decode(body, n.code)
		n.saved = n.Changes + 1
		return err
	case key == keyProject:
		return codec.Decode(body, s.code)
	case key == keyDistinct:
		return codec.Decode(body, s.distinct.code)
	}
	return codec.ErrDamaged
}

func (s *Set) code(c *codec.Coder) {
	c.Times(&s.Since)
	c.Bools(&s.initialSync, &s.Renewed)
	for _, n := range s.counters() {
		codec.Int(c, n)
	}
	for o := range s.OfExpired {
		codec.Int(c, &s.OfExpired[o])
	}
	s.codeUnmapped(c)
}

func (s *Set) counters() []*uint64 {
	return []*uint64{
		&s.Gaps, &s.NoID, &s.VanishedOpen, &s.LateEnds,
		&s.Overflow, &s.NoDuration, &s.BadDuration, &s.Expired, &s.CostsUnknown,
	}
}

func (d *distinct) code(c *codec.Coder) {
	var before uint64
	codec.Slice(c, &d.smallest, func(hash *uint64) { codeRising(c, hash, &before) })
}

func (n *Aggregate) code(c *codec.Coder) {
	c.Times(&n.Created, &n.DurationsCreated, &n.TokensCreated, &n.CostsCreated, &n.LastEnd, &n.idleSince, &n.latestAt)
	c.Fixed(n.latest[:])
	codec.Slice(c, &n.raws, c.Text)
	codec.Int(c, &n.zeroPending)
	codec.Int(c, &n.seen)
	for i := range n.ByOutcome {
		t := &n.ByOutcome[i]
		codec.Int(c, &t.Traces)
		codec.Int(c, &t.Tokens)
		t.Durations.code(c)
		codec.Int(c, &t.Cost)
	}
	n.Tokens.code(c)
	codec.Int(c, &n.InputTokens)
	codec.Int(c, &n.OutputTokens)
	n.Costs.code(c)
}

func (h *Histogram) code(c *codec.Coder) {
	if codec.Int(c, &h.Count); h.Count == 0 {
		return
	}
	codec.Int(c, &h.Sum)
	h.grow(c.Len(len(h.Classic)))
	for i := range h.Classic {
		codec.Int(c, &h.Classic[i])
		codeExemplar(c, &h.Exemplars[i])
	}
	codec.Int(c, &h.Zero)
	codec.Int(c, &h.Halvings)
	var before int32
	codec.Slice(c, &h.Positive, func(b *Bucket) {
		codeRising(c, &b.Key, &before)
		codec.Int(c, &b.Count)
	})
	if c.IsDecoding() && !h.isSound() {
		c.Fail()
	}
}

func codeExemplar(c *codec.Coder, e **Exemplar) {
	var ex Exemplar
	if *e != nil {
		ex = **e
	}
	if c.Text(&ex.TraceID); ex.TraceID == "" {
		return
	}
	end := ex.Time()
	c.Float(&ex.Value)
	c.Times(&end)
	if c.IsDecoding() {
		ex = NewExemplar(ex.TraceID, ex.Value, end)
		*e = &ex
	}
}

// codeRising codes how much a value is above the one before it.
func codeRising[T codec.Integer](c *codec.Coder, v, before *T) {
	d := *v - *before
	codec.Int(c, &d)
	*before += d
	*v = *before
}

// isSound reports whether a histogram can be added to and exposed. The number of
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
		sound := n.Tokens.hasBuckets(s.cfg.TokenBuckets) && n.Costs.hasBuckets(CostBuckets)
		for i := range n.ByOutcome {
			sound = sound && n.ByOutcome[i].Durations.hasBuckets(s.cfg.DurationBuckets)
		}
		if !sound {
			return fmt.Errorf("buckets of trace name %q: %w", n.Label, codec.ErrDamaged)
		}
	}
	return nil
}

func (h *Histogram) hasBuckets(bounds []float64) bool {
	return len(h.Classic) == len(bounds)+1 || h.Count == 0 && h.Classic == nil
}
