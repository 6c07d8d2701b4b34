package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"opper_exporter/collector/ledger"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123_456_000, time.UTC)

func mustOpen(tb testing.TB, dir string) *Store {
	tb.Helper()
	s, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, s) })
	return s
}

func mustCommit(tb testing.TB, s *Store, project string, changes state, fresh bool) {
	tb.Helper()
	if err := s.Commit(project, changes, fresh); err != nil {
		tb.Fatal(err)
	}
}

func mustClose(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

// state holds the entries of a project by key; nil if nothing is stored of it.
type state = map[string][]byte

func load(s *Store, project string) (state, error) {
	got := state{}
	found, err := s.Load(project, func(key string, body []byte) error {
		got[key] = bytes.Clone(body)
		return nil
	})
	if !found || err != nil {
		return nil, err
	}
	return got, nil
}

// want fails the test unless what is stored of the project equals the model.
func want(tb testing.TB, s *Store, project string, model state) {
	tb.Helper()
	got, err := load(s, project)
	if err != nil {
		tb.Fatal(err)
	}
	if !equal(got, model) {
		tb.Fatalf("%s: loaded\n%s\nwant\n%s", project, brief(got), brief(model))
	}
}

func brief(s state) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%.24q: %d bytes, %.8x…\n", key, len(s[key]), s[key])
	}
	return b.String()
}

func equal(a, b state) bool {
	return (a == nil) == (b == nil) && maps.EqualFunc(a, b, bytes.Equal)
}

// merge does to a plain model what Commit does to the file.
func merge(before, changes state, fresh bool) state {
	out := state{}
	if !fresh {
		maps.Copy(out, before)
	}
	for key, body := range changes {
		if out[key] = body; body == nil {
			delete(out, key)
		}
	}
	return out
}

func randomID(rng *rand.Rand) (id ledger.ID) {
	binary.LittleEndian.PutUint64(id[:], rng.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rng.Uint64())
	return id
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// randomChanges returns changes of about n entries of each kind that a project
// has, some of which concern what is stored already.
func randomChanges(rng *rand.Rand, n int) state {
	ch := state{"s": randomBytes(rng, 2)} // changes each time
	body := func(size int) []byte {
		if rng.IntN(3) == 0 {
			return nil
		}
		return randomBytes(rng, size)
	}
	for range rng.IntN(n + 1) {
		ch[chunkKey("d", 1<<63+uint64(rng.IntN(4*n))<<32)] = body([]int{1, 17, 1912, 1930}[rng.IntN(4)])
		ch[chunkKey("l", 1<<63+uint64(rng.IntN(4*n))<<32)] = body([]int{1, 17, 1912, 1930}[rng.IntN(4)])
	}
	few := func() string { return string([]byte{0: byte(rng.IntN(3 * n)), 15: 1}) }
	for range rng.IntN(n + 1) {
		ch["p"+few()] = body(rng.IntN(300))
		ch["a"+few()] = body(0)
		ch[fmt.Sprint("name ", rng.IntN(n))] = body(rng.IntN(3000))
		ch[fmt.Sprint("document ", rng.IntN(n))] = randomBytes(rng, rng.IntN(600))
	}
	return ch
}

// step returns what commit i of many changes.
func step(i int) state { return randomChanges(rand.New(rand.NewPCG(13, uint64(i))), 10) }

// chunkKey returns the key of entries that are stored in the order of numbers.
func chunkKey(kind string, number uint64) string {
	return kind + string(binary.BigEndian.AppendUint64(nil, number))
}

// What is loaded is what a plain model of the commits holds, of each project and
// after each commit.
func TestCommitAndLoad(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := mustOpen(t, dir)
	projects := []string{"", "default", "meta", "zebra"}
	models := map[string]state{}
	for _, p := range projects {
		want(t, s, p, nil)
	}
	for range 120 {
		p := projects[rng.IntN(len(projects))]
		changes, fresh := randomChanges(rng, 12), rng.IntN(15) == 0
		mustCommit(t, s, p, changes, fresh)
		models[p] = merge(models[p], changes, fresh)
		if rng.IntN(3) == 0 {
			mustClose(t, s)
			s = mustOpen(t, dir)
		}
		for _, p := range projects {
			want(t, s, p, models[p])
		}
	}
	// Twice is once.
	changes := randomChanges(rng, 12)
	models[""] = merge(models[""], changes, false)
	for range 2 {
		mustCommit(t, s, "", changes, false)
		want(t, s, "", models[""])
	}
	for path, perm := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, fileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != perm {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, perm)
		}
	}
}

