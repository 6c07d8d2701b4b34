package store

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// wantBroken fails the test unless err is an ErrBroken in one line, and every
// operation from now on returns it.
func wantBroken(t *testing.T, s *Store, err error, texts ...string) {
	t.Helper()
	wantError(t, err, s.path, texts...)
	if !errors.Is(err, ErrBroken) {
		t.Errorf("%v is not ErrBroken", err)
	}
	_, loaded := load(s, "p")
	for _, again := range []error{loaded, s.Commit("p", state{}, false), s.Verify()} {
		if !errors.Is(again, err) {
			t.Errorf("then %v", again)
		}
	}
	mustClose(t, s)
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// overwrite changes the content of a file, as cp does: it remains the same file.
func overwrite(path string, content []byte) error {
	return os.WriteFile(path, content, 0o600)
}

// patch changes a part of a file.
func patch(path string, at int64, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, at)
	return errors.Join(err, f.Close())
}

// newInUse returns a store with two commits, and what the file held after the
// first one.
func newInUse(t *testing.T) (s *Store, older []byte, model state) {
	t.Helper()
	rng := rand.New(rand.NewPCG(21, 1))
	s = mustOpen(t, filepath.Join(t.TempDir(), "state"))
	first, second := randomChanges(rng, 40), randomChanges(rng, 3)
	mustCommit(t, s, "p", first, false)
	older = mustRead(t, s.path)
	mustCommit(t, s, "p", second, false)
	return s, older, merge(merge(nil, first, false), second, false)
}

// Whatever happens to a file in use, the next commit says so, and so does the
// end of the process.
func TestFileLost(t *testing.T) {
	other := func(commits int) []byte {
		s := mustOpen(t, t.TempDir())
		for i := range commits {
			mustCommit(t, s, "p", randomChanges(rand.New(rand.NewPCG(22, uint64(i))), 40), false)
		}
		return mustRead(t, s.path)
	}
	const removed, replaced, overwritten = "was removed while it was in use", "was replaced by another file", "was overwritten while it was in use"
	for name, test := range map[string]struct {
		lose func(path string, older []byte) error
		text string
	}{
		"file removed": {func(path string, _ []byte) error { return os.Remove(path) }, removed},
		"file renamed": {func(path string, _ []byte) error { return os.Rename(path, path+".old") }, removed},
		"link to itself": {func(path string, _ []byte) error {
			return errors.Join(os.Remove(path), os.Symlink(filepath.Base(path), path))
		}, removed},
		"directory removed": {func(path string, _ []byte) error { return os.RemoveAll(filepath.Dir(path)) }, removed},
		"directory renamed": {func(path string, _ []byte) error {
			return os.Rename(filepath.Dir(path), filepath.Dir(path)+".old")
		}, removed},
		"file instead of directory": {func(path string, _ []byte) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), overwrite(filepath.Dir(path), nil))
		}, removed},
		"replaced by a copy of itself": {func(path string, _ []byte) error {
			return errors.Join(overwrite(path+".new", mustRead(t, path)), os.Rename(path+".new", path))
		}, replaced},
		"replaced by an older copy": {func(path string, older []byte) error {
			return errors.Join(overwrite(path+".new", older), os.Rename(path+".new", path))
		}, replaced},
		"replaced by a new state": {func(path string, _ []byte) error {
			return errors.Join(os.Rename(filepath.Dir(path), filepath.Dir(path)+".old"), mustClosed(Open(filepath.Dir(path))))
		}, replaced},
		"overwritten by an older copy":  {func(path string, older []byte) error { return overwrite(path, older) }, overwritten},
		"overwritten by another state":  {func(path string, _ []byte) error { return overwrite(path, other(2)) }, overwritten},
		"overwritten by a longer state": {func(path string, _ []byte) error { return overwrite(path, other(9)) }, overwritten},
		"overwritten by zeros": {func(path string, _ []byte) error {
			return overwrite(path, make([]byte, len(mustRead(t, path))))
		}, overwritten},
		"overwritten by text": {func(path string, _ []byte) error {
			return overwrite(path, bytes.Repeat([]byte("x"), len(mustRead(t, path))))
		}, overwritten},
		"damaged at the end": {func(path string, _ []byte) error {
			return patch(path, int64(lastPage(t, path))*4096+40, []byte("damage"))
		}, "is damaged ("},
		"emptied":        {func(path string, _ []byte) error { return os.Truncate(path, 0) }, "is damaged (it is cut short"},
		"cut to a byte":  {func(path string, _ []byte) error { return os.Truncate(path, 1) }, "is damaged (it is cut short"},
		"cut to a page":  {func(path string, _ []byte) error { return os.Truncate(path, 4096) }, "is damaged (it is cut short"},
		"cut to 3 pages": {func(path string, _ []byte) error { return os.Truncate(path, 3*4096) }, "is damaged (it is cut short"},
		"cut at the end": {func(path string, _ []byte) error {
			return os.Truncate(path, int64(lastPage(t, path))*4096)
		}, "is damaged (it is cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, use := range map[string]func(*Store) error{
				"commit": func(s *Store) error { return s.Commit("p", randomChanges(rand.New(rand.NewPCG(23, 1)), 3), false) },
				"fresh":  func(s *Store) error { return s.Commit("p", state{}, true) },
				"verify": (*Store).Verify,
			} {
				s, older, _ := newInUse(t)
				if err := test.lose(s.path, older); err != nil {
					t.Fatal(what, err)
				}
				wantBroken(t, s, use(s), test.text)
			}
		})
	}
}

