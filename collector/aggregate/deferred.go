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

// deferred holds the counted traces of names without an aggregate, in about 45
// bytes each and in their order, and the ranks of these names, in 16 bytes each.
type deferred struct {
	ranks   map[uint64]rank // by hashOf the label
	leaders leaders
	pieces  []*codec.Coder // counted traces
	log     *codec.Coder   // changes of ranks since they were last stored

	stored map[string]bool // documents on disk; false if they are to be deleted
	logs   int             // how many of them are logs
	whole  int             // pieces that are stored and complete
}

// rank is what a name needs to get a place.
type rank struct {
	seen uint32 // traces first seen
	born uint32 // earliest start, in Unix seconds; 0 if unknown
}

func newDeferred(places int) *deferred {
	return &deferred{
		ranks: map[uint64]rank{}, leaders: leaders{places: places, seen: map[string]uint32{}},
		log: codec.NewEncoder(nil), stored: map[string]bool{},
	}
}

func hashOf(label string) uint64 {
	sum := sha256.Sum256([]byte(label))
	return binary.LittleEndian.Uint64(sum[:])
}

// observe ranks a name by one more trace.
func (d *deferred) observe(label string, start time.Time) {
	hash := hashOf(label)
	d.note(hash, 1, seconds(start))
	d.leaders.offer(label, d.ranks[hash].seen)
}

// note changes a rank, and logs that.
func (d *deferred) note(hash uint64, seen, born uint32) {
	r := d.ranks[hash]
	earlier := born != 0 && (r.born == 0 || born < r.born)
	if seen == 0 && !earlier {
		return
	}
	if r.seen <= math.MaxUint32-seen {
		r.seen += seen
	}
	if earlier {
		r.born = born
	}
	d.ranks[hash] = r
	codeRank(d.log, &hash, &seen, &born)
}

func codeRank(c *codec.Coder, hash *uint64, seen, born *uint32) {
	codec.Int(c, hash)
	codec.Int(c, seen)
	codec.Int(c, born)
}

// seconds returns a time in Unix seconds, 0 if it is unknown.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 1), math.MaxUint32))
}

// created returns the earliest start, zero if unknown.
func (r rank) created() time.Time {
	if r.born == 0 {
		return time.Time{}
	}
	return time.Unix(int64(r.born), 0).UTC()
}

// add defers a counted trace, whose name is to be created by a start, if it is
// given.
func (d *deferred) add(label string, outcome Outcome, c *ledger.Counted, started time.Time) {
	hash := hashOf(label)
	d.note(hash, 0, seconds(started))
	if n := len(d.pieces); n == 0 || len(d.pieces[n-1].Bytes()) >= pieceSize {
		d.pieces = append(d.pieces, codec.NewEncoder(make([]byte, 0, pieceSize+128)))
	}
	codeCounted(d.pieces[len(d.pieces)-1], &hash, &outcome, c)
}

// codeCounted codes what matters of a deferred trace. An identifier that is no
// UUID is left out: it would only serve for an exemplar.
func codeCounted(c *codec.Coder, hash *uint64, outcome *Outcome, t *ledger.Counted) {
	isUUID := t.Ref == ""
	codec.Int(c, hash)
	codec.Int(c, outcome)
	c.Bools(&t.HasTokens, &t.HasDuration, &isUUID)
	c.Times(&t.End)
	if t.HasTokens {
		codec.Int(c, &t.Row.Tokens)
	}
	if t.HasDuration {
		codec.Int(c, &t.Duration)
	}
	if isUUID {
		c.Fixed(t.ID[:])
	} else if c.IsDecoding() {
		t.Ref = ledger.NoRef
	}
}

// each calls f for each counted trace, in order, with the hash of its label.
func (d *deferred) each(f func(hash uint64, outcome Outcome, c *ledger.Counted)) error {
	for _, piece := range d.pieces {
		c := codec.NewDecoder(piece.Bytes())
		for len(c.Bytes()) > 0 {
			var (
				hash    uint64
				outcome Outcome
				t       ledger.Counted
			)
			if codeCounted(c, &hash, &outcome, &t); outcome < 0 || outcome >= outcomes {
				c.Fail()
				break
			}
			t.Abandoned = outcome == Abandoned
			f(hash, outcome, &t)
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("deferred traces: %w", err)
		}
	}
	return nil
}

