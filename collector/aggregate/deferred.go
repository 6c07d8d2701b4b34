package aggregate

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/codec"
	"opper_exporter/collector/ledger"
)

// maxInitialNames is how many names have aggregates of their own during the
// initial sync, if more have no place anyway. Traces of further names are
// deferred: which names get a place is known only at its end.
const maxInitialNames = 2048

// pieceSize is about how many bytes of deferred traces are stored as one
// document.
const pieceSize = 1 << 16

// deferred holds the traces of names without an aggregate, compactly and in the
// order in which they were counted, and what ranks these names. A name takes 16
// bytes in ranks, whatever its length; a counted trace about 45.
type deferred struct {
	ranks   map[uint64]rank // by hashOf the label
	leaders leaders
	pieces  []*codec.Writer // counted traces
	log     codec.Writer    // changes of ranks since they were last stored

	stored map[string]bool // documents on disk; false if they are to be deleted
	logs   int             // how many of them are logs
	whole  int             // pieces that are stored and complete
}

// rank is what a name needs to get a place.
type rank struct {
	met  uint32 // traces first seen
	born uint32 // earliest start, in Unix seconds; 0 if unknown
}

func newDeferred(places int) *deferred {
	return &deferred{ranks: map[uint64]rank{}, leaders: leaders{places: places, met: map[string]uint32{}}, stored: map[string]bool{}}
}

func hashOf(label string) uint64 {
	sum := sha256.Sum256([]byte(label))
	return binary.LittleEndian.Uint64(sum[:])
}

// meet ranks a name by one more trace.
func (d *deferred) meet(label string, start time.Time) {
	hash := hashOf(label)
	d.note(hash, 1, seconds(start))
	d.leaders.offer(label, d.ranks[hash].met)
}

// note changes a rank, and logs that.
func (d *deferred) note(hash uint64, met, born uint32) {
	r := d.ranks[hash]
	earlier := born != 0 && (r.born == 0 || born < r.born)
	if met == 0 && !earlier {
		return
	}
	if r.met <= math.MaxUint32-met {
		r.met += met
	}
	if earlier {
		r.born = born
	}
	d.ranks[hash] = r
	d.log.Uint(hash)
	d.log.Uint(uint64(met))
	d.log.Uint(uint64(born))
}

// seconds returns a time in Unix seconds, 0 if it is unknown.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 1), math.MaxUint32))
}

// created returns when the sums of a name were 0, zero if unknown.
func (r rank) created() time.Time {
	if r.born == 0 {
		return time.Time{}
	}
	return time.Unix(int64(r.born), 0).UTC()
}

// The yes or no of a deferred trace, as bits above its outcome.
const (
	bitEnd = 1 << (iota + 2)
	bitTokens
	bitDuration
	bitID
)

// noRef is an identifier that is in no exemplar.
const noRef = "\x00"

// add defers a counted trace, whose name is to be created by a start, if it is
// given. An identifier that is no UUID is not kept: it
// would only serve for an exemplar.
func (d *deferred) add(label string, outcome Outcome, c *ledger.Counted, started time.Time) {
	hash := hashOf(label)
	d.note(hash, 0, seconds(started))
	if n := len(d.pieces); n == 0 || len(d.pieces[n-1].Bytes()) >= pieceSize {
		d.pieces = append(d.pieces, codec.NewWriter(make([]byte, 0, pieceSize+128)))
	}
	w := d.pieces[len(d.pieces)-1]
	bits := uint64(outcome) | flag(!c.End.IsZero())*bitEnd | flag(c.HasTokens)*bitTokens | flag(c.HasDuration)*bitDuration | flag(c.Ref == "")*bitID
	w.Uint(hash)
	w.Uint(bits)
	if bits&bitEnd != 0 {
		w.Time(c.End)
	}
	if bits&bitTokens != 0 {
		w.Int(c.Row.Tokens)
	}
	if bits&bitDuration != 0 {
		w.Int(int64(c.Duration))
	}
	if bits&bitID != 0 {
		w.Text(string(c.ID[:]))
	}
}

