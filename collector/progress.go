package collector

import (
	"math"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/syncer"
)

const (
	// progressInterval is how often a long initial sync logs its progress and
	// commits.
	progressInterval = 10 * time.Second
	// progressRows and progressEntries are the numbers of rows, and of abandoned
	// traces, after which the initial sync commits, however little time has passed:
	// the memory of a transaction grows with the pages that its entries fall on, and
	// those of abandoned traces have no order.
	progressRows    = 1 << 12
	progressEntries = 1 << 10
)

// initialProgress is what has been logged and committed of an initial sync.
type initialProgress struct {
	origin            origin
	loggedAt, savedAt time.Time
	savedRows         int // that it had read when it committed last
	unsaved           int // entries that it could not commit then
}

// progress commits and logs the progress of the initial sync now and then.
func (p *project) progress(part syncer.Part) {
	if !p.failing { // else a sync that succeeds shows it
		p.metrics.up.Set(1)
	}
	p.activity.progress(part)
	ratio := 0.0
	if part.Total > 0 {
		ratio = min(float64(part.Read)/float64(part.Total), 1)
		p.metrics.initialSync.Set(ratio)
	}
	now, i := p.clock.Now(), &p.initial
	if now.Sub(i.loggedAt) >= progressInterval {
		if !i.loggedAt.IsZero() {
			level.Info(p.logger).Log("msg", "initial sync running", "read", part.Read, "listed", part.Total, "progress_ratio", math.Round(1000*ratio)/1000)
		}
		i.loggedAt = now
	}
	// The state of another upstream is kept until there is something in its place.
	if i.origin != otherUpstream && (now.Sub(i.savedAt) >= progressInterval || part.Read-i.savedRows >= progressRows || p.ledger.Unsaved()-i.unsaved >= progressEntries) {
		p.commit()
		i.savedAt, i.savedRows, i.unsaved = now, part.Read, p.ledger.Unsaved()
	}
}

// logInitialSync logs what the counters begin with.
func (p *project) logInitialSync() {
	var counted uint64
	for _, n := range p.aggregates.All() {
		for _, t := range n.ByOutcome {
			counted += t.Traces
		}
	}
	level.Info(p.logger).Log("msg", "initial sync complete", "listed", p.ledger.Listed(), "counted", counted, "prior_state", p.initial.origin != noState)
}
