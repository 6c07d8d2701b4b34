// Package oppertest is an Opper in memory that speaks real HTTP: a list of
// traces that moves, changes and expires as the real one does, faults on
// demand, and a record of what was listed and served. Server is an
// http.Handler; mount it on an httptest.Server.
package oppertest

import (
	"encoding/json"
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
	Usage         *Usage              // of the organization; nil means one that has used nothing
	Project       string              // uuid of the Opper project of this server, in Usage
}

// Trace is what the server stores of a trace. A nil field is null in v2 and
// absent in v3.
type Trace struct {
	ID         string // "" is a row without an id
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

// Server is an Opper with one project. It may be used by many goroutines.
type Server struct {
	cfg   Config
	body  []byte // one input or output, as JSON
	usage *Usage

	mu         sync.Mutex
	rows       []*life // oldest first, whatever is served
	byID       map[string]*life
	expiry     expiries
	seq        int64
	changes    int64
	interned   map[string]*string
	mark       place // the newest place that was ever served
	marked     bool
	unreadable map[string]bool
	healed     map[string]int64 // when these rows could be read again
	faults     []*Fault
	hooks      [endpoints]func(Request)
	requests   []*Request
	counts     [endpoints]int

	usageServed map[HourKey]Amounts // the highest ones
}

// New makes an empty Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxLimit == 0 {
		cfg.MaxLimit = 100
	}
	usage := cfg.Usage
	if usage == nil {
		usage = NewUsage(UsageConfig{Now: cfg.Now})
	}
	return &Server{
		cfg:         cfg,
		body:        body(cfg.BodyBytes),
		usage:       usage,
		byID:        map[string]*life{},
		interned:    map[string]*string{},
		unreadable:  map[string]bool{},
		healed:      map[string]int64{},
		usageServed: map[HourKey]Amounts{},
	}
}

// Add lists traces now, in the order given. It panics if one of the ids is
// listed already; a delisted id may be listed again.
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

// Delete delists traces, as if by hand, and reports how many of
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
