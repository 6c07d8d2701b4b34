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
	oldest bool     // the oldest is first: it grows at its end
	key    uint64   // of the chunk that grows
	last   []byte   // which are its ids
	queue  []string // pending
}

func newList(oldest bool) *list {
	return &list{rng: rand.New(rand.NewPCG(1, 1)), oldest: oldest, key: 1 << 63}
}

// grow returns the chunks in which n new ids stand.
func (l *list) grow(n int) state {
	changed := state{}
	for range n {
		if len(l.last) == 120*len(ledger.ID{}) {
			l.last = nil
			if l.key -= 1 << 32; l.oldest {
				l.key += 2 << 32
			}
		}
		l.last = append(l.last, randomBytes(l.rng, len(ledger.ID{}))...)
		changed[chunkKey("l", l.key)] = l.last
	}
	return changed
}

// sync returns what a sync that sees 100 new traces and counts 100 others
// changes: 5 names, of 200, and 3 documents too.
func (l *list) sync() state {
	s := l.grow(100)
	for range 100 {
		key := "p" + string(randomBytes(l.rng, len(ledger.ID{})))
		s[key] = randomBytes(l.rng, 150)
		if l.queue = append(l.queue, key); len(l.queue) > 100 {
			s[l.queue[0]] = nil
			l.queue = l.queue[1:]
		}
	}
	for range 5 {
		s[fmt.Sprint("name ", l.rng.IntN(200))] = randomBytes(l.rng, 2500)
	}
	for i := range 3 {
		s[fmt.Sprint("document ", i)] = randomBytes(l.rng, 500)
	}
	return s
}

// fill stores a list of n ids, 120 000 in each commit, and 200 names.
func (l *list) fill(tb testing.TB, s *Store, n int) {
	tb.Helper()
	for n > 0 {
		size := min(n, 120_000)
		mustCommit(tb, s, "default", l.grow(size), false)
		n -= size
	}
	names := state{}
	for i := range 200 {
		names[fmt.Sprint("name ", i)] = randomBytes(l.rng, 2500)
	}
	mustCommit(tb, s, "default", names, false)
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
				mustCommit(t, s, "default", l.grow(1000), false)
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

// BenchmarkSharedCommit makes the small commits of many projects at once.
func BenchmarkSharedCommit(b *testing.B) {
	for _, projects := range []int{1, 100} {
		b.Run(fmt.Sprint(projects), func(b *testing.B) {
			s := mustOpen(b, b.TempDir())
			for i := range 1000 {
				mustCommit(b, s, fmt.Sprint("project ", i), newList(false).grow(1000), false)
			}
			before := s.written()
			b.ResetTimer()
			done := make(chan error)
			for i := range projects {
				go func() {
					var err error
					for n := i; n < b.N && err == nil; n += projects {
						err = s.Commit(fmt.Sprint("project ", i), state{"d": fmt.Append(nil, n)}, false)
					}
					done <- err
				}()
			}
			for range projects {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(s.written()-before)/float64(b.N), "written/op")
		})
	}
}
