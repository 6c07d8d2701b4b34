package oracle

import (
	"fmt"
	"slices"
)

// Key is what sums are grouped by.
type Key struct{ Name, Outcome string }

// Sum is over the traces of one Key.
type Sum struct {
	Traces    int64
	Tokens    int64
	Durations int64 // traces with a usable duration
	Micros    int64 // sum of these
}

// TokenSum is over the traces of one name whose tokens are known.
type TokenSum struct{ Traces, Tokens int64 }

// Sums are exact sums over counted traces. Names and outcomes without a
// trace are left out.
type Sums struct {
	By                map[Key]Sum
	Tokens            map[string]TokenSum // by name
	Missing, Negative int64               // traces with an unusable duration
}

// Sums adds up what has to be counted. It fails if that is not certain: a
// trace may, but need not be counted, or as more than one thing.
func (t Truth) Sums() (Sums, error) {
	var all []Version
	for id, v := range t.Traces {
		switch {
		case v.Must && len(v.Versions) == 1:
			all = append(all, v.Versions[0])
		case v.Must || len(v.Versions) > 0:
			return Sums{}, fmt.Errorf("no certain sum: trace %s has the verdict %+v", id, v)
		}
	}
	return sum(slices.Values(all)), nil
}

// SumOf adds up what an exporter has counted, to be compared with Truth.Sums.
func SumOf(counted []Counted) Sums {
	return sum(func(yield func(Version) bool) {
		for _, c := range counted {
			if c.Name == "" {
				c.Name = "(unnamed)"
			}
			if !yield(c.Version) {
				return
			}
		}
	})
}

func sum(versions func(func(Version) bool)) Sums {
	s := Sums{By: map[Key]Sum{}, Tokens: map[string]TokenSum{}}
	for v := range versions {
		key := Key{v.Name, v.Outcome}
		b := s.By[key]
		b.Traces++
		if v.Tokens >= 0 {
			b.Tokens += v.Tokens
			t := s.Tokens[v.Name]
			s.Tokens[v.Name] = TokenSum{t.Traces + 1, t.Tokens + v.Tokens}
		}
		switch {
		case v.Unusable == "missing":
			s.Missing++
		case v.Unusable == "negative":
			s.Negative++
		case v.Outcome != "abandoned":
			b.Durations++
			b.Micros += v.Micros
		}
		s.By[key] = b
	}
	return s
}
