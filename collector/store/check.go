package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// The layout of a page, in the byte order of the machine.
const (
	headerSize  = 16 // id 8, flags 2, count 2, overflow 4
	elementSize = 16 // leaf: flags 4, pos 4, key 4, value 4; branch: pos 4, key 4, page 8
	bucketSize  = 16 // root page 8 (0: the page is inline, behind this), sequence 8

	branchPage = 1
	leafPage   = 2
	bucketFlag = 1
)

var native = binary.NativeEndian

// checker checks a file page by page.
type checker struct {
	file io.ReaderAt
	size int64  // of a page
	seen []bool // by page
}

// check reads all pages in use of a file and returns an error for the first that
// is damaged. bbolt trusts its file: it panics or crashes on a damaged page, even
// in goroutines of its own, where nothing can recover.
func check(path string) error {
	// A read-only bbolt reads no more than the two meta pages, which have checksums.
	db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: lockWait, ReadOnly: true})
	if err != nil {
		return err
	}
	defer release(db)
	return db.View(func(tx *bbolt.Tx) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // it was only read
		return scanPages(tx, file)()
	})
}

// scanPages returns a check of all pages that are in use as a transaction begins.
// It reads them from the file: in memory, one that is missing is a fault.
func scanPages(tx *bbolt.Tx, file *os.File) func() error {
	root, end, size := uint64(tx.Cursor().Bucket().RootPage()), tx.Size(), int64(tx.DB().Info().PageSize)
	return func() error {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if info.Size() < end {
			return cutShort(info.Size(), end)
		}
		c := &checker{file: file, size: size, seen: make([]bool, end/size)}
		return c.tree(root, nil, nil)
	}
}

func cutShort(size, end int64) error {
	return fmt.Errorf("it is cut short: %d of %d bytes", size, end)
}

// tree checks a page and what is below it. Keys must be in [from, to); there is no
// end if to is nil.
func (c *checker) tree(id uint64, from, to []byte) error {
	page, err := c.page(id)
	if err != nil {
		return err
	}
	if err := c.elements(page, from, to); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// page reads a page with its overflow pages.
func (c *checker) page(id uint64) ([]byte, error) {
	pages := uint64(len(c.seen))
	if id < 2 || id >= pages {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	header := make([]byte, headerSize)
	if _, err := c.file.ReadAt(header, int64(id)*c.size); err != nil {
		return nil, err
	}
	overflow := uint64(native.Uint32(header[12:]))
	if native.Uint64(header) != id || id+overflow >= pages {
		return nil, fmt.Errorf("page %d has a wrong header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	page := make([]byte, (int64(overflow)+1)*c.size)
	_, err := c.file.ReadAt(page, int64(id)*c.size)
	return page, err
}

func (c *checker) elements(page, from, to []byte) error {
	if len(page) < headerSize {
		return errors.New("is too short")
	}
	kind, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if kind != branchPage && kind != leafPage || headerSize+count*elementSize > len(page) || kind == branchPage && count == 0 {
		return errors.New("has a wrong header")
	}
	// A branch page says where the keys of each child begin: child is the one whose
	// end is not known yet.
	var child uint64
	for i := range count {
		at := headerSize + i*elementSize
		element := page[at : at+elementSize]
		flags, pos, keySize, valueSize := native.Uint32(element), native.Uint32(element[4:]), native.Uint32(element[8:]), native.Uint32(element[12:])
		if kind == branchPage {
			flags, pos, keySize, valueSize = 0, native.Uint32(element), native.Uint32(element[4:]), 0
		}
		start, end := uint64(at)+uint64(pos), uint64(at)+uint64(pos)+uint64(keySize)
		if keySize == 0 || end+uint64(valueSize) > uint64(len(page)) || flags > bucketFlag {
			return fmt.Errorf("element %d is out of bounds", i)
		}
		key, value := page[start:end], page[end:end+uint64(valueSize)]
		if order := bytes.Compare(key, from); order < 0 || order == 0 && i > 0 || to != nil && bytes.Compare(key, to) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		if kind == branchPage {
			if i > 0 {
				if err := c.tree(child, from, key); err != nil {
					return err
				}
			}
			child = native.Uint64(element[8:])
		} else if flags == bucketFlag {
			if err := c.bucket(value); err != nil {
				return err
			}
		}
		from = key
	}
	if kind == branchPage {
		return c.tree(child, from, to)
	}
	return nil
}

func (c *checker) bucket(value []byte) error {
	if len(value) < bucketSize {
		return errors.New("has a bucket that is too short")
	}
	if root := native.Uint64(value); root != 0 {
		return c.tree(root, nil, nil)
	}
	return c.elements(value[bucketSize:], nil, nil)
}
