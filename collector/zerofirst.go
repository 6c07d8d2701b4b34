package collector

import (
	"time"

	"opper_exporter/collector/aggregate"
)

// maxZeroPending is how long the zeros of a new name are exposed if a scraper
// does not read them.
const maxZeroPending = 10 * time.Minute

// zeroFirst makes new series start at 0: a server takes the first value that it
// sees of a series for history, so that an increase before it would be lost. A
// name is exposed at 0 until every scraper has read that. allRead is the one
// arrow against the flow, from scrapes to what is exposed.
type zeroFirst struct {
	allRead func(since time.Time) bool
	exposed map[*aggregate.Aggregate]time.Time // names that are exposed at 0, and since when
}

func newZeroFirst(allRead func(since time.Time) bool) *zeroFirst {
	if allRead == nil {
		allRead = func(time.Time) bool { return true }
	}
	return &zeroFirst{allRead: allRead, exposed: map[*aggregate.Aggregate]time.Time{}}
}

// published notes that zeros of names are exposed from now on.
func (z *zeroFirst) published(names []*aggregate.Aggregate, now time.Time) {
	for _, n := range names {
		if _, known := z.exposed[n]; n.IsZeroPending() && !known {
			z.exposed[n] = now
		}
	}
}

// release lets the counts of names follow whose zeros have been read. They must
// be committed before they are exposed: no crash may bring the zeros back.
func (z *zeroFirst) release(now time.Time) {
	for n, since := range z.exposed {
		if z.allRead(since) || now.Sub(since) >= maxZeroPending {
			n.EndZero()
			delete(z.exposed, n)
		}
	}
}