func mustClosed(s *Store, err error) error {
	if err != nil {
		return err
	}
	return s.Close()
}

// lastPage returns the last page of a file that is in use.
func lastPage(t *testing.T, path string) int {
	t.Helper()
	content := mustRead(t, path)
	for i := len(content)/4096 - 1; i > 1; i-- {
		page := content[i*4096:]
		if native.Uint64(page) == uint64(i) && native.Uint16(page[8:]) == leafPage && native.Uint16(page[10:]) > 0 {
			return i
		}
	}
	t.Fatal("no page in use")
	return 0
}

// A value that changes where the pages stay sound is found by its checksum.
func TestValueChanged(t *testing.T) {
	s, _, model := newInUse(t)
	longest := slices.MaxFunc(slices.Collect(maps.Values(model)), func(a, b []byte) int { return len(a) - len(b) })
	changed := bytes.Clone(longest)
	changed[len(changed)/2]++
	content := bytes.ReplaceAll(mustRead(t, s.path), longest, changed)
	// The time of the last commit may be that of now, as coarsely as it is kept.
	if err := errors.Join(overwrite(s.path, content), os.Chtimes(s.path, epoch, epoch)); err != nil {
		t.Fatal(err)
	}
	wantBroken(t, s, s.Commit("p", state{}, false), "is damaged (", "checksum of entry")
}

// What leaves the content as it is leaves the store as it is.
func TestFileTouched(t *testing.T) {
	for name, touch := range map[string]func(path string) error{
		"times":     func(path string) error { return os.Chtimes(path, epoch, epoch) },
		"mode":      func(path string) error { return os.Chmod(path, 0o640) },
		"link":      func(path string) error { return os.Link(path, path+".link") },
		"longer":    func(path string) error { return os.Truncate(path, 1<<20) },
		"directory": func(path string) error { return overwrite(path+".copy", nil) },
		"there and back": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.Rename(path+".old", path))
		},
		"rewritten": func(path string) error {
			content, err := os.ReadFile(path)
			return errors.Join(err, patch(path, 0, content))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, model := newInUse(t)
			if err := touch(s.path); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(); err != nil {
				t.Error(err)
			}
			more := randomChanges(rand.New(rand.NewPCG(24, 1)), 3)
			mustCommit(t, s, "p", more, false)
			want(t, s, "p", merge(model, more, false))
		})
	}
}

