package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"
)

// Path returns the path of the file.
func (s *Store) Path() string { return s.path }

// Projects returns the names of the projects of which something is stored, sorted.
func (s *Store) Projects() (names []string, err error) {
	err = s.use(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(key []byte, _ *bbolt.Bucket) error {
				if name, ok := bytes.CutPrefix(key, projectKey("")); ok {
					names = append(names, string(name))
				}
				return nil
			})
		})
	})
	return names, err
}

// Delete deletes all that is stored of a project.
func (s *Store) Delete(project string) error { return s.move(project, "") }

// Rename stores the state of a project under another name.
func (s *Store) Rename(from, to string) error { return s.move(from, to) }

// move renames a project, or deletes it if to is empty.
func (s *Store) move(from, to string) error {
	names, err := s.Projects()
	switch {
	case err != nil:
		return err
	case !slices.Contains(names, from):
		return fmt.Errorf("%s: there is no project %q", s.path, from)
	case slices.Contains(names, to):
		return fmt.Errorf("%s: there is already a project %q", s.path, to)
	}
	return s.use(func() error {
		if err := s.verify(); err != nil {
			return err
		}
		return s.commit(func(tx *bbolt.Tx) error {
			if to != "" {
				changes := map[string][]byte{}
				b, want, err := find(tx, from)
				if err != nil {
					return err
				}
				err = entries(b, want, func(key string, body []byte) error {
					changes[key] = bytes.Clone(body)
					return nil
				})
				if err != nil {
					return err
				}
				if err := write(tx, to, changes, true); err != nil {
					return err
				}
			}
			return cmp.Or(tx.DeleteBucket(projectKey(from)), tx.Bucket(metaBucket).Delete(projectKey(from)))
		})
	})
}

// CopyTo copies the state into a directory, as the state there, unless there is
// one. A process that is killed leaves none, or a whole one.
func (s *Store) CopyTo(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, fileName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, fmt.Errorf("%s: %w, expected a directory without a state", path, fs.ErrExist))
	}
	part := path + ".part"
	if err := os.RemoveAll(part); err != nil { // of a process that was killed
		return err
	}
	if err := s.Copy(part); err != nil {
		return err
	}
	return cmp.Or(os.Rename(part, path), syncDir(dir))
}
