package store

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

// damaged is a file with two commits, of which it may have lost the last one
// only, and what may be loaded from it.
type damaged struct {
	dir    string
	bytes  []byte
	states []state // nil: nothing was stored yet
}

func newDamaged(t *testing.T, entries int) *damaged {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, uint64(entries)))
	d := &damaged{dir: t.TempDir(), states: []state{nil}}
	s := mustOpen(t, d.dir)
	for range 2 {
		changes := randomChanges(rng, entries)
		mustCommit(t, s, "zebra", changes, false)
		d.states = append(d.states, merge(d.states[len(d.states)-1], changes, false))
	}
	d.states = d.states[1:]
	mustClose(t, s)
	var err error
	if d.bytes, err = os.ReadFile(s.path); err != nil {
		t.Fatal(err)
	}
	return d
}

// try writes the bytes as the file and reports whether it was found to be
// damaged. What is loaded must be one of the commits, and be so after another.
func (d *damaged) try(t *testing.T, what string, at int, content []byte) bool {
	t.Helper()
	path := filepath.Join(d.dir, fileName)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d.dir)
	if err != nil {
		wantError(t, err, path, "is damaged (", "): move it away to start from zero")
		return true
	}
	defer mustClose(t, s)
	got, err := load(s, "zebra")
	if err != nil {
		wantError(t, err, path, "is damaged (", "): move it away to start from zero")
		return true
	}
	i := slices.IndexFunc(d.states, func(m state) bool { return equal(got, m) })
	if i < 0 {
		t.Fatalf("%s %d: loaded what was never committed: %s", what, at, brief(got))
	}
	if at%16 == 0 {
		more := randomChanges(rand.New(rand.NewPCG(6, uint64(at))), 4)
		mustCommit(t, s, "zebra", more, false)
		want(t, s, "zebra", merge(d.states[i], more, false))
	}
	return false
}

func TestCutShort(t *testing.T) {
	d := newDamaged(t, 6)
	found := 0
	for n := 512; n <= len(d.bytes); n += 512 {
		if d.try(t, "cut at", n, d.bytes[:n]) {
			found++
		}
	}
	if found < 10 || d.try(t, "whole", 1, d.bytes) {
		t.Errorf("%d cuts were found", found)
	}
}

func TestFlippedByte(t *testing.T) {
	for _, entries := range []int{3, 20} {
		d := newDamaged(t, entries)
		rng := rand.New(rand.NewPCG(7, 7))
		flips, found := 0, 0
		// Mostly what describes the pages and their first entries.
		for i := 0; i < len(d.bytes); i += 1 + rng.IntN(2*entries) {
			if i%4096 >= 80 {
				i += rng.IntN(40 * entries)
			}
			if i >= len(d.bytes) {
				break
			}
			content := slices.Clone(d.bytes)
			content[i] ^= byte(1 + rng.IntN(255))
			flips++
			if d.try(t, "flip at", i, content) {
				found++
			}
		}
		t.Logf("%d of %d flips in %d bytes found", found, flips, len(d.bytes))
		if found < flips/20 {
			t.Errorf("only %d of %d flips were found", found, flips)
		}
	}
}

// A page that says it goes on into the next one, which is in use.
func TestOverlap(t *testing.T) {
	d := newDamaged(t, 20)
	found := 0
	for i := 2; i < len(d.bytes)/4096; i++ {
		content := slices.Clone(d.bytes)
		overflow := content[i*4096+12:]
		native.PutUint32(overflow, native.Uint32(overflow)+1)
		if d.try(t, "overlap of page", i, content) {
			found++
		}
	}
	if found == 0 {
		t.Error("no overlap was found")
	}
}

// An older page in the place of a newer one has nothing wrong with it, and yet
// the whole is not what was committed.
func TestMissingEntries(t *testing.T) {
	for name, lose := range map[string]func(b *bbolt.Bucket) error{
		"deleted": func(b *bbolt.Bucket) error { key, _ := b.Cursor().First(); return b.Delete(key) },
		"older": func(b *bbolt.Bucket) error {
			key := []byte("s")
			return b.Put(key, seal(key, []byte{8, 0}))
		},
		"bucket inside": func(b *bbolt.Bucket) error { _, err := b.CreateBucket([]byte("l")); return err },
		"another one": func(b *bbolt.Bucket) error {
			return b.Put([]byte("x"), seal([]byte("x"), nil))
		},
		"moved": func(b *bbolt.Bucket) error {
			key, value := b.Cursor().First()
			return b.Put(append(key, 1), slices.Clone(value))
		},
		"all": func(b *bbolt.Bucket) error { return b.Tx().DeleteBucket(projectKey("p")) },
		"digest": func(b *bbolt.Bucket) error {
			return b.Tx().Bucket(metaBucket).Delete(projectKey("p"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			edit(t, dir, func(tx *bbolt.Tx) error { return lose(tx.Bucket(projectKey("p"))) })
			s := mustOpen(t, dir)
			_, err := load(s, "p")
			wantError(t, err, s.path, "is damaged (", "): move it away to start from zero")
		})
	}
}

// The file is cut while it is in use.
func TestCutWhileOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	changes := randomChanges(rand.New(rand.NewPCG(9, 9)), 30)
	mustCommit(t, s, "p", changes, false)
	if err := os.Truncate(s.path, 3*4096); err != nil {
		t.Fatal(err)
	}
	_, err = load(s, "p")
	wantError(t, err, s.path, "is damaged (")
	wantError(t, s.Commit("p", changes, true), s.path, "is damaged (")
	mustClose(t, s)
	_, err = Open(dir)
	wantError(t, err, s.path, "is damaged (it is cut short")
}