// each calls f for each counted trace, in order, with the hash of its label.
func (d *deferred) each(f func(hash uint64, outcome Outcome, c *ledger.Counted)) error {
	for _, piece := range d.pieces {
		r := codec.NewReader(piece.Bytes())
		for r.More() {
			var c ledger.Counted
			hash, bits := r.Uint(), r.Uint()
			outcome := Outcome(bits & 3)
			c.Abandoned = outcome == Abandoned
			if bits&bitEnd != 0 {
				c.End = r.Time()
			}
			if c.HasTokens = bits&bitTokens != 0; c.HasTokens {
				c.Row.Tokens = r.Int()
			}
			if c.HasDuration = bits&bitDuration != 0; c.HasDuration {
				c.Duration = time.Duration(r.Int())
			}
			c.Ref = noRef
			if bits&bitID != 0 {
				if id := r.Text(); len(id) == len(c.ID) {
					c.ID, c.Ref = ledger.ID([]byte(id)), ""
				}
			}
			f(hash, outcome, &c)
		}
		if err := r.Close(); err != nil {
			return fmt.Errorf("deferred traces: %w", err)
		}
	}
	return nil
}

// leaders are the labels of the names with most traces, ties by label. Counts
// only grow, so a name that is among the first at the end was so when it was last
// met: no other label has to be remembered.
type leaders struct {
	places int
	met    map[string]uint32
	last   string // a label that must be beaten; empty if all are taken
	least  uint32 // its traces
}

// offer takes in how many traces of a name have been met.
func (l *leaders) offer(label string, met uint32) {
	if _, ok := l.met[label]; !ok && l.last != "" && !ahead(met, label, l.least, l.last) {
		return
	}
	l.met[label] = met
	if len(l.met) < 2*l.places+16 {
		return
	}
	ranked := slices.SortedFunc(maps.Keys(l.met), func(a, b string) int {
		return cmp.Or(cmp.Compare(l.met[b], l.met[a]), strings.Compare(a, b))
	})
	for _, beaten := range ranked[l.places:] {
		delete(l.met, beaten)
	}
	l.last = ranked[l.places-1]
	l.least = l.met[l.last]
}

func ahead(met uint32, label string, than uint32, other string) bool {
	return met > than || met == than && label < other
}

// The documents in which deferred traces are stored.
const (
	docPiece   = "traces/%08d"
	docLog     = "ranks/%08d"
	docLeaders = "leaders"
)

// changes returns the documents that have changed since they were last stored; nil
// if they are no more.
func (d *deferred) changes() map[string][]byte {
	docs := map[string][]byte{}
	for doc, wanted := range d.stored {
		if !wanted {
			docs[doc] = nil
		}
	}
	for i := d.whole; i < len(d.pieces); i++ {
		docs[fmt.Sprintf(docPiece, i)] = d.pieces[i].Bytes()
	}
	if log := d.log.Bytes(); len(log) > 0 {
		docs[fmt.Sprintf(docLog, d.logs)] = log
		var w codec.Writer
		w.Uint(uint64(len(d.leaders.met)))
		for label := range d.leaders.met {
			w.Text(label)
		}
		docs[docLeaders] = w.Bytes()
	}
	return docs
}

// saved says that all that changes returned is stored.
func (d *deferred) saved() {
	maps.DeleteFunc(d.stored, func(_ string, there bool) bool { return !there })
	for doc := range d.changes() {
		d.stored[doc] = true
	}
	d.whole = max(len(d.pieces)-1, 0)
	if len(d.log.Bytes()) > 0 {
		d.logs++
		d.log = codec.Writer{}
	}
}

// clear forgets everything, also on disk.
func (d *deferred) clear() {
	forgotten := newDeferred(d.leaders.places)
	for doc := range d.stored {
		forgotten.stored[doc] = false
	}
	*d = *forgotten
}

// restore takes in the documents that were stored.
func (d *deferred) restore(docs map[string][]byte) error {
	for _, doc := range slices.Sorted(maps.Keys(docs)) {
		d.stored[doc] = true
		switch kind, _, _ := strings.Cut(doc, "/"); kind {
		case "traces":
			d.pieces = append(d.pieces, codec.NewWriter(slices.Clip(docs[doc])))
		case "ranks":
			r := codec.NewReader(docs[doc])
			for r.More() {
				d.note(r.Uint(), uint32(r.Uint()), uint32(r.Uint()))
			}
			if err := r.Close(); err != nil {
				return fmt.Errorf("ranks of trace names: %w", err)
			}
			d.logs++
		}
	}
	d.log = codec.Writer{}
	d.whole = max(len(d.pieces)-1, 0)
	if b, ok := docs[docLeaders]; ok {
		r := codec.NewReader(b)
		for range r.Len() {
			label := r.Text()
			d.leaders.offer(label, d.ranks[hashOf(label)].met)
		}
		if err := r.Close(); err != nil {
			return fmt.Errorf("leading trace names: %w", err)
		}
	}
	return d.each(func(uint64, Outcome, *ledger.Counted) {})
}
