package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// Write prints the plan for an output directory. With madeState, it has a state.
func (p *Plan) Write(to io.Writer, output string, madeState bool) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(table, name+"\t"+format+"\n", args...) // Flush returns its error
	}
	line("from", "%s", p.First.Format(time.RFC3339))
	reason := p.Reason
	if p.cfg.For != NewPrometheus {
		reason = fmt.Sprintf("the last %s boundary before %s", days(p.width), p.Reason)
	}
	line("until", "%s (%s)", p.Last.Format(time.RFC3339), reason)
	line("days", "%.1f", p.Last.Sub(p.First).Hours()/24)
	if p.cfg.Format == OpenMetrics {
		line("files", "%d, one for each day", len(p.Ranges))
	} else {
		line("blocks", "%d of %s", len(p.Ranges), days(p.width))
	}
	line("series", "%s", humanize.Comma(int64(p.Series)))
	line("samples", "%s", humanize.Comma(int64(p.Samples)))
	line("bytes", "up to %s", humanize.Bytes(p.Bytes))
	line("retention", "at least %s (%s)", days(p.Retention), retentionFlag(p.cfg.For))
	for i, step := range p.steps(output, madeState) {
		line(fmt.Sprintf("step %d", i+1), "%s", step)
	}
	return table.Flush()
}

// steps are what is to be done with the output, in order.
func (p *Plan) steps(output string, madeState bool) (steps []string) {
	switch {
	case p.cfg.Format == OpenMetrics:
		steps = append(steps,
			"for Prometheus: promtool tsdb create-blocks-from openmetrics FILE DIRECTORY for each file, and move the blocks in DIRECTORY to the --storage.tsdb.path of the server",
			"for VictoriaMetrics: POST each file to /api/v1/import/prometheus")
	case p.cfg.For == Mimir:
		steps = append(steps, fmt.Sprintf("mimirtool backfill --address=URL --id=TENANT %s/blocks/*", output))
	case p.cfg.For == NewPrometheus:
		steps = append(steps, fmt.Sprintf("chown the directories in %s/blocks to the user of the server and move them to its --storage.tsdb.path, before its first start", output))
	default:
		steps = append(steps, fmt.Sprintf("chown the directories in %s/blocks to the user of the server, which must be running, and move them to its --storage.tsdb.path", output))
	}
	if madeState {
		steps = append(steps, fmt.Sprintf("chown %s/state to the user of the exporter and move it to its --storage.path, before its first start", output))
	}
	return steps
}

// days prints a duration in days and hours, as the flags of a server take it.
func days(d time.Duration) string {
	d = d.Round(time.Hour)
	var b strings.Builder
	if n := d / day; n > 0 {
		fmt.Fprintf(&b, "%dd", n)
	}
	if n := d % day / time.Hour; n > 0 || d < day {
		fmt.Fprintf(&b, "%dh", n)
	}
	return b.String()
}
