package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// identity tells the file that holds our last commit from any other. The lock
// does not protect it: it can be removed, replaced, cut or overwritten, for
// example by a backup that is restored.
type identity struct {
	committed []byte // the revision of the last commit, which is random
	attempted []byte // of a later commit whose outcome is not known, if there was one

	// How we left the file. Only we write into it.
	head     []byte // the pages that say where all others are
	end      int64  // of the pages in use
	size     int64
	modified time.Time
}

// lostError says what happened to a file in use.
type lostError string

func (l lostError) Error() string { return string(l) }

const (
	errRemoved     lostError = "was removed while it was in use"
	errReplaced    lostError = "was replaced by another file while it was in use"
	errOverwritten lostError = "was overwritten while it was in use"
)

// inPlace returns the file's metadata if its path still leads to the open file.
func (s *Store) inPlace() (fs.FileInfo, error) {
	at, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, errRemoved
	}
	if err != nil {
		return nil, refusedError{err}
	}
	open, err := s.file.Stat()
	if err != nil {
		return nil, refusedError{err}
	}
	if !os.SameFile(at, open) {
		return nil, errReplaced
	}
	return open, nil
}

// remember takes the file as it is now for ours.
func (s *Store) remember() error {
	info, err := s.inPlace()
	if err != nil {
		return err
	}
	s.size, s.modified = info.Size(), info.ModTime()
	if s.head, err = s.readHead(); err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		s.end = tx.Size()
		return s.hasRevision(tx)
	})
}

// verify returns an error unless the file is ours and holds all that was
// committed. It is read as a whole only if something else has written into it, and
// only then used from memory, where bbolt follows any page number.
func (s *Store) verify() error {
	info, err := s.inPlace()
	if err != nil {
		return err
	}
	if info.Size() < s.end {
		return cutShort(info.Size(), s.end)
	}
	head, err := s.readHead()
	if err != nil {
		return err
	}
	if !bytes.Equal(head, s.head) {
		return errOverwritten
	}
	if info.Size() == s.size && info.ModTime().Equal(s.modified) {
		return s.db.View(s.hasRevision)
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		if err := scanPages(tx, s.file)(); err != nil {
			return err
		}
		return errors.Join(s.hasRevision(tx), digests(tx))
	})
	if err != nil {
		return err
	}
	return s.remember()
}

func (s *Store) readHead() ([]byte, error) {
	head := make([]byte, 2*s.db.Info().PageSize)
	if _, err := s.file.ReadAt(head, 0); err != nil {
		return nil, err
	}
	return head, nil
}

func (s *Store) hasRevision(tx *bbolt.Tx) error {
	var revision []byte
	if meta := tx.Bucket(metaBucket); meta != nil {
		revision = meta.Get(revisionKey)
	}
	if !bytes.Equal(revision, s.committed) && (s.attempted == nil || !bytes.Equal(revision, s.attempted)) {
		return errOverwritten
	}
	return nil
}

// digests compares the entries of all projects with their digests.
func digests(tx *bbolt.Tx) error {
	return tx.ForEach(func(key []byte, _ *bbolt.Bucket) error {
		if bytes.Equal(key, metaBucket) {
			return nil
		}
		project, ok := bytes.CutPrefix(key, projectKey(""))
		if !ok {
			return fmt.Errorf("there is no bucket %.24q", key)
		}
		b, want, err := find(tx, string(project))
		if err != nil {
			return err
		}
		return entries(b, want, func(string, []byte) error { return nil })
	})
}

// commitLog is called by bbolt when a commit has failed, before bbolt reads all
// pages for those that are free. It does so in a goroutine of its own, in which a
// page that can't be read would end the process without a message.
type commitLog struct{ store *Store }

// Errorf panics if the pages are not all there.
func (l commitLog) Errorf(string, ...any) {
	if scan := l.store.scan; scan != nil {
		l.store.scan = nil
		if err := scan(); err != nil {
			panic(err)
		}
	}
}

// What the others log, an error says too.

func (commitLog) Error(...any)            {}
func (commitLog) Debug(...any)            {}
func (commitLog) Debugf(string, ...any)   {}
func (commitLog) Info(...any)             {}
func (commitLog) Infof(string, ...any)    {}
func (commitLog) Warning(...any)          {}
func (commitLog) Warningf(string, ...any) {}
func (commitLog) Fatal(...any)            {}
func (commitLog) Fatalf(string, ...any)   {}
func (commitLog) Panic(...any)            {}
func (commitLog) Panicf(string, ...any)   {}
