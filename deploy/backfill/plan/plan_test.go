package plan

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var now = time.Date(2026, 11, 26, 19, 12, 30, 0, time.UTC)

// history is one whose samples are a minute apart.
type history struct{ first, last time.Time }

func (h history) Range() (first, last int64, ok bool) {
	return h.first.UnixMilli(), h.last.UnixMilli(), !h.first.IsZero()
}

func (history) EndAt(int64) {}

func (h history) Size(mint, maxt int64, _ bool) (series int, samples uint64) {
	return 3800, uint64(maxt-mint) / 60_000 * 3800
}

// month is what Opper lists at most.
func month() history { return history{now.Add(-30*day + 7*time.Minute), now} }

func TestPlanIsGolden(t *testing.T) {
	for name, c := range map[string]struct {
		cfg       Config
		madeState bool
	}{
		"prometheus":  {Config{For: Prometheus, Format: Blocks, Retention: 31 * day}, true},
		"mimir":       {Config{For: Mimir, Format: Blocks}, true},
		"new":         {Config{For: NewPrometheus, Format: Blocks, Retention: 31 * day}, true},
		"openmetrics": {Config{For: Prometheus, Format: OpenMetrics, Retention: 31 * day}, false},
		"server": {Config{For: Prometheus, Format: Blocks, Retention: 31 * day, Ends: []End{
			{At: now.Add(-26 * time.Hour), What: "the first sample on the server"}, {What: "not known"}, {At: now.Add(-time.Hour), What: "too late to matter"},
		}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Now = now
			p, err := New(month(), c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			if err := p.Write(&got, "/var/lib/history", c.madeState); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

// Blocks are those that the server would have made, have no gaps, and end where it takes
// no harm.
func TestRangesAreAligned(t *testing.T) {
	for name, c := range map[string]struct {
		server, format string
		at             time.Time
		ends           []End
		width          time.Duration
		last           time.Time
	}{
		"prometheus":                 {Prometheus, Blocks, now, nil, hour, time.Date(2026, 11, 26, 16, 0, 0, 0, time.UTC)},
		"a server without data":      {NewPrometheus, Blocks, now, nil, hour, now},
		"just older than the lag":    {Prometheus, Blocks, time.Date(2026, 11, 26, 19, 0, 0, 0, time.UTC), nil, hour, time.Date(2026, 11, 26, 16, 0, 0, 0, time.UTC)},
		"just younger than the lag":  {Prometheus, Blocks, time.Date(2026, 11, 26, 18, 59, 59, 0, time.UTC), nil, hour, time.Date(2026, 11, 26, 14, 0, 0, 0, time.UTC)},
		"mimir":                      {Mimir, Blocks, now, nil, day, time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)},
		"mimir after midnight":       {Mimir, Blocks, time.Date(2026, 11, 26, 2, 59, 0, 0, time.UTC), nil, day, time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)},
		"text":                       {Prometheus, OpenMetrics, now, nil, day, time.Date(2026, 11, 26, 16, 0, 0, 0, time.UTC)},
		"first sample on the server": {Prometheus, Blocks, now, []End{{now.Add(-49 * time.Hour), ""}}, hour, time.Date(2026, 11, 24, 18, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(month(), Config{For: c.server, Format: c.format, Now: c.at, Ends: c.ends})
			if err != nil {
				t.Fatal(err)
			}
			if !p.Last.Equal(c.last) || p.Ranges[len(p.Ranges)-1].Max != c.last.UnixMilli() {
				t.Errorf("it ends at %s, want %s", p.Last, c.last)
			}
			width := c.width.Milliseconds()
			for i, r := range p.Ranges {
				switch {
				case r.Min%width != 0, r.Max%width != 0 && r.Max != c.last.UnixMilli(), r.Min/width != (r.Max-1)/width:
					t.Errorf("range %d from %s to %s is not aligned", i, time.UnixMilli(r.Min).UTC(), time.UnixMilli(r.Max).UTC())
				case i > 0 && r.Min != p.Ranges[i-1].Max:
					t.Errorf("there is a gap before range %d", i)
				}
			}
			if first := p.Ranges[0]; first.Min > p.First.UnixMilli() || first.Max <= p.First.UnixMilli() {
				t.Error("the first range does not have the first sample")
			}
		})
	}
}

func TestHistoriesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		history   history
		ends      []End
		retention time.Duration
		server    string
		free      uint64
		want      string
	}{
		"no traces": {history{}, nil, 0, Prometheus, 1 << 40, "nothing to write: Opper lists no counted trace with a known time"},
		"all of it live": {
			history{now.Add(-2 * time.Hour), now},
			nil, 0, Prometheus, 1 << 40,
			"nothing to write: the history would begin at 2026-11-26T17:12:30Z, and has to end by 2026-11-26T16:00:00Z (3h ago)",
		},
		"all of it counted live": {
			month(),
			[]End{{now.Add(-31 * day), "--until"}},
			0, Prometheus, 1 << 40,
			"nothing to write: the history would begin at 2026-10-27T19:19:30Z, and has to end by 2026-10-26T18:00:00Z (--until)",
		},
		"retention": {
			month(), nil, 15 * day, Prometheus, 1 << 40,
			"--retention: the history begins 30d ago, and the server would delete what is older than 15d: let it keep at least 30d (--storage.tsdb.retention.time), and say so with --retention=30d",
		},
		"retention of mimir": {
			month(), nil, 7 * day, Mimir, 1 << 40,
			"--retention: the history begins 30d ago, and the server would delete what is older than 7d: let it keep at least 30d (compactor_blocks_retention_period), and say so with --retention=30d",
		},
		"room":            {month(), nil, 30 * day, Prometheus, 100e6, "--output: /out has room for 100 MB, and writing the history takes up to 952 MB"},
		"just enough":     {month(), nil, 30 * day, Prometheus, 960e6, ""},
		"no limit at all": {month(), nil, 0, Prometheus, 960e6, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(c.history, Config{For: c.server, Format: Blocks, Now: now, Ends: c.ends, Retention: c.retention})
			if err == nil {
				err = p.Check("/out", c.free)
			}
			if got := text(err); got != c.want {
				t.Errorf("error\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
