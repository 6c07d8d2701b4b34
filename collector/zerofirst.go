package collector

import (
	"time"

	"opper_exporter/collector/aggregate"
)

// maxZeroPending is how long the zeros of new series are exposed if a scraper
// does not read them.
const maxZeroPending = 10 * time.Minute

// zeroFirst makes new series start at 0: a server takes the first value that it
// sees of a series for history, so that an increase before it would be lost. A
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

// release lets the counts follow whose zeros have been read. They must
// be committed before they are exposed: no crash may bring the zeros back.
func (z *zeroFirst) release() {
	now := z.clock.Now()
	for p, since := range z.exposed {
		if z.allRead == nil || z.allRead(z.project, since) || now.Sub(since) >= maxZeroPending {
			p.EndZero()
			delete(z.exposed, p)
		}
	}
}
