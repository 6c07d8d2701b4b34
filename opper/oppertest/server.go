// Package oppertest is an Opper in memory that speaks real HTTP: a list of
// traces that moves, changes and expires as the real one does, faults on
// demand, and a ground truth to judge an exporter by. Server is an
// http.Handler; mount it on an httptest.Server.
package oppertest

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Secret occurs in every input and output that a Server sends. Wherever else
// it turns up (a log, a metric, a file), private content has leaked.
const Secret = "PRIVATE-7f3a9c"

// Sort is the key by which the list is sorted. Ties go by arrival.
type Sort int

// What a list can be sorted by.
const (
	ByArrival Sort = iota
	ByStart        // start time; traces without one are the oldest
	ByUpdate       // last change: an update moves a row to the head
	ByID           // stable, and unrelated to any time
)

// Config is fixed for the life of a Server. The zero value is a friendly
// Opper: newest arrival first, any key, nothing expires.
type Config struct {
	Seed          int64
	Now           func() time.Time // nil means time.Now
	Key           string           // the one accepted bearer; "" accepts any that is not empty
	OldestFirst   bool
	SortBy        Sort
	Shuffle       bool                // another random order on every request
	Retention     time.Duration       // rows leave the list at this age; 0 means never
	ExpireByStart bool                // the age runs from the start (arrival if there is none), not from the arrival
	MaxLimit      int                 // a larger limit is answered with 422; 0 means 100
	MaxOffset     int                 // a larger offset is answered with 422; 0 means none is
	TotalCount    func(real int) *int // what meta.total_count says; nil is honest, a nil result leaves it out
	Latency       time.Duration       // wait before each answer
	BodyBytes     int                 // least size of each input and each output; 0 makes them null
	NoGet         int                 // status that refuses every GET /traces/{id}; 0 means that they work
	NoRecord      bool                // keep no served rows, old versions and requests: for benchmarks at rest
}

// Trace is what the server stores of a trace. A nil field is null in v2 and
// absent in v3.
type Trace struct {
	ID         string // "" is a row that nobody can count
	Name       *string
	Status     *string
	Start, End *time.Time // kept to the microsecond
	DurationMS *float64
	Tokens     *int64
	// Raw, if set, is sent in place of the row, whatever it holds. The other
	// fields then say what a good reader makes of it.
	Raw json.RawMessage
}

// Sample is the one row of the documented sample page, served as it stands.
func Sample() Trace {
	at := time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC)
	return Trace{
		ID:         "3c90c3cc-0d44-4b50-8888-8dd25736052a",
		Name:       new("<string>"),
		Status:     new("<string>"),
		Start:      &at,
		End:        &at,
		DurationMS: new(123.0),
		Tokens:     new(int64(123)),
		Raw: json.RawMessage(`{
      "id": "3c90c3cc-0d44-4b50-8888-8dd25736052a",
      "start_time": "2023-11-07T05:31:56Z",
      "end_time": "2023-11-07T05:31:56Z",
      "duration_ms": 123,
      "status": "<string>",
      "name": "<string>",
      "input": "<string>",
      "output": "<string>",
      "total_tokens": 123
    }`),
	}
}

const forever = math.MaxInt64

// Times inside the package are microseconds since 1970: all that the API can
// say, and a third of the size of a time.Time.
func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

const (
	hasStart = 1 << iota
	hasEnd
	hasMS
	hasTokens
)

// version is a Trace without its id, packed: a million must fit in memory.
// Strings are interned, so two versions are equal if == says so.
type version struct {
	name, status, raw *string
	start, end        int64
	ms                float64
	tokens            int64
	at                int64 // since when it can be seen
	has               uint8
}

func (v *version) ended() bool { return v.has&hasEnd != 0 }

func (v *version) same(w version) bool {
	w.at = v.at
	return *v == w
}

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

// life is a trace from its first listing on, kept after it has left.
type life struct {
	place
	version
	from, to int64 // listed from, until; forever while it is
	past     *past
	behind   bool // it took a place behind a row that had been served
}

type past struct {
	versions []version // before the present one
	runs     []run
	relisted bool // it had left the list before
}

// run says that a version was served at first, at last, and that no other
// version was served between.
type run struct {
	version     int
	first, last int64
}

