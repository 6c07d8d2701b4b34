package collector

import (
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// maxNamesLogged bounds a line of the log, as many names may leave in one sync.
const maxNamesLogged = 10

// removeNames ends the series of names that are excluded by now or have expired. It
// follows the release of zeros, which counts as use of a name. Where the last commit
// failed, what was counted may not have been exposed yet.
func (p *project) removeNames(now time.Time) {
	if p.commitErr != nil {
		return
	}
	p.logNames("excluded trace names removed", p.aggregates.RemoveExcluded())
	p.logNames("trace names expired", p.aggregates.Expire(now, p.ledger.Pending))
}

func (p *project) logNames(msg string, labels []string) {
	if len(labels) > 0 {
		level.Info(p.logger).Log("msg", msg, "count", len(labels), "trace_names", strings.Join(labels[:min(len(labels), maxNamesLogged)], ", "))
	}
}
