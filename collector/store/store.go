// Package store persists the state of projects, in one transaction per sync. Syncs
// that wait for each other share one.
//
// A file has a bucket "meta", which holds the version of the file, the revision
// of the last commit and a digest of each project, and a bucket for each project.
// In there are all entries of the project, so that a commit touches one tree only.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	fileName = "opper_exporter.db"
	// Version is that of all that is in the file: it grows when the encoding of
	// an entry changes.
	Version = 10

	// lockWait is long enough for another start to check the file and to find that
	// it comes second.
	lockWait = 200 * time.Millisecond
)

var (
	metaBucket  = []byte("meta")
	versionKey  = []byte("version")
	revisionKey = []byte("revision")
)

// ErrBroken is the error of a Store whose file is damaged, or is no longer the
// one that was opened. Only a new process can use the path again: bbolt may have
// been interrupted with its locks held.
var ErrBroken = errors.New("state file is unusable")

// ErrInUse is the error of a file that another process has open.
var ErrInUse = errors.New("is in use by another process")

// Store is safe for concurrent use.
type Store struct {
	path string

	// One operation at a time: one that waits inside bbolt for another that faults
	// would wait forever.
	mu     sync.Mutex
	db     *bbolt.DB
	file   *os.File // the one that db has open
	closed bool
	broken error // what every operation returns from then on

	identity
	scan func() error // while a commit is written, see commitLog

	joining sync.Mutex
	next    *group // which commits can still join; nil if none waits

	copying sync.Mutex // one OpenCopy at a time
}

// Open opens the file in dir, both of which it creates if they are missing, and
// checks it. An error says in one line which path cannot be used, why, and what to
// do.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain(dir, err)
	}
	return openFile(filepath.Join(dir, fileName))
}

func openFile(path string) (*Store, error) {
	s := &Store{path: path}
	if err := s.use(s.open); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	info, err := os.Stat(s.path)
	isNew := errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
	if !isNew {
		if err := check(s.path); err != nil {
			return err
		}
	}
	// The list of free pages is not written: bbolt finds it by reading all pages,
	// which check has made safe. After a large part of the state was deleted, it
	// would be the largest part of each commit.
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		Logger:         commitLog{s},
		OpenFile:       s.keepFile,
	})
	if err == nil {
		if err = s.begin(); err == nil && isNew {
			err = syncDir(filepath.Dir(s.path))
		}
		if err == nil {
			err = s.remember()
		}
		if err != nil {
			s.db.Close() //nolint:errcheck // the first error says what is wrong
		}
	}
	// What a full disk left of a new file would be taken for a damaged one.
	if err != nil && isNew && !errors.Is(err, bolterrors.ErrTimeout) {
		os.Remove(s.path) //nolint:errcheck // the first error says what is wrong
	}
	return err
}

// keepFile opens the file for the database.
func (s *Store) keepFile(path string, flag int, perm os.FileMode) (f *os.File, err error) {
	f, err = os.OpenFile(path, flag, perm)
	s.file = f
	return f, err
}

// begin checks the version of a file, or writes it into a new one.
func (s *Store) begin() error {
	blank := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(metaBucket); meta != nil {
			s.committed = bytes.Clone(meta.Get(revisionKey))
			return checkVersion(meta.Get(versionKey))
		}
		// A file to which nothing was ever committed is at its first transaction.
		key, _ := tx.Cursor().First()
		if blank = key == nil && tx.ID() <= 1; !blank {
			return errors.New("it has no version")
		}
		return nil
	})
	if !blank {
		return err
	}
	return s.update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return meta.Put(versionKey, seal(versionKey, []byte{Version}))
	})
}

// versionError is the version of a file that this program can't read.
type versionError int

func (v versionError) Error() string {
	return fmt.Sprintf("is of version %d, and this program reads version %d only: use the program that wrote it, or move the file away to start from zero", int(v), Version)
}

