package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"opper_exporter/collector/ledger"
)

// The kinds of entries of a project, the first byte of their keys. Behind it:
const (
	kindAbandoned = 'a' // the id
	kindDoc       = 'd' // the name of the document
	kindGone      = 'g' // the key of the chunk, big-endian: the order of the list
	kindListed    = 'l' // the same
	kindName      = 'n' // the label
	kindPending   = 'p' // the id
	kindScalars   = 's' // nothing
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal returns the value to store under key: a checksum of both, and the body.
func seal(key, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	value := make([]byte, 0, 4+len(body))
	return append(binary.LittleEndian.AppendUint32(value, sum), body...)
}

// unseal returns the body of a value.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) < 4 {
		return nil, fmt.Errorf("the entry %.24q has no checksum", key)
	}
	body := value[4:]
	if crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body) != binary.LittleEndian.Uint32(value) {
		return nil, fmt.Errorf("the checksum of the entry %.24q is wrong", key)
	}
	return body, nil
}

// digest tells whether the entries of a project are all there: a page that lost
// its last entries, or is an older one, has nothing wrong with it by itself.
type digest struct {
	count, sum uint64
}

func (d *digest) add(value []byte) {
	d.count++
	d.sum += uint64(binary.LittleEndian.Uint32(value))
}

func (d *digest) remove(value []byte) {
	d.count--
	d.sum -= uint64(binary.LittleEndian.Uint32(value))
}

func (d *digest) encode() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, d.count), d.sum)
}

// find returns the bucket of a project and the digest of its entries; no bucket
// if nothing is stored of it.
func find(tx *bbolt.Tx, project string) (*bbolt.Bucket, digest, error) {
	key := projectKey(project)
	b, value := tx.Bucket(key), tx.Bucket(metaBucket).Get(key)
	if b == nil && value == nil {
		return nil, digest{}, nil
	}
	if b == nil {
		return nil, digest{}, fmt.Errorf("the project %q is missing", project)
	}
	body, err := unseal(key, value)
	if err != nil {
		return nil, digest{}, err
	}
	if len(body) != 16 {
		return nil, digest{}, fmt.Errorf("the digest of the project %q makes no sense", project)
	}
	return b, digest{binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])}, nil
}

func projectKey(project string) []byte { return []byte("project:" + project) }

// writer changes the entries of a project and keeps account of them.
type writer struct {
	bucket *bbolt.Bucket
	digest digest
	err    error
}

func write(tx *bbolt.Tx, project string, changes State, fresh bool) error {
	key := projectKey(project)
	b, d, err := find(tx, project)
	if err != nil {
		return err
	}
	if b != nil && fresh {
		if err := tx.DeleteBucket(key); err != nil {
			return err
		}
		b, d = nil, digest{}
	}
	if b == nil {
		if b, err = tx.CreateBucket(key); err != nil {
			return err
		}
	}
	// In the order of the keys: bbolt divides a leaf only when it commits, and
	// until then moves all of it that stands behind what is put into it.
	w := writer{bucket: b, digest: d}
	for _, id := range sortedIDs(changes.Ledger.Abandoned) {
		var body []byte
		if changes.Ledger.Abandoned[id] {
			body = []byte{}
		}
		w.put(kindAbandoned, id[:], body)
	}
	for _, name := range slices.Sorted(maps.Keys(changes.Docs)) {
		w.put(kindDoc, []byte(name), changes.Docs[name])
	}
	w.chunks(kindGone, changes.Ledger.Delisted)
	w.chunks(kindListed, changes.Ledger.Listed)
	for _, label := range slices.Sorted(maps.Keys(changes.Names)) {
		w.put(kindName, []byte(label), changes.Names[label])
	}
	for _, id := range sortedIDs(changes.Ledger.Pending) {
		w.put(kindPending, id[:], encodePending(changes.Ledger.Pending[id]))
	}
	w.put(kindScalars, nil, encodeScalars(changes.Ledger))
	if w.err != nil {
		return w.err
	}
	return tx.Bucket(metaBucket).Put(key, seal(key, w.digest.encode()))
}

func sortedIDs[V any](m map[ledger.ID]V) []ledger.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b ledger.ID) int { return bytes.Compare(a[:], b[:]) })
}

func (w *writer) chunks(kind byte, chunks []ledger.Chunk) {
	for _, c := range chunks {
		w.put(kind, binary.BigEndian.AppendUint64(nil, c.Key), encodeChunk(c))
	}
}

// put stores a body under a key, or deletes what is there if it is nil.
func (w *writer) put(kind byte, rest, body []byte) {
	if w.err != nil {
		return
	}
	key := append([]byte{kind}, rest...)
	old := w.bucket.Get(key)
	if old != nil {
		w.digest.remove(old)
	}
	if body == nil {
		if old != nil {
			w.err = w.bucket.Delete(key)
		}
		return
	}
	value := seal(key, body)
	w.digest.add(value)
	if !bytes.Equal(old, value) {
		w.err = w.bucket.Put(key, value)
	}
}

func read(tx *bbolt.Tx, project string) (State, bool, error) {
	b, want, err := find(tx, project)
	if b == nil || err != nil {
		return State{}, false, err
	}
	state := State{
		Ledger: ledger.State{Abandoned: map[ledger.ID]bool{}},
		Names:  map[string][]byte{},
		Docs:   map[string][]byte{},
	}
	if err := entries(b, want, func(key, body []byte) bool { return state.add(key[0], key[1:], body) }); err != nil {
		return State{}, false, err
	}
	return state, true, nil
}

