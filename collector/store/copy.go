package store

import (
	"cmp"
	"fmt"
	"os"

	"go.etcd.io/bbolt"
)

// Copy writes the state, as it is after the last commit, to a new file that is a
// state too, and verifies that. Commits wait only while the file is read. An error
// leaves no file, and says nothing about the state.
func (s *Store) Copy(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = cmp.Or(s.writeTo(file), file.Sync(), file.Close()); err == nil {
		err = verifyFile(path)
	}
	if err != nil {
		_ = os.Remove(path) // the first error says what is wrong
	}
	return err
}

func (s *Store) writeTo(file *os.File) error {
	var failed error // perhaps not the fault of the state
	err := s.use(func() error {
		if err := s.verify(); err != nil {
			return err
		}
		return s.db.View(func(tx *bbolt.Tx) error {
			_, failed = tx.WriteTo(file)
			return nil
		})
	})
	return cmp.Or(err, failed)
}

// verifyFile returns an error unless a file is a state with all of its entries.
func verifyFile(path string) error {
	s, err := openFile(path)
	if err != nil {
		return err
	}
	return cmp.Or(s.use(func() error { return s.db.View(digests) }), s.Close())
}

// OpenCopy returns a copy of the state, at its start. It lies beside the state,
// where there is a place to write, and without a name, so that a process that is
// killed leaves no file.
func (s *Store) OpenCopy() (*os.File, error) {
	s.copying.Lock()
	defer s.copying.Unlock()
	path := s.path + ".snapshot"
	// A process that was killed while it copied left it, or a system that can't
	// remove open files.
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	if err := s.Copy(path); err != nil {
		return nil, fmt.Errorf("copy of the state: %w", err)
	}
	file, err := os.Open(path)
	_ = os.Remove(path) // the next one tries again
	return file, err
}
