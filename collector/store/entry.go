package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"opper_exporter/collector/codec"
)

// checksumSize is the size of what stands before the body of an entry.
const checksumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal returns the value to store under key: a checksum of both, and the body.
func seal(key, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	value := make([]byte, 0, checksumSize+len(body))
	return append(binary.LittleEndian.AppendUint32(value, sum), body...)
}

// unseal returns the body of a value.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) < checksumSize {
		return nil, fmt.Errorf("entry %.24q has no checksum", key)
	}
	body := value[checksumSize:]
	if crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body) != binary.LittleEndian.Uint32(value) {
		return nil, fmt.Errorf("checksum of entry %.24q is wrong", key)
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

func (d *digest) code(c *codec.Coder) {
	codec.Int(c, &d.count)
	codec.Int(c, &d.sum)
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
		return nil, digest{}, fmt.Errorf("project %q is missing", project)
	}
	body, err := unseal(key, value)
	if err != nil {
		return nil, digest{}, err
	}
	var d digest
	if err := codec.Decode(body, d.code); err != nil {
		return nil, digest{}, fmt.Errorf("digest of project %q: %w", project, err)
	}
	return b, d, nil
}

func projectKey(project string) []byte { return []byte("project:" + project) }

func write(tx *bbolt.Tx, project string, changes map[string][]byte, fresh bool) error {
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
	// Most entries are written once, or stay as large as they are: half a page of room
	// for others, as bbolt leaves it, would only be mapped and read at the start.
	b.FillPercent = 0.9
	// In the order of the keys: bbolt divides a leaf only when it commits, and
	// until then moves all of it that stands behind what is put into it.
	for _, entry := range slices.Sorted(maps.Keys(changes)) {
		if err := put(b, &d, []byte(entry), changes[entry]); err != nil {
			return err
		}
	}
	return tx.Bucket(metaBucket).Put(key, seal(key, codec.Encode(d.code)))
}

// put stores a body under a key, or deletes what is there if it is nil.
func put(b *bbolt.Bucket, d *digest, key, body []byte) error {
	old := b.Get(key)
	if old != nil {
		d.remove(old)
	}
	if body == nil {
		if old == nil {
			return nil
		}
		return b.Delete(key)
	}
	value := seal(key, body)
	d.add(value)
	if bytes.Equal(old, value) {
		return nil
	}
	return b.Put(key, value)
}

// entries visits all entries of a project, which must be those of the digest.
func entries(b *bbolt.Bucket, want digest, visit func(key string, body []byte) error) error {
	var got digest
	cursor := b.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		body, err := unseal(key, value)
		if err != nil {
			return err
		}
		got.add(value)
		if err := visit(string(key), body); err != nil {
			return fmt.Errorf("entry %.24q: %w", key, err)
		}
	}
	if got != want {
		return errors.New("entries are missing, or are not the latest ones")
	}
	return nil
}
