package collector

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
)

// maxNamesLogged bounds a line of the log, as many names may leave in one sync.
const maxNamesLogged = 10

// removeNames ends the series of names that are excluded by now or have expired. It
// follows the end of zeros, which counts as use of a name. Where the last commit
// failed, what was counted may not have been exposed yet.
func (p *project) removeNames(now time.Time) {
	if p.state.err != nil {
		return
	}
	p.logNames("excluded trace names removed", p.aggregates.RemoveExcluded())
	p.logNames("trace names expired", p.aggregates.Expire(now, p.ledger))
}

func (p *project) logNames(msg string, labels []string) {
	if len(labels) > 0 {
		level.Info(p.logger).Log("msg", msg, "count", len(labels), "trace_names", strings.Join(labels[:min(len(labels), maxNamesLogged)], ", "))
	}
}

// placeOpen gives aggregates to the names of open traces, which may have been renamed.
// The places that are left go by label, so that two replicas agree.
func (p *project) placeOpen() {
	places := p.aggregates.FreePlaces()
	first := map[string]string{} // raw names by label
	last := ""                   // no label behind it gets a place; empty if any may
	p.ledger.Open(func(r ledger.Row) {
		label, ok := p.aggregates.Unplaced(r.Name)
		if !ok || places == 0 || last != "" && label > last {
			return
		}
		first[label] = r.Name
		if len(first) > 2*places {
			sorted := slices.Sorted(maps.Keys(first))
			last = sorted[places-1]
			for _, beaten := range sorted[places:] {
				delete(first, beaten)
			}
		}
	})
	for _, label := range slices.Sorted(maps.Keys(first)) {
		p.aggregates.Ensure(first[label], p.lastZero())
	}
	p.ledger.Open(func(r ledger.Row) { p.aggregates.Ensure(r.Name, p.lastZero()) })
}
