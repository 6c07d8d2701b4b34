package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"opper_exporter/opper/oppertest"
)

const (
	// The traffic has grown: a history at the present rate would be too large for the
	// memory. The oldest has basis times the rate, and what is more has come by growth.
	basis  = 0.05
	growth = 12 * time.Hour
	// pace is how long the rate stays the same in the history.
	pace = time.Hour
)

// fillHistory lays down what the agents did until now.
func fillHistory(opper *oppertest.Server, history time.Duration, now time.Time) *oppertest.Traffic {
	present, past := agents(now), agents(now)
	traffic := oppertest.NewTraffic(opper, past, now.UnixNano())
	for from := now.Add(-history); from.Before(now); from = from.Add(pace) {
		to := from.Add(pace)
		if to.After(now) {
			to = now
		}
		rate := basis + (1-basis)*math.Exp(-now.Sub(to).Hours()/growth.Hours())
		for i := range past {
			past[i].Rate = rate * present[i].Rate
		}
		traffic.Backfill(from, to)
	}
	return traffic
}

// past is what Prometheus has before its first start.
type past struct {
	binary   string // of opper_backfill
	data     string // directory of Prometheus
	instance string // that Prometheus adds
}

// buildBackfill returns a binary of opper_backfill in dir.
func buildBackfill(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "opper_backfill")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, ".") //nolint:gosec // into a directory of the demo
	build.Dir = "deploy/backfill"
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("go build opper_backfill: %w", err)
	}
	return path, nil
}

// write writes the blocks, and returns the directory of the state for the exporter; it is
// empty if Prometheus has data already.
func (p past) write(ctx context.Context, dir string, flags []string, stdout, stderr io.Writer) (state string, err error) {
	if entries, err := os.ReadDir(p.data); err == nil && len(entries) > 0 {
		_, _ = fmt.Fprintf(stdout, "%s is not empty, so Prometheus gets no history.\n", p.data)
		return "", nil
	}
	out := filepath.Join(dir, "history")
	flags = slices.DeleteFunc(slices.Clone(flags), func(flag string) bool { return strings.HasPrefix(flag, "--storage.path=") })
	cmd := exec.CommandContext(ctx, p.binary, append(flags, //nolint:gosec // binary and flags are the user's own
		"--for=new-prometheus", "--label=job=opper", "--label=instance="+p.instance, "--retention=0s", "--step=2m", "--output="+out)...)
	cmd.Env = append(os.Environ(), "OPPER_API_KEY="+key)
	ended, err := start(cmd, stdout, stderr)
	if err != nil {
		return "", err
	}
	<-ended
	if !cmd.ProcessState.Success() {
		return "", fmt.Errorf("opper_backfill: %s", cmd.ProcessState)
	}
	blocks := filepath.Join(out, "blocks")
	return filepath.Join(out, "state"), cmp.Or(os.CopyFS(p.data, os.DirFS(blocks)), os.RemoveAll(blocks))
}