// leaders are the labels of the names with most traces, ties by label. Counts
// only grow, so a name that is among the first at the end was so when it was last
// seen: no other label is needed.
type leaders struct {
	places int
	seen   map[string]uint32
	last   string // a label that must be beaten; empty if all are taken
	lowest uint32 // its traces
}

// offer takes in how many traces of a name were seen.
func (l *leaders) offer(label string, seen uint32) {
	if _, ok := l.seen[label]; !ok && l.last != "" && !ahead(seen, label, l.lowest, l.last) {
		return
	}
	l.seen[label] = seen
	if len(l.seen) < 2*l.places+16 {
		return
	}
	ranked := slices.SortedFunc(maps.Keys(l.seen), func(a, b string) int {
		return cmp.Or(cmp.Compare(l.seen[b], l.seen[a]), strings.Compare(a, b))
	})
	for _, beaten := range ranked[l.places:] {
		delete(l.seen, beaten)
	}
	l.last = ranked[l.places-1]
	l.lowest = l.seen[l.last]
}

func ahead(seen uint32, label string, than uint32, other string) bool {
	return seen > than || seen == than && label < other
}

// The kinds of documents in which deferred traces are stored, in the order in
// which they are restored. There are several numbered ones of ranks and traces.
const (
	kindRanks   = "ranks"
	kindLeaders = "top"
	kindTraces  = "traces"
)

func numbered(kind string, n int) string { return fmt.Sprintf("%s/%08d", kind, n) }

// changes returns the documents that have changed since the last commit, without
// a body those to delete.
func (d *deferred) changes() map[string][]byte {
	docs := map[string][]byte{}
	for doc, wanted := range d.stored {
		if !wanted {
			docs[doc] = nil
		}
	}
	for i := d.whole; i < len(d.pieces); i++ {
		docs[numbered(kindTraces, i)] = d.pieces[i].Bytes()
	}
	if log := d.log.Bytes(); len(log) > 0 {
		docs[numbered(kindRanks, d.logs)] = log
		labels := slices.Collect(maps.Keys(d.leaders.seen))
		docs[kindLeaders] = codec.Encode(func(c *codec.Coder) { codec.Slice(c, &labels, c.Text) })
	}
	return docs
}

// committed says that all that changes returned is stored.
func (d *deferred) committed() {
	maps.DeleteFunc(d.stored, func(_ string, there bool) bool { return !there })
	for doc := range d.changes() {
		d.stored[doc] = true
	}
	d.whole = max(len(d.pieces)-1, 0)
	if len(d.log.Bytes()) > 0 {
		d.logs++
		d.log = codec.NewEncoder(nil)
	}
}

// clear empties d, and lets the next commit do so on disk.
func (d *deferred) clear() {
	cleared := newDeferred(d.leaders.places)
	for doc := range d.stored {
		cleared.stored[doc] = false
	}
	*d = *cleared
}

// restore adds a stored document. They come sorted.
func (d *deferred) restore(doc string, body []byte) error {
	d.stored[doc] = true
	switch kind, _, _ := strings.Cut(doc, "/"); kind {
	case kindRanks:
		d.logs++
		return codec.Decode(body, func(c *codec.Coder) {
			for len(c.Bytes()) > 0 {
				var (
					hash       uint64
					seen, born uint32
				)
				codeRank(c, &hash, &seen, &born)
				d.note(hash, seen, born)
			}
			d.log = codec.NewEncoder(nil)
		})
	case kindLeaders:
		var labels []string
		err := codec.Decode(body, func(c *codec.Coder) { codec.Slice(c, &labels, c.Text) })
		for _, label := range labels {
			d.leaders.offer(label, d.ranks[hashOf(label)].seen)
		}
		return err
	case kindTraces:
		d.pieces = append(d.pieces, codec.NewEncoder(slices.Clip(body)))
		d.whole = len(d.pieces) - 1
		return nil
	}
	return codec.ErrDamaged
}

// check returns an error unless each can go through all that was restored.
func (d *deferred) check() error { return d.each(func(uint64, Outcome, *ledger.Counted) {}) }
