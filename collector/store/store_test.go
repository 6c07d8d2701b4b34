package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
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

func mustCommit(tb testing.TB, s *Store, project string, changes State, fresh bool) {
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

// want fails the test unless what is stored of the project equals the model;
// nil means that nothing is stored.
func want(tb testing.TB, s *Store, project string, model *State) {
	tb.Helper()
	got, ok, err := s.Load(project)
	if err != nil {
		tb.Fatal(err)
	}
	if ok != (model != nil) {
		tb.Fatalf("%s: stored: %v, want %v", project, ok, model != nil)
	}
	if ok && !equal(got, ok, model) {
		tb.Fatalf("%s: loaded\n%s\nwant\n%s", project, brief(unpacked(got)), brief(*model))
	}
}

func brief(s State) string {
	return fmt.Sprintf("%d listed %d gone %d pending %d abandoned holes %d baseline %v names %v docs %v",
		len(s.Ledger.Listed), len(s.Ledger.Delisted), len(s.Ledger.Pending), len(s.Ledger.Abandoned), s.Ledger.Unreadable, s.Ledger.InitialSync,
		slices.Sorted(maps.Keys(s.Names)), slices.Sorted(maps.Keys(s.Docs)))
}

// equal reports whether a loaded state is the model, of which nil is nothing.
func equal(got State, ok bool, model *State) bool {
	return ok == (model != nil) && (!ok || reflect.DeepEqual(unpacked(got), *model))
}

// unpacked returns a loaded state with its pending traces in the map.
func unpacked(s State) State {
	s.Ledger.Pending = map[ledger.ID]*ledger.Pending{}
	if s.Ledger.Stored != nil {
		s.Ledger.Stored.All(func(p *ledger.Pending) { s.Ledger.Pending[p.Row.ID] = p })
		s.Ledger.Stored = nil
	}
	return s
}

func emptyState() State {
	return State{
		Ledger: ledger.State{Pending: map[ledger.ID]*ledger.Pending{}, Abandoned: map[ledger.ID]bool{}},
		Names:  map[string][]byte{},
		Docs:   map[string][]byte{},
	}
}

// merge does to a plain model what Commit does to the file. The result shares
// nothing that a later merge changes.
func merge(before *State, ch State, fresh bool) *State {
	out := emptyState()
	if before != nil && !fresh {
		out.Ledger.Listed, out.Ledger.Delisted = before.Ledger.Listed, before.Ledger.Delisted
		maps.Copy(out.Ledger.Pending, before.Ledger.Pending)
		maps.Copy(out.Ledger.Abandoned, before.Ledger.Abandoned)
		maps.Copy(out.Names, before.Names)
		maps.Copy(out.Docs, before.Docs)
	}
	chunks := func(all, changed []ledger.Chunk) []ledger.Chunk {
		byKey := map[uint64]ledger.Chunk{}
		for _, c := range slices.Concat(all, changed) {
			if byKey[c.Key] = c; len(c.IDs) == 0 {
				delete(byKey, c.Key)
			}
		}
		var merged []ledger.Chunk
		for _, key := range slices.Sorted(maps.Keys(byKey)) {
			merged = append(merged, byKey[key])
		}
		return merged
	}
	out.Ledger.Listed = chunks(out.Ledger.Listed, ch.Ledger.Listed)
	out.Ledger.Delisted = chunks(out.Ledger.Delisted, ch.Ledger.Delisted)
	for id, p := range ch.Ledger.Pending {
		if out.Ledger.Pending[id] = p; p == nil {
			delete(out.Ledger.Pending, id)
		}
	}
	for id, abandoned := range ch.Ledger.Abandoned {
		if out.Ledger.Abandoned[id] = abandoned; !abandoned {
			delete(out.Ledger.Abandoned, id)
		}
	}
	values := func(all, changed map[string][]byte) {
		for key, v := range changed {
			if all[key] = v; v == nil {
				delete(all, key)
			}
		}
	}
	values(out.Names, ch.Names)
	values(out.Docs, ch.Docs)
	out.Ledger.Unreadable, out.Ledger.InitialSync = ch.Ledger.Unreadable, ch.Ledger.InitialSync
	return &out
}

func randomID(rng *rand.Rand) (id ledger.ID) {
	binary.LittleEndian.PutUint64(id[:], rng.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rng.Uint64())
	return id
}

func randomTime(rng *rand.Rand) time.Time {
	switch rng.IntN(8) {
	case 0:
		return time.Time{}
	case 1:
		return time.UnixMicro(rng.Int64N(5) - 2).UTC() // around the one that is stored as none
	case 2:
		return time.UnixMicro(-rng.Int64N(1 << 54)).UTC()
	}
	return epoch.Add(time.Duration(rng.Int64N(1e9)) * time.Microsecond)
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func randomPending(rng *rand.Rand, id ledger.ID) *ledger.Pending {
	yes := func() bool { return rng.IntN(2) == 0 }
	return &ledger.Pending{
		Row: ledger.Row{
			ID: id, Ref: string(randomBytes(rng, rng.IntN(40))), Name: strings.Repeat("n", rng.IntN(200)), Status: "ok"[:rng.IntN(3)],
			HasStatus: yes(), Start: randomTime(rng), End: randomTime(rng),
			Duration: time.Duration(rng.Int64()>>rng.IntN(64) - 5), HasDuration: yes(),
			Tokens: rng.Int64()>>rng.IntN(64) - 5, HasTokens: yes(), Kind: ledger.Kind(rng.IntN(3)),
		},
		FirstSeen: randomTime(rng), Since: randomTime(rng), Ended: randomTime(rng), EndBy: randomTime(rng), Seen: randomTime(rng), Lost: yes(),
	}
}

// randomChanges returns changes of about n entries of each kind, some of which
// concern what is stored already.
func randomChanges(rng *rand.Rand, n int) State {
	ch := emptyState()
	few := func(i int) ledger.ID { return ledger.ID{0: byte(i), 15: 1} }
	chunks := func() (out []ledger.Chunk) {
		for range rng.IntN(n + 1) {
			c := ledger.Chunk{Key: 1<<63 + uint64(rng.IntN(4*n))<<32, Missed: randomTime(rng)}
			if slices.ContainsFunc(out, func(o ledger.Chunk) bool { return o.Key == c.Key }) {
				continue
			}
			for range []int{0, 1, 119, 120}[rng.IntN(4)] {
				c.IDs = append(c.IDs, randomID(rng))
			}
			out = append(out, c)
		}
		return out
	}
	ch.Ledger.Listed, ch.Ledger.Delisted = chunks(), chunks()
	for range rng.IntN(n + 1) {
		id := few(rng.IntN(3 * n))
		if ch.Ledger.Pending[id] = nil; rng.IntN(3) > 0 {
			ch.Ledger.Pending[id] = randomPending(rng, id)
		}
		ch.Ledger.Abandoned[few(rng.IntN(3*n))] = rng.IntN(3) > 0
		value := randomBytes(rng, rng.IntN(3000))
		if rng.IntN(3) == 0 {
			value = nil
		}
		ch.Names[fmt.Sprint("name ", rng.IntN(n))] = value
		ch.Docs[fmt.Sprint("doc ", rng.IntN(n))] = randomBytes(rng, rng.IntN(600))
	}
	ch.Ledger.Unreadable, ch.Ledger.InitialSync = rng.Uint64N(100), rng.IntN(2) == 0
	return ch
}

// What is loaded is what a plain model of the commits holds, of each project and
// after each commit.
func TestCommitAndLoad(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := mustOpen(t, dir)
	projects := []string{"", "default", "meta", "zebra"}
	models := map[string]*State{}
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
		mustCommit(t, s, "p", State{Ledger: l.Changes()}, false)
		l.Committed()
		mustClose(t, s)
		s = mustOpen(t, dir)
		state, ok, err := s.Load("p")
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		back := ledger.Restore(cfg, state.Ledger, now)
		later := now.Add(time.Hour)
		if got, want := back.IDs(0, back.Listed()), l.IDs(0, l.Listed()); !slices.Equal(got, want) {
			t.Fatalf("step %d: %d ids, want %d, or another order", step, len(got), len(want))
		}
		if got, want := back.Due(later), l.Due(later); !slices.Equal(got, want) || back.IsInitialSync() != l.IsInitialSync() {
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
		"folder under a file": {
			func(dir string) { writeFile(t, dir, "x") },
			[]string{"cannot be used (not a directory): this user needs"},
		},
		"folder in place of the file": {
			func(dir string) { mkdir(t, filepath.Join(dir, fileName)) },
			[]string{fileName, "is damaged (invalid database): move it away to begin anew"},
		},
		"text": {
			func(dir string) {
				mkdir(t, dir)
				writeFile(t, filepath.Join(dir, fileName), strings.Repeat("not a database\n", 999))
			},
			[]string{fileName, "is damaged (invalid database): move it away to begin anew"},
		},
		"another program's database": {
			func(dir string) {
				edit(t, dir, func(tx *bbolt.Tx) error { return tx.DeleteBucket(metaBucket) })
			},
			[]string{fileName, "is damaged (it has no version): move it away to begin anew"},
		},
		"newer version": {
			func(dir string) {
				edit(t, dir, func(tx *bbolt.Tx) error {
					return tx.Bucket(metaBucket).Put(versionKey, seal(versionKey, []byte{7}))
				})
			},
			[]string{fileName, "is of version 7, and this program knows up to 1: use a newer one"},
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
	_, _, err := s.Load("p")
	wantError(t, err, s.path, "file already closed")
	wantError(t, s.Commit("p", State{}, false), s.path, "file already closed")
}

func TestFailedCommitChangesNothing(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	changes := randomChanges(rand.New(rand.NewPCG(8, 1)), 5)
	mustCommit(t, s, "p", changes, false)
	huge := strings.Repeat("x", 1<<16)
	wantError(t, s.Commit("p", State{Names: map[string][]byte{"new": {1}, huge: {1}}}, true), s.path, "key too large")
	want(t, s, "p", merge(nil, changes, false))
}
