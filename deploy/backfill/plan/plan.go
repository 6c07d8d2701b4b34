// Package plan says which ranges of time a history is written in, and what that takes.
package plan

import (
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

const (
	// Lag is how old the end of a block has to be, at least. A server keeps the last hours
	// in its head, and one that loads a block which ends within it drops all samples that
	// the head has from before that end, of all series.
	Lag = 3 * time.Hour

	hour = 2 * time.Hour // the length of a server's own blocks
	day  = 24 * time.Hour
)

// The values of --for and --format.
const (
	Prometheus    = "prometheus"
	NewPrometheus = "new-prometheus" // one that has no data, and does not run
	Mimir         = "mimir"
	Blocks        = "blocks"
	OpenMetrics   = "openmetrics"
)

// Config says what is known of the server, and what is wanted.
type Config struct {
	For, Format string
	Now         time.Time
	// Ends are times after which there must be no history, each with what it is.
	Ends []End
	// Retention of the server; 0 if it has no limit.
	Retention time.Duration
}

// End is a time after which there must be no history.
type End struct {
	At   time.Time
	What string
}

// Range is one of time, in milliseconds since the epoch; Max is not of it.
type Range struct{ Min, Max int64 }

// Sizer knows how large a history is that ends at a time.
type Sizer interface {
	Range() (first, last int64, ok bool)
	EndAt(t int64)
	Size(mint, maxt int64, natives bool) (series int, samples uint64)
}

// Plan is what is written.
type Plan struct {
	cfg         Config
	width       time.Duration
	Ranges      []Range // in order, without gaps
	First, Last time.Time
	Reason      string // why the last one ends there
	Series      int
	Samples     uint64
	Bytes       uint64        // an estimate that is too high
	Retention   time.Duration // that the server needs, in whole days
}

// New returns the plan of a history.
func New(h Sizer, cfg Config) (*Plan, error) {
	first, _, ok := h.Range()
	if !ok {
		return nil, errors.New("nothing to write: Opper lists no counted trace with a known time")
	}
	width := hour
	if cfg.For == Mimir {
		width = day
	}
	p := &Plan{cfg: cfg, width: width, First: time.UnixMilli(first).UTC()}
	last, border := End{cfg.Now.Add(-Lag), days(Lag) + " ago"}, width
	if cfg.For == NewPrometheus {
		// All that its head will have is later.
		last, border = End{cfg.Now, "now"}, time.Second
	}
	for _, e := range cfg.Ends {
		if !e.At.IsZero() && e.At.Before(last.At) {
			last = e
		}
	}
	p.Last, p.Reason = last.At.UTC().Truncate(border), last.What
	if !p.First.Before(p.Last) {
		return nil, fmt.Errorf("nothing to write: the history would begin at %s, and has to end by %s (%s)", p.First.Format(time.RFC3339), p.Last.Format(time.RFC3339), p.Reason)
	}
	if cfg.Format == OpenMetrics {
		width = day // a file for each
	}
	for from := p.First.Truncate(width); from.Before(p.Last); from = from.Add(width) {
		to := from.Add(width)
		if to.After(p.Last) {
			to = p.Last
		}
		p.Ranges = append(p.Ranges, Range{from.UnixMilli(), to.UnixMilli()})
	}
	h.EndAt(p.Last.UnixMilli())
	p.Series, p.Samples = h.Size(first, p.Last.UnixMilli(), cfg.Format != OpenMetrics)
	p.Bytes = p.Samples * bytesPerSample(cfg.Format)
	if cfg.Format != OpenMetrics {
		p.Bytes += uint64(len(p.Ranges)) * (uint64(p.Series)*bytesPerSeries + bytesPerBlock)
	}
	p.Retention = (cfg.Now.Sub(p.First) + day - 1).Truncate(day)
	return p, nil
}

const (
	// bytesPerSeries is more than a series takes in the index of each block.
	bytesPerSeries = 80
	// bytesPerBlock is more than the files and directories of a block take beside what is in
	// them, as a file system allocates 4 KiB at a time.
	bytesPerBlock = 6 * 4096
	// spare is what files may take while they are written, and are not yet cut to their length.
	spare = 16 << 20
)

// bytesPerSample is more than a sample takes, by measurement: in blocks 1.8 bytes where
// there are few traces, and 4.1 where each sample is the end of one.
func bytesPerSample(format string) uint64 {
	if format == OpenMetrics {
		return 200
	}
	return 5
}

// Check refuses a plan that the server or the disk has no room for. free is the number of
// bytes that can be written into directory.
func (p *Plan) Check(directory string, free uint64) error {
	if r := p.cfg.Retention; r > 0 && p.cfg.Now.Sub(p.First) > r {
		return fmt.Errorf("--retention: the history begins %s ago, and the server would delete what is older than %s: let it keep at least %s (%s), and say so with --retention=%s",
			days(p.cfg.Now.Sub(p.First)), days(r), days(p.Retention), retentionFlag(p.cfg.For), days(p.Retention))
	}
	if free < p.Bytes+spare {
		return fmt.Errorf("--output: %s has room for %s, and writing the history takes up to %s", directory, humanize.Bytes(free), humanize.Bytes(p.Bytes+spare))
	}
	return nil
}

func retentionFlag(server string) string {
	if server == Mimir {
		return "compactor_blocks_retention_period"
	}
	return "--storage.tsdb.retention.time"
}
