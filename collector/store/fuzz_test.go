package store

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
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

// FuzzEntries restores a ledger from arbitrary entries, each a kind, the length
// of the rest of its key, that of its body, and both.
func FuzzEntries(f *testing.F) {
	entry := func(kind byte, rest, body []byte) []byte {
		return append(append([]byte{kind, byte(len(rest)), byte(len(body))}, rest...), body...)
	}
	rng := rand.New(rand.NewPCG(32, 1))
	var all []byte
	for range 3 {
		id := randomID(rng)
		all = append(all, entry(kindPending, id[:], encodePending(randomPending(rng, id)))...)
		all = append(all, entry(kindAbandoned, id[:], nil)...)
		chunk := encodeChunk(ledger.Chunk{Missed: epoch, IDs: []ledger.ID{id, randomID(rng)}})
		all = append(all, entry(kindListed, randomBytes(rng, 8), chunk)...)
		all = append(all, entry(kindGone, randomBytes(rng, 8), chunk)...) // twice in the list
	}
	f.Add(append(all, entry(kindScalars, nil, encodeScalars(ledger.State{Unreadable: 3, InitialSync: true}))...))
	f.Fuzz(func(_ *testing.T, data []byte) {
		s := emptyState()
		for len(data) >= 3 {
			kind, n, m := data[0], int(data[1]), int(data[2])
			data = data[3:]
			if n+m > len(data) || !s.add(kind, data[:n], data[n:n+m]) {
				return
			}
			data = data[n+m:]
		}
		l := ledger.Restore(ledger.Config{SettleDelay: time.Second, AbandonAfter: time.Hour}, s.Ledger, epoch)
		l.Due(epoch)
		l.IDs(0, l.Listed())
		l.EndFullScan(epoch)
		l.EndFullScan(epoch.Add(72 * time.Hour))
		l.Changes()
		l.Committed()
	})
}
