package oppertest

import (
	"encoding/json"
	"strings"
	"time"
)

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

// life is a trace from its first listing on, kept after it is delisted.
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
	relisted bool // it was delisted before
}

// run says that a version was served at first, at last, and that no other
// version was served between.
type run struct {
	version     int
	first, last int64
}

func (l *life) listed() bool { return l.to == Forever }

func (l *life) history() *past {
	if l.past == nil {
		l.past = &past{}
	}
	return l.past
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
