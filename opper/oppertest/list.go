package oppertest

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// place is where a row stands in the list.
type place struct {
	key int64
	seq int64 // arrival, unique
	id  string
}

func (s *Server) compare(a, b place) int {
	if s.cfg.SortBy == ByID {
		return cmp.Or(strings.Compare(a.id, b.id), cmp.Compare(a.seq, b.seq))
	}
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.seq, b.seq))
}

// Len is the number of traces that are listed now.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now()
	return len(s.rows)
}

// now reads the clock and lets go of all that has expired by then.
func (s *Server) now() int64 {
	now := micros(s.cfg.Now())
	s.expire(now)
	return now
}

func (s *Server) expire(now int64) {
	for len(s.expiry) > 0 && s.expiry[0].at <= now {
		l := heap.Pop(&s.expiry).(expiryOf).life
		if !l.listed() {
			continue
		}
		// An update of the start may have put it off.
		if at := s.expires(l); at > now {
			heap.Push(&s.expiry, expiryOf{at, l})
		} else {
			s.drop(l, max(at, l.from))
		}
	}
}

func (s *Server) expires(l *life) int64 {
	at := l.from
	if s.cfg.ExpireByStart && l.has&hasStart != 0 {
		at = l.start
	}
	return at + s.cfg.Retention.Microseconds()
}

func (s *Server) add(now int64, t Trace) {
	l := s.byID[t.ID]
	switch {
	case l != nil && l.listed():
		panic(fmt.Sprintf("oppertest: trace %q is listed already", t.ID))
	case l != nil:
		s.remember(l)
		l.history().relisted = true
	default:
		l = &life{}
		if t.ID != "" {
			s.byID[t.ID] = l
		}
	}
	l.version = s.pack(t, now)
	s.list(l, t.ID, now)
	s.insert(l)
}

// list begins a listing; the caller finds the place.
func (s *Server) list(l *life, id string, now int64) {
	l.from, l.to = now, Forever
	s.seq++
	l.place = place{id: id, seq: s.seq}
	s.touch(l)
	if s.cfg.Retention > 0 {
		heap.Push(&s.expiry, expiryOf{s.expires(l), l})
	}
}

func (s *Server) update(now int64, id string, change func(*Trace)) bool {
	l := s.byID[id]
	if l == nil || !l.listed() {
		return false
	}
	t := l.unpack(id)
	change(&t)
	v := s.pack(t, now)
	if !l.same(v) {
		s.remember(l)
		l.version = v
	}
	if s.cfg.SortBy == ByUpdate || s.cfg.SortBy == ByStart {
		s.takeOut(l)
		s.touch(l)
		s.insert(l)
	}
	if s.cfg.Retention > 0 && s.cfg.ExpireByStart {
		heap.Push(&s.expiry, expiryOf{s.expires(l), l})
	}
	return true
}

func (s *Server) remember(l *life) {
	if !s.cfg.NoRecord {
		p := l.history()
		p.versions = append(p.versions, l.version)
	}
}

func (s *Server) drop(l *life, at int64) {
	s.takeOut(l)
	l.to = at
	if s.cfg.NoRecord {
		delete(s.byID, l.id)
	}
}

// touch gives a trace the key that its present state sorts by.
func (s *Server) touch(l *life) {
	switch s.cfg.SortBy {
	case ByStart:
		l.key = math.MinInt64
		if l.has&hasStart != 0 {
			l.key = l.start
		}
	case ByUpdate:
		s.changes++
		l.key = s.changes
	case ByArrival, ByID:
	}
}

func (s *Server) search(p place) int {
	return sort.Search(len(s.rows), func(i int) bool { return s.compare(s.rows[i].place, p) >= 0 })
}

func (s *Server) insert(l *life) {
	l.behind = s.isBehind(l)
	if n := len(s.rows); n == 0 || s.compare(s.rows[n-1].place, l.place) < 0 {
		s.rows = append(s.rows, l)
		return
	}
	s.rows = slices.Insert(s.rows, s.search(l.place), l)
}

func (s *Server) isBehind(l *life) bool {
	return s.cfg.SortBy == ByID || s.cfg.Shuffle || s.marked && s.compare(l.place, s.mark) < 0
}

func (s *Server) takeOut(l *life) {
	i := s.search(l.place)
	if i > len(s.rows)/2 {
		s.rows = slices.Delete(s.rows, i, i+1)
		return
	}
	// Expiry takes from this end: a shift of the whole list for each row
	// would make a long history slow.
	copy(s.rows[1:i+1], s.rows[:i])
	s.rows[0] = nil
	s.rows = s.rows[1:]
}

// rank returns the row at an offset of the list as it is served.
func (s *Server) rank(i int) *life {
	if s.cfg.OldestFirst {
		return s.rows[i]
	}
	return s.rows[len(s.rows)-1-i]
}

type expiryOf struct {
	at   int64
	life *life
}

// expiries is a heap, soonest first. Rows that were delisted for another reason
// stay in it until their time comes.
type expiries []expiryOf

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].at < e[j].at }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiryOf)) }
func (e *expiries) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
