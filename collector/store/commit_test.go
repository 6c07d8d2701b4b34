package store

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// transactions returns the number of transactions that were committed to a file.
func transactions(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.use(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// together makes commits that all wait, or are refused at once, before held runs,
// and returns their errors.
func together(t *testing.T, s *Store, commits []commit, held func()) []error {
	t.Helper()
	errs, done := make([]error, len(commits)), make(chan struct{}, len(commits))
	err := s.use(func() error {
		for i, c := range commits {
			go func() {
				errs[i] = s.Commit(c.project, c.changes, c.fresh)
				done <- struct{}{}
			}()
		}
		for began := time.Now(); ; runtime.Gosched() {
			joined := 0
			s.joining.Lock()
			if s.next != nil {
				joined = len(s.next.commits)
			}
			s.joining.Unlock()
			if joined+len(done) == len(commits) {
				break
			}
			if time.Since(began) > time.Minute {
				t.Errorf("only %d of %d commits share a transaction", joined, len(commits))
				break
			}
		}
		held()
		return nil
	})
	for range commits {
		<-done
	}
	if err != nil {
		t.Fatal(err)
	}
	return errs
}

func many(n int) (commits []commit) {
	for i := range n {
		commits = append(commits, commit{fmt.Sprint("project ", i), step(i), false})
	}
	return commits
}

// Commits that wait for the same operation are one transaction, which brings those
// of the same project in their order.
func TestCommitsShareATransaction(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	commits := many(50)
	before := transactions(t, s)
	for i, err := range together(t, s, commits, func() {}) {
		if err != nil {
			t.Errorf("%s: %v", commits[i].project, err)
		}
	}
	if n := transactions(t, s) - before; n != 1 {
		t.Errorf("%d transactions for %d commits, want 1", n, len(commits))
	}
	mustClose(t, s)
	s = mustOpen(t, dir)
	for _, c := range commits {
		want(t, s, c.project, merge(nil, c.changes, false))
	}
	// One that nothing waits with is a transaction of its own.
	before = transactions(t, s)
	for i := range 3 {
		mustCommit(t, s, "alone", step(i), false)
	}
	if n := transactions(t, s) - before; n != 3 {
		t.Errorf("%d transactions for 3 commits, want 3", n)
	}
}

// What bbolt refuses of one project fails its commit alone.
func TestRefusedCommitFailsAlone(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	huge := strings.Repeat("x", bbolt.MaxKeySize+1)
	for _, bad := range []commit{
		{"bad", state{"new": {1}, huge: {1}}, true},
		{"bad", state{"new": {1}, "": {1}}, true},
		{huge, state{"new": {1}}, false},
	} {
		commits := append(many(9), bad)
		for i, err := range together(t, s, commits, func() {}) {
			if i < 9 && err != nil {
				t.Error(err)
			} else if i == 9 {
				wantError(t, err, s.path, "key ")
			}
		}
		for _, c := range commits[:9] {
			want(t, s, c.project, merge(nil, c.changes, false))
		}
		want(t, s, "bad", nil)
	}
}

// A closed store refuses those that waited, and those that come later.
func TestClosedReachesAll(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	for range 2 {
		for _, err := range together(t, s, many(5), func() { s.closed = true }) {
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%v, want %v", err, fs.ErrClosed)
			}
		}
		s.closed = false
	}
}

// A commit without changes writes nothing.
func TestCommitOfNothing(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	mustCommit(t, s, "p", step(1), false)
	before := transactions(t, s)
	mustCommit(t, s, "p", nil, false)
	if n := transactions(t, s) - before; n != 0 {
		t.Errorf("%d transactions for a commit of nothing", n)
	}
	mustClose(t, s)
	// Nothing is known of how the last commit of another process ended.
	s = mustOpen(t, dir)
	before = transactions(t, s)
	mustCommit(t, s, "p", nil, false)
	if n := transactions(t, s) - before; n != 1 {
		t.Errorf("%d transactions for the first commit of a process, want 1", n)
	}
	want(t, s, "p", merge(nil, step(1), false))
}
