package store

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzCheck gives arbitrary pages to the check of a file. It must end, without a
// panic, whatever the pages say of each other.
func FuzzCheck(f *testing.F) {
	const size = 512
	s := mustOpen(f, f.TempDir())
	mustCommit(f, s, "p", randomChanges(rand.New(rand.NewPCG(31, 1)), 3), false)
	head, err := s.readHead()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head)
	page := make([]byte, 4*size)
	for i := range 4 { // a branch page, and two leaves of which one is inside a bucket
		binary.LittleEndian.PutUint64(page[i*size:], uint64(i))
	}
	native.PutUint16(page[2*size+8:], branchPage)
	native.PutUint16(page[2*size+10:], 1)
	native.PutUint32(page[2*size+headerSize:], elementSize)
	native.PutUint32(page[2*size+headerSize+4:], 1)
	native.PutUint64(page[2*size+headerSize+8:], 3)
	native.PutUint16(page[3*size+8:], leafPage)
	f.Add(page)
	f.Fuzz(func(_ *testing.T, content []byte) {
		c := &checker{file: bytes.NewReader(content), size: size, seen: make([]bool, len(content)/size)}
		_ = c.tree(2, nil, nil) // only an error may come of it
	})
}
