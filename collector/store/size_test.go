//go:build unix

package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"opper_exporter/collector/ledger"
)

// list is a list that grows at one end, in chunks as the ledger makes them.
type list struct {
	rng    *rand.Rand
	oldest bool // the oldest is first: it grows at its end
	last   ledger.Chunk
	queue  []ledger.ID // pending
}

func newList(oldest bool) *list {
	return &list{rng: rand.New(rand.NewPCG(1, 1)), oldest: oldest, last: ledger.Chunk{Key: 1 << 63}}
}

// grow returns the chunks in which n new ids stand.
func (l *list) grow(n int) []ledger.Chunk {
	changed := map[uint64]ledger.Chunk{}
	for range n {
		if len(l.last.IDs) == 120 {
			l.last.IDs = nil
			if l.last.Key -= 1 << 32; l.oldest {
				l.last.Key += 2 << 32
			}
		}
		l.last.IDs = append(l.last.IDs, randomID(l.rng))
		changed[l.last.Key] = l.last
	}
	var out []ledger.Chunk
	for _, c := range changed {
		out = append(out, c)
	}
	return out
}

// sync returns what a sync that meets 100 new traces and counts 100 others
// changes: 5 names, of 200, and 3 documents too.
func (l *list) sync() State {
	s := emptyState()
	s.Ledger.Listed = l.grow(100)
	for range 100 {
		id := randomID(l.rng)
		s.Ledger.Pending[id] = &ledger.Pending{
			Row:       ledger.Row{ID: id, Ref: id.String(), Name: "support-agent/answer-question-with-tools", Status: "success", HasStatus: true, Start: epoch, End: epoch, HasDuration: true, Duration: 1e9, HasTokens: true, Tokens: 1234},
			FirstSeen: epoch, Since: epoch, Ended: epoch, EndBy: epoch, Seen: epoch,
		}
		l.queue = append(l.queue, id)
		if len(l.queue) > 100 {
			s.Ledger.Pending[l.queue[0]] = nil
			l.queue = l.queue[1:]
		}
	}
	for range 5 {
		s.Names[fmt.Sprint("name ", l.rng.IntN(200))] = randomBytes(l.rng, 2500)
	}
	for i := range 3 {
		s.Docs[fmt.Sprint("doc ", i)] = randomBytes(l.rng, 500)
	}
	return s
}

// fill stores a list of n ids, 120 000 in each commit, and 200 names.
func (l *list) fill(tb testing.TB, s *Store, n int) {
	tb.Helper()
	for n > 0 {
		size := min(n, 120_000)
		mustCommit(tb, s, "default", State{Ledger: ledger.State{Listed: l.grow(size)}}, false)
		n -= size
	}
	names := map[string][]byte{}
	for i := range 200 {
		names[fmt.Sprint("name ", i)] = randomBytes(l.rng, 2500)
	}
	mustCommit(tb, s, "default", State{Names: names}, false)
}

// written returns how many bytes of pages the commits so far have written,
// the meta page of each apart.
func (s *Store) written() int64 {
	stats := s.db.Stats()
	return stats.TxStats.GetPageAlloc()
}

// onDisk returns how many bytes of the disk the file takes.
func onDisk(tb testing.TB, path string) int64 {
	tb.Helper()
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

var orders = map[string]bool{"newest-first": false, "oldest-first": true}

// The ids of a long list take little more than their 16 bytes, and a commit
// rewrites little beside what it brings.
func TestSize(t *testing.T) {
	const ids = 120_000
	for name, oldest := range orders {
		t.Run(name, func(t *testing.T) {
			s, l := mustOpen(t, t.TempDir()), newList(oldest)
			for range ids / 100 / 10 {
				mustCommit(t, s, "default", State{Ledger: ledger.State{Listed: l.grow(1000)}}, false)
			}
			size := onDisk(t, s.path)
			l.fill(t, s, 0)
			const commits = 20
			mustCommit(t, s, "default", l.sync(), false)
			before := s.written()
			for range commits {
				mustCommit(t, s, "default", l.sync(), false)
			}
			each := (s.written() - before) / commits
			t.Logf("%d bytes an id, %d KiB a commit", size/ids, each>>10)
			if size/ids > 32 || each > 256<<10 {
				t.Errorf("%d bytes an id, %d a commit", size/ids, each)
			}
		})
	}
}
