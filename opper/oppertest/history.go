package oppertest

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// FillHistory lists n ended traces that arrived between from and to, evenly.
// There are names different names, one of them null or empty unless it is the
// only one, and each kind of status, missing and negative duration, and
// missing token count. The same seed makes the same history. It is meant for
// an empty server.
func (s *Server) FillHistory(n, names int, from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rng := rand.New(rand.NewPCG(uint64(s.cfg.Seed), 1))
	named := make([]*string, names)
	for i := range named {
		name := fmt.Sprintf("agent-%02d", i)
		if i%10 == 9 {
			name += ` "naïve\path" 日本`
		}
		named[i] = s.intern(&name)
	}
	empty := s.intern(new(""))
	statuses := make([]*string, 0, 20)
	for _, w := range []struct {
		status string
		weight int
	}{{"success", 10}, {"ok", 2}, {"completed", 1}, {"SUCCESS", 1}, {"error", 2}, {"failed", 1}, {"Failure", 1}, {"cancelled", 1}} {
		status := s.intern(&w.status)
		for range w.weight {
			statuses = append(statuses, status)
		}
	}
	statuses = append(statuses, nil)

	// One allocation each: a million small ones are slow and much larger.
	lives := make([]life, n)
	ids := make([]byte, 0, 36*n)
	for range n {
		ids = appendUUID(ids, rng)
	}
	text := string(ids)
	first, width := micros(from), to.Sub(from).Microseconds()
	s.rows = slices.Grow(s.rows, n)
	for i := range lives {
		l := &lives[i]
		arrival := first + int64(float64(width)*(float64(i)+rng.Float64())/float64(n))
		ms := math.Round(2000 * math.Exp(1.2*rng.NormFloat64()))
		l.end = arrival - rng.Int64N(5_000_000)
		l.start = l.end - int64(ms)*1000
		l.ms = ms
		l.tokens = int64(800 * math.Exp(rng.NormFloat64()))
		l.has = hasStart | hasEnd | hasMS | hasTokens
		l.at = arrival
		l.status = statuses[rng.IntN(len(statuses))]
		u := rng.Float64()
		which := int(float64(names) * u * u)
		if i < names {
			which = i
		}
		l.name = named[which]
		if which > 0 && which == names-1 {
			l.name = [...]*string{nil, empty}[i%2]
		}
		switch rng.IntN(100) {
		case 0, 1: // the difference of both times is the duration
			l.has &^= hasMS
		case 2:
			l.has &^= hasMS | hasStart
			l.start, l.ms = 0, 0
		case 3:
			l.start, l.end = l.end, l.start
			l.ms = -l.ms
		case 4:
			l.start, l.end = l.end, l.start
			l.has &^= hasMS
		case 5, 6, 7:
			l.has &^= hasTokens
			l.tokens = 0
		}
		if l.has&hasMS == 0 {
			l.ms = 0
		}
		id := text[36*i : 36*i+36]
		s.byID[id] = l
		s.list(l, id, arrival)
		l.behind = s.isBehind(l)
		s.rows = append(s.rows, l)
	}
	slices.SortFunc(s.rows, func(a, b *life) int { return s.compare(a.place, b.place) })
}

func appendUUID(b []byte, rng *rand.Rand) []byte {
	var u [16]byte
	hi, lo := rng.Uint64(), rng.Uint64()
	for i := range 8 {
		u[i], u[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	for i, part := range [][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}
