// Package store keeps the ledger and the sums of projects on disk, in one
// transaction per sync.
//
// A file has a bucket "meta", which holds the version of the layout and a digest
// of each project, and a bucket for each project. The keys in there begin with
// the kind of what they stand for, so that a commit touches one tree only.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"opper_exporter/collector/ledger"
)

const (
	fileName = "opper_exporter.db"
	version  = 1

	// lockWait is long enough for another start to finish its check of the file
	// and to find that it comes second.
	lockWait = 200 * time.Millisecond
)

var (
	metaBucket = []byte("meta")
	versionKey = []byte("version")
)

// State is what is kept of one project, or what has changed in it. Times are
// kept to the microsecond.
type State struct {
	Ledger ledger.State
	Names  map[string][]byte // sums of each trace name by label, as the sums encode them; nil: no more
	Docs   map[string][]byte // small documents by name; nil: no more
}

// Store is safe for concurrent use.
type Store struct {
	db   *bbolt.DB
	path string
}

// Open opens the file opper_exporter.db in dir, both of which it creates if they
// are missing, and checks that it is whole. The error says in one line which
// path cannot be used, why, and what to do: it cannot be read or written,
// another process uses it, it is damaged, or a newer version wrote it.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain(dir, err)
	}
	s := &Store{path: filepath.Join(dir, fileName)}
	if err := guard(s.open); err != nil {
		return nil, explain(s.path, err)
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
	// The list of free pages is not written: it is found again by looking at all
	// pages, which check has made safe. After a large part of the state has
	// gone, it would be the largest part of each commit.
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if err == nil {
		if err = s.begin(); err == nil && isNew {
			err = syncDir(filepath.Dir(s.path))
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

// begin checks the version of the layout, or writes it into a new file.
func (s *Store) begin() error {
	blank := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(metaBucket); meta != nil {
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
		return meta.Put(versionKey, seal(versionKey, []byte{version}))
	})
}

type newerError int

func (v newerError) Error() string {
	return fmt.Sprintf("is of version %d, and this program knows up to %d: use a newer one, or move the file away to begin anew", int(v), version)
}

func checkVersion(sealed []byte) error {
	body, err := unseal(versionKey, sealed)
	switch {
	case err != nil:
		return err
	case len(body) != 1 || body[0] < version:
		return errors.New("its version makes no sense")
	case body[0] > version:
		return newerError(body[0])
	}
	return nil
}

// Close ends the use of the file, after what is under way.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return explain(s.path, err)
	}
	return nil
}

// Load returns what is stored of a project; false if nothing is. It is all that
// the last Commit left, or an error.
func (s *Store) Load(project string) (State, bool, error) {
	var state State
	var found bool
	err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) (err error) {
			state, found, err = read(tx, project)
			return err
		})
	})
	if err != nil {
		return State{}, false, explain(s.path, err)
	}
	return state, found, nil
}

// Commit stores what has changed in a project. It is on disk when Commit returns
// nil. If fresh, what was stored of the project before is dropped at the same
// time. After an error a later Commit may be tried, with these changes and
// further ones; a Commit of what is already stored changes nothing.
func (s *Store) Commit(project string, changes State, fresh bool) error {
	err := guard(func() error {
		return s.update(func(tx *bbolt.Tx) error { return write(tx, project, changes, fresh) })
	})
	if err != nil {
		return explain(s.path, err)
	}
	return nil
}

// update is bbolt's Update, but does not go through all pages again when f
// panics: the page that made it panic is among them.
func (s *Store) update(f func(*bbolt.Tx) error) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	// Even if nothing differs: the commit before may have failed between its
	// last write and the sync, and only a sync tells.
	if err := tx.Commit(); err != nil {
		return refusedError{err}
	}
	return nil
}

// refusedError is what the system would not do.
type refusedError struct{ error }

func (r refusedError) Unwrap() error { return r.error }

// guard makes errors of the panics and faults with which bbolt meets a file that
// was damaged or cut short.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return f()
}

// explain says what err means for a path, and what to do. What the system did
// not refuse and what is no known state of the file is damage.
func explain(path string, err error) error {
	var (
		newer   newerError
		errno   syscall.Errno
		refused refusedError
	)
	switch {
	case errors.As(err, &newer):
		return fmt.Errorf("%s %w", path, newer)
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s is in use by another process: end that one, or choose another folder", path)
	case errors.Is(err, bolterrors.ErrKeyTooLarge), errors.Is(err, bolterrors.ErrKeyRequired), errors.Is(err, bolterrors.ErrValueTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return fmt.Errorf("%s: %w", path, fs.ErrClosed)
	case errors.As(err, &errno): // without the path, which bbolt does not always say
		err = errno
	case errors.As(err, &refused):
	default:
		return fmt.Errorf("%s is damaged (%w): move it away to begin anew", path, err)
	}
	return fmt.Errorf("%s cannot be used (%w): this user needs the right and the room to write there; or choose another folder", path, err)
}

// syncDir makes sure that a new file in dir is found again after a power failure.
func syncDir(dir string) error {
	// Windows keeps its folders by itself and refuses to be told.
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
