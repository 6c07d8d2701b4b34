package usage

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/codec"
)

// The keys of entries that are stored.
const (
	keyCounters = "counters" // all but the marks
	keyHour     = "hour/"    // and the hours since 1970: the marks of an hour that is not final
)

// Changes calls put with each entry that has changed since Committed was called, and no
// body if it is to be deleted. After a read without changes, there is none.
func (s *Set) Changes(put func(key string, body []byte)) {
	if s.border == 0 {
		return
	}
	if s.put = codec.Encode(s.code); !bytes.Equal(s.put, s.stored) {
		put(keyCounters, s.put)
	}
	for hour := range s.changed {
		var body []byte
		if marks := s.hours[hour]; len(marks) > 0 {
			body = codec.Encode(func(c *codec.Coder) { codeMarks(c, &marks) })
		}
		put(keyHour+strconv.FormatInt(hour, 10), body)
	}
}

// PutAll makes the next Changes put all entries: what is stored is to be replaced.
func (s *Set) PutAll() {
	s.stored = nil
	for hour := range s.hours {
		s.changed[hour] = true
	}
}

// Committed says that all that Changes has put is stored.
func (s *Set) Committed() {
	clear(s.changed)
	s.stored = s.put
	s.handOverGivenUp()
	clear(s.givenUp)
	s.removeExpired()
	s.keepClaims()
}

// keepClaims makes the claims durable. Opper projects that another project has claimed
// by now are that one's from now on.
func (s *Set) keepClaims() {
	for id, label := range s.accounts {
		claims := s.claims(id)
		if !s.cfg.Owners.keep(s.cfg.Project, claims, s.reach(label), id != "" && id == s.own) {
			s.giveUp(id)
			if claims[0] == s.sumID {
				s.others[""] = s.cfg.Owners.ownerOf(s.sumID)
			}
		} else if id == "" && label == "" {
			s.keepSum()
		}
	}
	if _, isOther := s.others[s.own]; isOther && s.own != "" {
		s.cfg.Owners.want(s.cfg.Project, s.own)
	}
}

// reach returns how far usage has been seen under a label.
func (s *Set) reach(label string) reach {
	r := reach{hour: s.newest}
	for _, m := range s.hours[s.newest] {
		if m.project == label {
			r.calls = aggregate.AddSaturating(r.calls, m.high[Calls])
		}
	}
	return r
}

// EndRestore is called once all Sets of the process are restored: what another one has seen
// more of is that one's.
func (s *Set) EndRestore() {
	if s.begun {
		s.keepClaims()
	}
}

// Restore returns the Set that was stored as these entries, an empty one if there are
// none.
func Restore(cfg Config, entries map[string][]byte) (*Set, error) {
	s := New(cfg)
	if len(entries) == 0 {
		return s, nil
	}
	if _, ok := entries[keyCounters]; !ok {
		return nil, fmt.Errorf("%q is missing", keyCounters)
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if err := s.restore(key, entries[key]); err != nil {
			return nil, fmt.Errorf("%.24q: %w", key, err)
		}
	}
	s.restoreGivenUp()
	s.keepClaims()
	if s.begun {
		s.cfg.Owners.endAwait(cfg.Project) // its list had been read before
	}
	return s, nil
}

func (s *Set) restore(key string, body []byte) error {
	if number, ok := strings.CutPrefix(key, keyHour); ok {
		hour, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return codec.ErrDamaged
		}
		var marks []mark
		err = codec.Decode(body, func(c *codec.Coder) { codeMarks(c, &marks) })
		s.hours[hour] = marks
		return err
	}
	if key != keyCounters {
		return codec.ErrDamaged
	}
	s.put, s.stored = body, body
	return codec.Decode(body, s.code)
}

func (s *Set) code(c *codec.Coder) {
	c.Bools(&s.begun)
	codec.Int(c, &s.border)
	codec.Int(c, &s.newest)
	codec.Int(c, &s.Corrections)
	codec.Int(c, &s.Incomplete)
	c.Text(&s.own)
	c.Text(&s.sumID)
	expired := s.Expired()
	if expired.code(c); c.IsDecoding() {
		s.expired = expired
	}
	ids, others := slices.Sorted(maps.Keys(s.accounts)), slices.Sorted(maps.Keys(s.others))
	codec.Slice(c, &ids, func(id *string) {
		label := s.accounts[*id]
		c.Text(id)
		c.Text(&label)
		s.accounts[*id] = label
	})
	codec.Slice(c, &others, func(id *string) {
		owner := s.others[*id]
		c.Text(id)
		c.Text(&owner)
		s.others[*id] = owner
	})
	models := s.Models()
	codec.Slice(c, &models, func(m **Model) {
		if c.IsDecoding() {
			*m = new(Model)
		}
		(*m).code(c)
		s.models[cell{(*m).OpperProject, (*m).Label}] = *m
		if (*m).Label != aggregate.Other {
			s.places[(*m).Label] = true
		}
	})
}

func (m *Model) code(c *codec.Coder) {
	c.Text(&m.Label)
	c.Text(&m.OpperProject)
	c.Times(&m.Created)
	c.Bools(&m.zeroPending)
	codec.Int(c, &m.used)
	m.counted.code(c)
}

func codeMarks(c *codec.Coder, marks *[]mark) {
	codec.Slice(c, marks, func(m *mark) {
		if c.IsDecoding() {
			m.cell = new(cell)
		}
		c.Text(&m.project)
		c.Text(&m.model)
		m.high.code(c)
		c.Bools(&m.fell, &m.isIncomplete)
	})
	if !slices.IsSortedFunc(*marks, func(a, b mark) int { return compareMark(a, *b.cell) }) {
		c.Fail()
	}
}

func (a *Amounts) code(c *codec.Coder) {
	for i := range a {
		codec.Int(c, &a[i])
	}
}