func (l *life) listed() bool { return l.to == forever }

func (l *life) history() *past {
	if l.past == nil {
		l.past = &past{}
	}
	return l.past
}

// Server is an Opper with one project. It may be used by many goroutines.
type Server struct {
	cfg  Config
	body string // one input or output, as JSON

	mu       sync.Mutex
	rows     []*life // oldest first, whatever is served
	byID     map[string]*life
	expiry   expiries
	seq      int64
	changes  int64
	interned map[string]*string
	mark     place // the newest place that was ever served
	marked   bool
	poisoned map[string]bool
	healed   map[string]int64 // when these rows could be read again
	faults   []*Fault
	hook     func(Request)
	requests []*Request
	count    int
}

// New makes an empty Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxLimit == 0 {
		cfg.MaxLimit = 100
	}
	return &Server{
		cfg:      cfg,
		body:     body(cfg.BodyBytes),
		byID:     map[string]*life{},
		interned: map[string]*string{},
		poisoned: map[string]bool{},
		healed:   map[string]int64{},
	}
}

// Add lists traces now, in the order given. It panics if one of the ids is
// listed already; an id that has left the list may come back.
func (s *Server) Add(traces ...Trace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, t := range traces {
		s.add(now, t)
	}
}

// Update changes a listed trace now and reports whether there was one with
// this id. A change of the ID is ignored.
func (s *Server) Update(id string, change func(*Trace)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(s.now(), id, change)
}

// Delete takes traces from the list, as if by hand, and reports how many of
// them were listed.
func (s *Server) Delete(ids ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	n := 0
	for _, id := range ids {
		if l := s.byID[id]; l != nil && l.listed() {
			s.drop(l, now)
			n++
		}
	}
	return n
}

// Len is the number of traces that are listed now.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now()
	return len(s.rows)
}

// Get returns a trace that is listed now.
func (s *Server) Get(id string) (Trace, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now()
	l := s.byID[id]
	if l == nil || !l.listed() {
		return Trace{}, false
	}
	return l.unpack(l.id), true
}

// Snapshot returns all that is listed now, in the order of the list (the
// sorted one if the server shuffles).
func (s *Server) Snapshot() []Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now()
	all := make([]Trace, len(s.rows))
	for i := range all {
		l := s.rank(i)
		all[i] = l.unpack(l.id)
	}
	return all
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
	l.from, l.to = now, forever
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

func (s *Server) intern(p *string) *string {
	if p == nil {
		return nil
	}
	q, ok := s.interned[*p]
	if !ok {
		q = new(strings.Clone(*p))
		s.interned[*q] = q
	}
	return q
}

func (s *Server) pack(t Trace, now int64) version {
	v := version{name: s.intern(t.Name), status: s.intern(t.Status), at: now}
	if t.Raw != nil {
		v.raw = s.intern(new(string(t.Raw)))
	}
	if t.Start != nil {
		v.start, v.has = micros(*t.Start), v.has|hasStart
	}
	if t.End != nil {
		v.end, v.has = micros(*t.End), v.has|hasEnd
	}
	if t.DurationMS != nil {
		v.ms, v.has = *t.DurationMS, v.has|hasMS
	}
	if t.Tokens != nil {
		v.tokens, v.has = *t.Tokens, v.has|hasTokens
	}
	return v
}

// unpack makes a Trace that shares nothing with the server.
func (v *version) unpack(id string) Trace {
	t := Trace{ID: id}
	if v.name != nil {
		t.Name = new(*v.name)
	}
	if v.status != nil {
		t.Status = new(*v.status)
	}
	if v.raw != nil {
		t.Raw = json.RawMessage(*v.raw)
	}
	if v.has&hasStart != 0 {
		t.Start = new(fromMicros(v.start))
	}
	if v.has&hasEnd != 0 {
		t.End = new(fromMicros(v.end))
	}
	if v.has&hasMS != 0 {
		t.DurationMS = new(v.ms)
	}
	if v.has&hasTokens != 0 {
		t.Tokens = new(v.tokens)
	}
	return t
}

type expiryOf struct {
	at   int64
	life *life
}

// expiries is a heap, soonest first. Rows that have left for another reason
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
