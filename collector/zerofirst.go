package collector

import (
	"time"

	"opper_exporter/collector/aggregate"
)

// maxZeroPending is how long the zeros of new series are exposed if a scraper
// does not read them.
const maxZeroPending = 10 * time.Minute

// zeroFirst makes new series start at 0: a server does not count
// the first value of a series as an increase. A
// name or a status is exposed at 0 until every scraper has read that. allRead is the one
// arrow against the flow, from scrapes to what is exposed.
type zeroFirst struct {
	project string
	clock   *Clock
	allRead func(project string, since time.Time) bool // nil: no scraper is waited for
	exposed map[aggregate.ZeroPending]time.Time        // since when
}

// published notes that zeros are exposed from now on.
func (z *zeroFirst) published(pending []aggregate.ZeroPending) {
	now := z.clock.Now()
	for _, p := range pending {
		if _, known := z.exposed[p]; !known {
			z.exposed[p] = now
		}
	}
}

// endZeros ends the zeros that all scrapers have read: the next snapshot has the counts.
// They must be committed before they are exposed, so that no crash brings the zeros back.
func (z *zeroFirst) endZeros() {
	now := z.clock.Now()
	for p, since := range z.exposed {
		if z.allRead == nil || z.allRead(z.project, since) || now.Sub(since) >= maxZeroPending {
			p.EndZero()
			delete(z.exposed, p)
		}
	}
}