// That the path can't be looked at says nothing about the file: the next commit
// tries again.
func TestPathOutOfReach(t *testing.T) {
	s, _, model := newInUse(t)
	more := randomChanges(rand.New(rand.NewPCG(25, 1)), 3)
	var err error
	withRefused(t, refused{call: syscall.SYS_NEWFSTATAT, errno: syscall.EACCES}, func() { err = s.Commit("p", more, false) })
	wantError(t, err, s.path, "cannot be used (permission denied)")
	want(t, s, "p", model)
	mustCommit(t, s, "p", more, false)
	want(t, s, "p", merge(model, more, false))
}

// A file that is lost while a commit is written has not been committed to.
func TestFileLostDuringCommit(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"removed":  os.Remove,
		"replaced": func(path string) error { return errors.Join(overwrite(path+".new", nil), os.Rename(path+".new", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := newInUse(t)
			err := s.use(func() error {
				return s.commit(func(tx *bbolt.Tx) error {
					return errors.Join(write(tx, "p", state{}, false), lose(s.path))
				})
			})
			wantBroken(t, s, err, name+" ")
		})
	}
}

// A file that is overwritten as soon as a commit is written is not taken for ours.
func TestFileOverwrittenAfterCommit(t *testing.T) {
	s, older, _ := newInUse(t)
	err := s.use(func() error {
		written := s.update(func(tx *bbolt.Tx) error { return write(tx, "p", state{}, false) })
		return errors.Join(written, overwrite(s.path, older), s.remember())
	})
	wantBroken(t, s, err, "was overwritten while it was in use")
}

// A fault leaves bbolt locked, for example where it begins. Nothing waits for
// that lock.
func TestFaultWithLocksHeld(t *testing.T) {
	for name, begin := range map[string]func(s *Store) error{
		"reading": func(s *Store) error { return s.db.View(func(*bbolt.Tx) error { return nil }) },
		"writing": func(s *Store) error { return s.update(func(*bbolt.Tx) error { return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := newInUse(t)
			err := s.use(func() error {
				if err := os.Truncate(s.path, 0); err != nil {
					return err
				}
				return begin(s)
			})
			wantBroken(t, s, err, "is damaged (a part of it can't be read)")
		})
	}
}

// After a commit that failed, bbolt looks at all pages in another goroutine,
// where a page that is not there would end the process.
func TestFaultAfterFailedCommit(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	many, end := state{}, int64(0)
	for i := range 400 {
		many[string(rune('a'+i%26))+string(rune('a'+i/26))] = bytes.Repeat([]byte("v"), 1000)
	}
	mustCommit(t, s, "p", many, false)
	// Until what the commit reads is not at the end of the file, but names are.
	for root, last := 0, 0; root == last; {
		err := s.use(func() error {
			return s.commit(func(tx *bbolt.Tx) error { return write(tx, "p", state{}, false) })
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.db.View(func(tx *bbolt.Tx) error {
			root = int(tx.Cursor().Bucket().RootPage())
			for id := 0; int64(id)*4096 < tx.Size(); id++ {
				if info, err := tx.Page(id); err != nil {
					return err
				} else if info.Type != "free" {
					last = id
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		end = int64(last) * 4096
	}
	var err error
	withRefused(t, refused{call: syscall.SYS_FDATASYNC, errno: syscall.EIO}, func() {
		err = s.use(func() error {
			return s.update(func(tx *bbolt.Tx) error {
				return errors.Join(write(tx, "p", state{}, false), os.Truncate(s.path, end))
			})
		})
	})
	wantBroken(t, s, err, "is damaged (")
}

// What a commit costs to verify does not grow with what is stored.
func BenchmarkVerify(b *testing.B) {
	s := mustOpen(b, b.TempDir())
	many := state{}
	for i := range 20_000 {
		many[string(rune('a'+i%26))+time.Duration(i).String()] = bytes.Repeat([]byte("v"), 1000)
	}
	mustCommit(b, s, "p", many, false)
	for b.Loop() {
		if err := s.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}
