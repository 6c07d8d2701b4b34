package usage

import (
	"maps"
	"time"

	"opper_exporter/collector/aggregate"
)

// expire marks the models that have had no call for the time of the configuration, by
// hours as they were seen. As long as one is exposed at 0, no scraper has read what was
// counted. It is still there until that is committed, as its series are still exposed: if
// it returns before, it goes on.
func (s *Set) expire(present int64) {
	after := int64((s.cfg.ModelExpiry + time.Hour - 1) / time.Hour)
	for c, m := range s.models {
		m.isExpired = after > 0 && c.model != aggregate.Other && !m.zeroPending && present-m.used > after
	}
}

// Expired returns what has been counted of all models that have expired, since the first
// of them was created.
func (s *Set) Expired() Model {
	sum := s.expired
	for _, m := range s.models {
		if !m.isExpired {
			continue
		}
		sum.counted.add(m.counted)
		if sum.Created.IsZero() || m.Created.Before(sum.Created) {
			sum.Created = m.Created
		}
	}
	return sum
}

// removeExpired gives up the places of the models that have expired.
func (s *Set) removeExpired() {
	before := len(s.models)
	s.expired = s.Expired()
	maps.DeleteFunc(s.models, func(_ cell, m *Model) bool { return m.isExpired })
	if len(s.models) == before {
		return
	}
	clear(s.places)
	for c := range s.models {
		if c.model != aggregate.Other {
			s.places[c.model] = true
		}
	}
}
