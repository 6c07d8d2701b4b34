package oppertest

import "math"

// Forever is the end of what has not ended.
const Forever = math.MaxInt64

// Life is a trace from its first listing on, as the server recorded it. Times are
// microseconds since 1970.
type Life struct {
	ID         string
	From, To   int64   // last listed from, until; Forever while it is
	States     []State // oldest first; the last one is the present one
	Served     []Served
	Relisted   bool  // it was listed again after it was delisted
	Behind     bool  // it took a place behind a row that had been served
	Unreadable bool  // a fault keeps its page from being read
	Healed     int64 // when it could be read again after that; 0 is never
}

// State is what a trace was like for some time.
type State struct {
	At                                     int64 // since when
	Name, Status                           *string
	Start, End                             int64
	Millis                                 float64
	Tokens                                 int64
	HasStart, HasEnd, HasMillis, HasTokens bool
}

// Served says that a state was served at first, at last, and that no other state
// of the trace was served between.
type Served struct {
	State       int // index in Life.States
	First, Last int64
}

// Config returns what the server was made with.
func (s *Server) Config() Config { return s.cfg }

// Lives calls visit with each trace that was ever listed and has an id. It holds
// the server's lock meanwhile.
func (s *Server) Lives(visit func(now int64, l Life)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for id, l := range s.byID {
		out := Life{ID: id, From: l.from, To: l.to, Behind: l.behind, Unreadable: s.unreadable[id], Healed: s.healed[id]}
		if l.past != nil {
			for i := range l.past.versions {
				out.States = append(out.States, l.past.versions[i].state())
			}
			for _, r := range l.past.runs {
				out.Served = append(out.Served, Served{State: r.version, First: r.first, Last: r.last})
			}
			out.Relisted = l.past.relisted
		}
		out.States = append(out.States, l.version.state())
		visit(now, out)
	}
}

func (v *version) state() State {
	return State{
		At: v.at, Name: v.name, Status: v.status, Start: v.start, End: v.end, Millis: v.ms, Tokens: v.tokens,
		HasStart: v.has&hasStart != 0, HasEnd: v.has&hasEnd != 0, HasMillis: v.has&hasMS != 0, HasTokens: v.has&hasTokens != 0,
	}
}
