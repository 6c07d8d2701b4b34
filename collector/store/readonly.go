package store

import (
	"bytes"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// OpenReadOnly opens the file in dir, which it checks and never changes. The error
// is an fs.ErrNotExist if there is none. Until Close, nothing else can open the
// file to write.
func OpenReadOnly(dir string) (*Store, error) {
	return OpenFileReadOnly(filepath.Join(dir, fileName))
}

// OpenFileReadOnly does so with a file of another name, such as a copy.
func OpenFileReadOnly(path string) (*Store, error) {
	s := &Store{path: path}
	if info, err := os.Stat(s.path); err != nil {
		return nil, err
	} else if info.Size() == 0 { // Open takes it for a new one
		return nil, os.ErrNotExist
	}
	blank := false // nothing was ever committed
	err := s.use(func() error {
		if err := check(s.path); err != nil {
			return err
		}
		var err error
		if s.db, err = bbolt.Open(s.path, 0, &bbolt.Options{Timeout: lockWait, ReadOnly: true, OpenFile: s.keepFile}); err != nil {
			return err
		}
		err = s.db.View(func(tx *bbolt.Tx) error {
			meta := tx.Bucket(metaBucket)
			if blank = meta == nil; blank {
				return nil
			}
			s.committed = bytes.Clone(meta.Get(revisionKey))
			return checkVersion(bytes.Clone(meta.Get(versionKey)))
		})
		if err == nil && !blank {
			err = s.remember()
		}
		if err != nil {
			release(s.db)
		}
		return err
	})
	if err == nil && blank {
		err = os.ErrNotExist
		_ = s.Close() // it was only read
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}
