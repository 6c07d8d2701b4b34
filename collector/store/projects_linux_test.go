package store

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func wantProjects(t *testing.T, s *Store, names ...string) {
	t.Helper()
	got, err := s.Projects()
	if err != nil || !slices.Equal(got, names) {
		t.Errorf("projects %q, %v, want %q", got, err, names)
	}
}

// A project is renamed or deleted as a whole, and others stay as they are. What
// can't be written changes nothing.
func TestRenameAndDelete(t *testing.T) {
	rng := rand.New(rand.NewPCG(41, 1))
	dir := t.TempDir()
	s := mustOpen(t, dir)
	p, q := randomChanges(rng, 200), randomChanges(rng, 20)
	mustCommit(t, s, "p", p, false)
	mustCommit(t, s, "q", q, false)
	model, other := merge(nil, p, false), merge(nil, q, false)
	change := func(f func() error) {
		t.Helper()
		for _, r := range []refused{
			{call: syscall.SYS_PWRITE64, errno: syscall.ENOSPC, to: 1 << 31},
			{call: syscall.SYS_PWRITE64, errno: syscall.ENOSPC, to: 2 * 4096},
			{call: syscall.SYS_FDATASYNC, errno: syscall.EIO},
		} {
			before, err := s.Projects()
			if err != nil {
				t.Fatal(err)
			}
			withRefused(t, r, func() { err = f() })
			wantError(t, err, s.path, "cannot be used (")
			mustClose(t, s)
			s = mustOpen(t, dir)
			wantProjects(t, s, before...)
			want(t, s, "q", other)
			want(t, s, before[0], model)
		}
		if err := f(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		s = mustOpen(t, dir)
		want(t, s, "q", other)
	}
	change(func() error { return s.Rename("p", "a") })
	wantProjects(t, s, "a", "q")
	want(t, s, "a", model)
	want(t, s, "p", nil)
	wantError(t, s.Rename("none", "b"), s.path, `there is no project "none"`)
	wantError(t, s.Rename("a", "q"), s.path, `there is already a project "q"`)
	wantError(t, s.Delete("none"), s.path, `there is no project "none"`)

	copied := filepath.Join(t.TempDir(), "new", "state")
	if err := s.CopyTo(copied); err != nil {
		t.Fatal(err)
	}
	change(func() error { return s.Delete("a") })
	wantProjects(t, s, "q")
	want(t, s, "a", nil)
	more := randomChanges(rng, 20)
	mustCommit(t, s, "a", more, false)
	want(t, s, "a", merge(nil, more, false))

	c := mustOpen(t, copied)
	want(t, c, "a", model)
	want(t, c, "q", other)
	if err := s.CopyTo(copied); err == nil {
		t.Error("a copy has replaced a state")
	}
	// What is left of a copy that was interrupted is no state.
	half := t.TempDir()
	writeFile(t, filepath.Join(half, fileName+".part"), "half a copy")
	if err := s.CopyTo(half); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(half); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}