func checkVersion(sealed []byte) error {
	body, err := unseal(versionKey, sealed)
	switch {
	case err != nil:
		return err
	case len(body) != 1:
		return errors.New("it has no version")
	case body[0] != Version:
		return versionError(body[0])
	}
	return nil
}

// Close ends the use of the file, after what is under way.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.broken != nil {
		release(s.db)
		return nil
	}
	if err := s.db.Close(); err != nil {
		return explain(s.path, err)
	}
	return nil
}

// release closes a database, or leaves it open if it was interrupted with its
// locks held.
func release(db *bbolt.DB) {
	closed := make(chan struct{})
	go func() {
		_ = db.Close() // what is wrong with it has been found
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(lockWait):
	}
}

// Verify returns ErrBroken if the file no longer holds all that was committed.
func (s *Store) Verify() error { return s.use(s.verify) }

// Load calls visit with each entry that is stored of a project, in the order of
// their keys, and reports whether there are any. They are all that the last Commit
// left, unless there is an error; an error of visit means that the file is
// damaged. A body is valid until visit returns.
func (s *Store) Load(project string, visit func(key string, body []byte) error) (found bool, err error) {
	err = s.use(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			b, want, err := find(tx, project)
			if b == nil || err != nil {
				return err
			}
			found = true
			return entries(b, want, visit)
		})
	})
	return found && err == nil, err
}

// use runs an operation on the open file. Damage breaks the store. Pages that were read
// for it do not stay in memory: those of a thousand projects would be a fifth of it.
func (s *Store) use(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked(f)
}

func (s *Store) locked(f func() error) error {
	switch {
	case s.broken != nil:
		return s.broken
	case s.closed:
		return explain(s.path, bolterrors.ErrDatabaseNotOpen)
	}
	if err := guard(f); err != nil {
		err = explain(s.path, err)
		if errors.Is(err, ErrBroken) {
			s.broken = err
		}
		return err
	}
	s.dropPages()
	return nil
}

// brokenError says why a store is broken.
type brokenError struct{ error }

func (b brokenError) Unwrap() error { return b.error }

// Is makes a brokenError an ErrBroken.
func (b brokenError) Is(target error) bool { return target == ErrBroken }

// refusedError is an error of the system.
type refusedError struct{ error }

func (r refusedError) Unwrap() error { return r.error }

// guard makes errors of bbolt's panics and faults on a file that was damaged or
// cut short.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			// a page that the file no longer has, or the disk can't read
			err = errors.New("a part of it can't be read")
		default:
			err = fmt.Errorf("%v", p)
		}
	}()
	return f()
}

// explain says what err means for a path, and what to do. An error that is neither
// the system's nor a known one of bbolt's means damage.
func explain(path string, err error) error {
	var (
		other   versionError
		lost    lostError
		errno   syscall.Errno
		refused refusedError
	)
	switch {
	case errors.As(err, &other):
		return fmt.Errorf("%s %w", path, other)
	case errors.As(err, &lost):
		return brokenError{fmt.Errorf("%s %w", path, lost)}
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s %w: end that one, or choose another directory", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrKeyTooLarge), errors.Is(err, bolterrors.ErrKeyRequired), errors.Is(err, bolterrors.ErrValueTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return fmt.Errorf("%s: %w", path, fs.ErrClosed)
	case errors.As(err, &errno): // without the path, which bbolt does not always say
		err = errno
	case errors.As(err, &refused):
	case errors.Is(err, bolterrors.ErrInvalidMapping):
		return brokenError{fmt.Errorf("%s cannot be mapped into memory", path)}
	default:
		return brokenError{fmt.Errorf("%s is damaged (%w): move it away to start from zero", path, err)}
	}
	return fmt.Errorf("%s cannot be used (%w): this user needs the right and the room to write there; or choose another directory", path, err)
}

// syncDir makes sure that a new file in dir is found again after a power failure.
func syncDir(dir string) error {
	// Windows can't sync a directory.
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
