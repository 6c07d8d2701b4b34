// Command opper_backfill writes the history of the exporter's series: what a server would
// have if it had scraped the exporter since the oldest trace that Opper lists.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/common/version"

	"opper_exporter/collector/config"
	"opper_exporter/collector/logging"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/plan"
	"opper_exporter/deploy/backfill/read"
	"opper_exporter/deploy/backfill/server"
)

func main() {
	version.Version = config.Version()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // there net/http quotes what Opper sent unasked
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program, until ctx ends or a signal ends it. It returns the exit
// status: 2 for an invalid configuration, 1 for a failure later.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, done, err := parse(args, getenv, stdout)
	if done || err != nil {
		return exitStatus(err, 2, stderr)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	shown := newProgress(stderr)
	minimum := o.LogLevel
	if shown.isTerminal && minimum == "info" {
		minimum = "warn" // the bar says the rest
	}
	shown.logger, _ = logging.New(shown, minimum, o.LogFormat)
	return exitStatus(backfill(ctx, o, shown, stdout), 1, stderr)
}

// exitStatus prints an error in one line.
func exitStatus(err error, failed int, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "%s: error: %s\n", program, strings.Join(strings.Fields(err.Error()), " "))
	return failed
}

// backfill reads, plans and writes.
func backfill(ctx context.Context, o *options, shown *progress, stdout io.Writer) (err error) {
	first, ends, err := lookAtServer(ctx, o, shown.logger)
	if err != nil {
		return err
	}
	lock, err := createOutput(o.Output)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	defer func() {
		_ = lock.Release() // a second time, if it is finished
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = fmt.Errorf("interrupted: %s is unfinished, and the same command starts over", o.Output)
		}
	}()
	got, err := readProjects(ctx, o, first, shown)
	if err != nil {
		return err
	}
	if ends, err = o.ends(ends, got); err != nil {
		return err
	}
	h, err := history.New(got.Projects, history.Options{Step: o.Step, Labels: o.Labels})
	if err != nil {
		return err
	}
	warn(shown.logger, h, got)
	p, err := plan.New(h, plan.Config{For: o.For, Format: o.Format, Now: time.Now(), Ends: ends, Retention: o.Retention})
	if err != nil {
		return err
	}
	if err := p.Write(stdout, o.Output, o.State == ""); err != nil {
		return err
	}
	free, err := room(o.Output)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if err := p.Check(o.Output, free); err != nil {
		return err
	}
	wrote, err := write(ctx, h, p.Ranges, o, shown)
	if err != nil {
		return err
	}
	if err := finishOutput(o.Output, lock); err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "%s\n", wrote)
	return err
}

// olderSeries is what to know before history of the same traces is added.
const olderSeries = "the server has older series of the exporter with the same traces"

// lookAtServer takes from the server what the arguments leave open, and returns what it has
// scraped first of each project, and where the history has to end for it.
func lookAtServer(ctx context.Context, o *options, logger log.Logger) (map[string]server.First, []plan.End, error) {
	ends := []plan.End{o.live(o.Until, "--until")}
	if o.FromServer == nil {
		return nil, ends, nil
	}
	var projects []string
	for _, p := range o.Projects {
		projects = append(projects, p.Name)
	}
	live, err := server.Look(ctx, o.FromServer, projects, o.Labels)
	if err != nil {
		return nil, nil, err
	}
	if live.Older != "" {
		level.Warn(logger).Log("msg", olderSeries, "labels", live.Older)
	}
	if !o.retained {
		o.Retention = live.Retention
	}
	ends = append(ends, plan.End{At: live.Head, What: "the head of the server"})
	for project, first := range live.First {
		ends = append(ends, o.live(first.At, "the first sample of project "+project+" on the server"))
	}
	return live.First, ends, nil
}

// lateness is how long after its end a trace may be counted, beside the settle delay: rows
// come late, and the clocks of clients are slow.
const lateness = 15 * time.Minute

// live returns where the history has to end for live series that begin at a time. A trace
// that they did not have yet, but the history, would make all of it look like a reset.
func (o *options) live(begin time.Time, what string) plan.End {
	if begin.IsZero() {
		return plan.End{}
	}
	margin := lateness
	for i := range o.Projects {
		margin = max(margin, lateness+o.Projects[i].SettleDelay)
	}
	return plan.End{At: begin.Add(-margin), What: fmt.Sprintf("%s, less %s", what, margin)}
}

// readProjects reads what is listed. A copy of the state is removed.
func readProjects(ctx context.Context, o *options, first map[string]server.First, shown *progress) (*read.Result, error) {
	dir := filepath.Join(o.Output, stateDir)
	if o.State != "" {
		dir = filepath.Join(o.Output, scratchDir)
	}
	shown.begin("reading traces")
	defer shown.end()
	got, err := read.Run(ctx, read.Config{
		Projects: o.Projects, MaxRequestsPerSecondTotal: o.MaxRequestsPerSecondTotal,
		State: o.State, Directory: dir, First: first, Logger: shown.logger, Progress: shown.show, // the collector logs its own
	})
	if o.State != "" {
		err = cmp.Or(err, os.RemoveAll(dir)) //nolint:gosec // the operator's own flag, in a directory that was made for it
	}
	return got, err
}

// ends adds where the history has to end for the state: the exporter may have been scraped
// since that began, unless there is no server yet.
func (o *options) ends(ends []plan.End, got *read.Result) ([]plan.End, error) {
	switch {
	case o.State == "" || o.For == plan.NewPrometheus || o.FromServer != nil || !o.Until.IsZero():
		return ends, nil
	case got.Renewed:
		return nil, errors.New("--until: expected the first sample of the exporter's series on the server, as the state has replaced another one, or --from-server")
	}
	return append(ends, o.live(got.Since, "the state began to count")), nil
}

// warn says what the history lacks.
func warn(logger log.Logger, h *history.History, got *read.Result) {
	for _, w := range []struct {
		msg   string
		count int
	}{
		{"traces without a usable time are counted before the history begins", got.Undated},
		{"traces ended later than they were read, and are not in the history", got.Future},
		{"series have counted fewer traces than are listed, the oldest are left out", h.Clamped()},
	} {
		if w.count > 0 {
			level.Warn(logger).Log("msg", w.msg, "count", w.count)
		}
	}
}
