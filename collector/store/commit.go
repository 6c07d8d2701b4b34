package store

import (
	"bytes"
	"crypto/rand"
	"errors"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// group is commits that are made in one transaction.
type group struct {
	commits []commit
	done    chan struct{} // closed when err is known
	err     error         // of all: what is wrong with one alone keeps it out
}

// commit is what has changed of a project.
type commit struct {
	project string
	changes map[string][]byte
	fresh   bool
}

// Commit stores the entries of a project that have changed, by key, and deletes
// those without a body; if fresh, it deletes all others too. They are on disk when
// Commit returns nil. After an error other than ErrBroken a later Commit may try
// these changes and further ones. If nothing has changed, it verifies the file.
//
// A transaction costs a sync of the disk and the pages that all projects have in
// common. So commits that wait for the same operation are made in one.
func (s *Store) Commit(project string, changes map[string][]byte, fresh bool) error {
	c := commit{project, changes, fresh}
	if err := c.check(); err != nil {
		return explain(s.path, err)
	}
	s.joining.Lock()
	g := s.next
	leads := g == nil
	if leads {
		g = &group{done: make(chan struct{})}
		s.next = g
	}
	g.commits = append(g.commits, c)
	s.joining.Unlock()
	if leads {
		s.commitGroup(g)
	}
	<-g.done
	return g.err
}

// check returns an error if bbolt would refuse the changes, and with them those of
// all others.
func (c *commit) check() error {
	if len(projectKey(c.project)) > bbolt.MaxKeySize {
		return bolterrors.ErrKeyTooLarge
	}
	for key, body := range c.changes {
		switch {
		case key == "":
			return bolterrors.ErrKeyRequired
		case len(key) > bbolt.MaxKeySize:
			return bolterrors.ErrKeyTooLarge
		case len(body) > bbolt.MaxValueSize-checksumSize:
			return bolterrors.ErrValueTooLarge
		}
	}
	return nil
}

// commitGroup makes the commits that have joined by the time that the file can be
// used.
func (s *Store) commitGroup(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joining.Lock()
	s.next = nil
	s.joining.Unlock()
	defer close(g.done)
	g.err = s.locked(func() error {
		if err := s.verify(); err != nil {
			return err
		}
		// A commit may have failed between its last write and the sync, and so may
		// that of an earlier process: only a further one tells.
		if g.isEmpty() && bytes.Equal(s.attempted, s.committed) {
			return nil
		}
		return s.commit(g.write)
	})
}

func (g *group) isEmpty() bool {
	for _, c := range g.commits {
		if c.fresh || len(c.changes) > 0 {
			return false
		}
	}
	return true
}

func (g *group) write(tx *bbolt.Tx) error {
	for _, c := range g.commits {
		if err := write(tx, c.project, c.changes, c.fresh); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) commit(f func(*bbolt.Tx) error) error {
	err := s.update(f)
	// A commit to a file that is no longer at its path is lost.
	return errors.Join(err, s.remember())
}

// update is bbolt's Update with a new revision, but does not read all pages again
// when f panics: the page that made it panic is among them.
func (s *Store) update(f func(*bbolt.Tx) error) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	scan := scanPages(tx, s.file)
	if err := f(tx); err != nil {
		return err
	}
	revision := make([]byte, 16)
	_, _ = rand.Read(revision) // never fails
	revision = seal(revisionKey, revision)
	if err := tx.Bucket(metaBucket).Put(revisionKey, revision); err != nil {
		return err
	}
	s.attempted, s.scan = revision, scan
	defer func() { s.scan = nil }()
	if err := tx.Commit(); err != nil {
		return refusedError{err}
	}
	s.committed = revision
	return nil
}
