package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

// The plan says how much room the history takes on the disk, where it has few samples as well
// as where each is the end of a trace.
func TestPlanHasRoomForAll(t *testing.T) {
	printed := regexp.MustCompile(`bytes +up to (.*)`)
	for name, c := range map[string]struct {
		traces int
		over   time.Duration
		args   []string
	}{
		"one trace":   {1, 2 * day, nil},
		"few traces":  {60, 6 * day, nil},
		"many traces": {40_000, 12 * time.Hour, nil},
		"long blocks": {60, 6 * day, []string{"--for=mimir"}},
		"text":        {300, 2 * day, []string{"--format=openmetrics"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.traces, c.over)
			out, _ := b.mustRun(append(c.args, "--retention=0s")...)
			found := printed.FindStringSubmatch(out)
			if found == nil {
				t.Fatalf("no bytes in\n%s", out)
			}
			planned, err := humanize.ParseBytes(found[1])
			if err != nil {
				t.Fatal(err)
			}
			took := 0
			for _, dir := range []string{blocksDir, openMetricsDir} {
				err := filepath.WalkDir(filepath.Join(b.output, dir), func(_ string, d fs.DirEntry, err error) error {
					if err != nil {
						return err
					}
					info, err := d.Info()
					took += int(info.Size()+4095) / 4096 * 4096
					return err
				})
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			// Two digits are printed.
			if took == 0 || float64(took) > 1.05*float64(planned) {
				t.Errorf("%d bytes are written, planned\n%s", took, out)
			}
		})
	}
}