// entries visits all entries of a project, which must be those of the digest and
// make sense to the visitor.
func entries(b *bbolt.Bucket, want digest, visit func(key, body []byte) bool) error {
	var got digest
	cursor := b.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		body, err := unseal(key, value)
		if err != nil {
			return err
		}
		got.add(value)
		if !visit(key, body) {
			return fmt.Errorf("the entry %.24q makes no sense", key)
		}
	}
	if got != want {
		return errors.New("entries are missing, or are not the latest ones")
	}
	return nil
}

// add takes in one entry. It reports false if that is none of the layout.
func (s *State) add(kind byte, rest, body []byte) bool {
	switch kind {
	case kindListed, kindGone:
		c, ok := decodeChunk(rest, body)
		if !ok {
			return false
		}
		if kind == kindListed {
			s.Ledger.Listed = append(s.Ledger.Listed, c)
		} else {
			s.Ledger.Delisted = append(s.Ledger.Delisted, c)
		}
		return true
	case kindPending:
		p, ok := decodePending(rest, body)
		if ok {
			if s.Ledger.Stored == nil {
				s.Ledger.Stored = ledger.NewPendings()
			}
			s.Ledger.Stored.Add(p)
		}
		return ok
	case kindAbandoned:
		if len(rest) != len(ledger.ID{}) {
			return false
		}
		s.Ledger.Abandoned[ledger.ID(rest)] = true
		return len(body) == 0
	case kindName:
		s.Names[string(rest)] = append([]byte{}, body...)
		return true
	case kindDoc:
		s.Docs[string(rest)] = append([]byte{}, body...)
		return true
	case kindScalars:
		d := decoder{rest: body}
		s.Ledger.Unreadable = uint64(d.int())
		s.Ledger.InitialSync = d.int() == 1
		return d.done()
	}
	return false
}

func encodeScalars(s ledger.State) []byte {
	b := binary.AppendVarint(nil, int64(s.Unreadable))
	return binary.AppendVarint(b, bit(s.InitialSync, 0))
}

func encodeChunk(c ledger.Chunk) []byte {
	if len(c.IDs) == 0 {
		return nil
	}
	b := make([]byte, 0, binary.MaxVarintLen64+len(c.IDs)*len(ledger.ID{}))
	b = appendTime(b, c.Missed)
	for _, id := range c.IDs {
		b = append(b, id[:]...)
	}
	return b
}

func decodeChunk(key, body []byte) (ledger.Chunk, bool) {
	d := decoder{rest: body}
	c := ledger.Chunk{Missed: d.time()}
	const size = len(ledger.ID{})
	if d.bad || len(key) != 8 || len(d.rest)%size != 0 {
		return c, false
	}
	c.Key = binary.BigEndian.Uint64(key)
	c.IDs = make([]ledger.ID, len(d.rest)/size)
	for i := range c.IDs {
		copy(c.IDs[i][:], d.rest[i*size:])
	}
	return c, true
}

// The yes or no of a pending trace, as bits.
const (
	bitStatus = iota
	bitDuration
	bitTokens
	bitLost
)

func encodePending(p *ledger.Pending) []byte {
	if p == nil {
		return nil
	}
	r := &p.Row
	b := binary.AppendVarint(nil, bit(r.HasStatus, bitStatus)|bit(r.HasDuration, bitDuration)|bit(r.HasTokens, bitTokens)|bit(p.Lost, bitLost))
	b = append(b, byte(r.Kind))
	for _, s := range []string{r.Ref, r.Name, r.Status} {
		b = binary.AppendVarint(b, int64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendVarint(b, int64(r.Duration))
	b = binary.AppendVarint(b, r.Tokens)
	for _, t := range pendingTimes(p) {
		b = appendTime(b, *t)
	}
	return b
}

func decodePending(id, body []byte) (*ledger.Pending, bool) {
	if len(id) != len(ledger.ID{}) {
		return nil, false
	}
	d := decoder{rest: body}
	flags := d.int()
	has := func(n int) bool { return flags>>n&1 == 1 }
	p := &ledger.Pending{Lost: has(bitLost), Row: ledger.Row{
		ID:          ledger.ID(id),
		HasStatus:   has(bitStatus),
		HasDuration: has(bitDuration),
		HasTokens:   has(bitTokens),
	}}
	if kind := d.take(1); !d.bad {
		p.Row.Kind = ledger.Kind(kind[0])
	}
	for _, s := range []*string{&p.Row.Ref, &p.Row.Name, &p.Row.Status} {
		*s = string(d.take(d.int()))
	}
	p.Row.Duration = time.Duration(d.int())
	p.Row.Tokens = d.int()
	for _, t := range pendingTimes(p) {
		*t = d.time()
	}
	return p, d.done()
}

func pendingTimes(p *ledger.Pending) [7]*time.Time {
	return [...]*time.Time{&p.Row.Start, &p.Row.End, &p.FirstSeen, &p.Since, &p.Ended, &p.EndBy, &p.Seen}
}

func bit(set bool, n int) int64 {
	if set {
		return 1 << n
	}
	return 0
}

// appendTime appends the microseconds since 1970. 0 is the zero time, so what is
// not negative moves up by one.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	us := t.UnixMicro()
	if us >= 0 {
		us++
	}
	return binary.AppendVarint(b, us)
}

// decoder takes values off the front of rest. Once one is not there, it is bad.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int64) []byte {
	if d.bad || n < 0 || n > int64(len(d.rest)) {
		d.bad = true
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) time() time.Time {
	us := d.int()
	switch {
	case us == 0:
		return time.Time{}
	case us > 0:
		us--
	}
	return time.UnixMicro(us).UTC()
}

func (d *decoder) done() bool { return !d.bad && len(d.rest) == 0 }