// A ledger goes on from the file as if nothing had happened.
func TestLedgerGoesOn(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	cfg := ledger.Config{SettleDelay: 30 * time.Second, AbandonAfter: time.Hour, RecheckInterval: time.Second}
	dir, now := t.TempDir(), epoch
	s := mustOpen(t, dir)
	l := ledger.New(cfg)
	var list []ledger.Row
	for step := range 60 {
		now = now.Add(time.Minute)
		for range rng.IntN(40) {
			r := ledger.Row{ID: randomID(rng), Name: "n", Start: now, HasTokens: true, Tokens: rng.Int64N(9)}
			if rng.IntN(3) > 0 {
				r.End = now
			}
			list = slices.Insert(list, rng.IntN(min(len(list), 5)+1), r)
		}
		list = list[:min(len(list), 400)]
		l.Observe(ledger.Run{Rows: list, AtStart: true, AtEnd: true, When: ledger.When{Asked: now, Read: now}}, &ledger.Events{})
		if step == 5 {
			l.EndInitialSync()
		}
		changes := state{}
		l.Changes(func(key string, body []byte) { changes[key] = body })
		mustCommit(t, s, "p", changes, false)
		l.Committed()
		mustClose(t, s)
		s = mustOpen(t, dir)
		back := ledger.New(cfg)
		if _, err := s.Load("p", back.Restore); err != nil {
			t.Fatal(err)
		}
		if err := back.EndRestore(now); err != nil {
			t.Fatal(err)
		}
		later := now.Add(time.Hour)
		if got, want := back.IDs(0, back.Listed()), l.IDs(0, l.Listed()); !slices.Equal(got, want) {
			t.Fatalf("step %d: %d ids, want %d, or another order", step, len(got), len(want))
		}
		if got, want := back.Due(later, 1000), l.Due(later, 1000); !slices.Equal(got, want) || back.IsInitialSync() != l.IsInitialSync() {
			t.Fatalf("step %d: due %v, want %v", step, got, want)
		}
		for _, r := range list {
			if !back.HasSeen(r.ID) {
				t.Fatalf("step %d: %s is forgotten", step, r.ID)
			}
		}
		l = back
	}
}

// wantError fails the test unless err is one line that names the path and holds
// all the texts.
func wantError(tb testing.TB, err error, path string, texts ...string) {
	tb.Helper()
	if err == nil {
		tb.Fatalf("no error, want one with %q", texts)
	}
	msg := err.Error()
	for _, text := range append(texts, path) {
		if !strings.Contains(msg, text) {
			tb.Errorf("error %q does not have %q", msg, text)
		}
	}
	if strings.Contains(msg, "\n") {
		tb.Errorf("error %q has more than one line", msg)
	}
}

func TestOpenRefused(t *testing.T) {
	for name, test := range map[string]struct {
		make  func(dir string) // what is there before
		texts []string
	}{
		"directory under a file": {
			func(dir string) { writeFile(t, dir, "x") },
			[]string{"cannot be used (not a directory): this user needs"},
		},
		"directory in place of the file": {
			func(dir string) { mkdir(t, filepath.Join(dir, fileName)) },
			[]string{fileName, "is damaged (invalid database): move it away to start from zero"},
		},
		"text": {
			func(dir string) {
				mkdir(t, dir)
				writeFile(t, filepath.Join(dir, fileName), strings.Repeat("not a database\n", 999))
			},
			[]string{fileName, "is damaged (invalid database): move it away to start from zero"},
		},
		"another program's database": {
			func(dir string) {
				edit(t, dir, func(tx *bbolt.Tx) error { return tx.DeleteBucket(metaBucket) })
			},
			[]string{fileName, "is damaged (it has no version): move it away to start from zero"},
		},
		"another version": {
			func(dir string) {
				edit(t, dir, func(tx *bbolt.Tx) error {
					return tx.Bucket(metaBucket).Put(versionKey, seal(versionKey, []byte{11}))
				})
			},
			[]string{fileName, "is of version 11, and this program reads version 10 only: use the program that wrote it"},
		},
		"version 1": {
			func(dir string) {
				mkdir(t, dir)
				content, err := os.ReadFile(filepath.Join("testdata", "version1.db"))
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(dir, fileName), string(content))
			},
			[]string{fileName, "is of version 1, and this program reads version 10 only: use the program that wrote it, or move the file away to start from zero"},
		},
		"version without a checksum": {
			func(dir string) {
				edit(t, dir, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(versionKey, []byte{1}) })
			},
			[]string{fileName, "is damaged", "no checksum"},
		},
		"in use": {
			func(dir string) { mustOpen(t, dir) },
			[]string{fileName, "is in use by another process"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			test.make(dir)
			path := filepath.Join(dir, fileName)
			before, _ := os.ReadFile(path)
			_, err := Open(dir)
			wantError(t, err, dir, test.texts...)
			if after, _ := os.ReadFile(path); !slices.Equal(before, after) {
				t.Error("the file has changed")
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit changes a new file behind the store's back.
func edit(t *testing.T, dir string, f func(*bbolt.Tx) error) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, "p", randomChanges(rand.New(rand.NewPCG(1, 1)), 3), false)
	if err := s.db.Update(f); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

func TestUseAfterClose(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	mustClose(t, s)
	_, err := load(s, "p")
	wantError(t, err, s.path, "file already closed")
	wantError(t, s.Commit("p", state{}, false), s.path, "file already closed")
}

func TestFailedCommitChangesNothing(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	changes := randomChanges(rand.New(rand.NewPCG(8, 1)), 5)
	mustCommit(t, s, "p", changes, false)
	huge := strings.Repeat("x", 1<<16)
	wantError(t, s.Commit("p", state{"new": {1}, huge: {1}}, true), s.path, "key too large")
	want(t, s, "p", merge(nil, changes, false))
}
