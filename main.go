// Command opper_exporter exposes the traces of Opper to Prometheus.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"

	"opper_exporter/collector"
	"opper_exporter/collector/check"
	"opper_exporter/collector/config"
	"opper_exporter/collector/logging"
	"opper_exporter/collector/reload"
	"opper_exporter/collector/scrape"
	"opper_exporter/collector/statecmd"
	"opper_exporter/collector/store"
	"opper_exporter/opper"
)

const (
	// gcPercent makes the garbage collector run more often than by default. Most
	// of the memory is tables without pointers, which it scans quickly; waiting
	// until the heap has doubled would cost more than that.
	gcPercent = 20
	// drainTimeout is how long scrapes in flight may take during the shutdown.
	drainTimeout = 5 * time.Second
	// shutdownTimeout is how long all of the shutdown may take. It is less than
	// the 10 seconds that a container runtime waits before it kills.
	shutdownTimeout = drainTimeout + 3*time.Second
)

// commands are what the program does other than run, by their first words.
var commands = map[string]func(context.Context, *config.Validated, io.Writer) error{config.CommandCheck: check.Run, config.CommandState: statecmd.Run}

func main() {
	version.Version = config.Version() // the metric says what the log says
	// Otherwise, a log line that cannot be written any more ends the process.
	signal.Ignore(syscall.SIGPIPE)
	slog.SetDefault(slog.New(slog.DiscardHandler)) // there net/http quotes what Opper sent unasked
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program, until ctx ends or a signal ends it. It returns the exit
// status: 2 for an invalid configuration, 1 for a failure later.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, done, err := config.Parse(args, getenv, stdout)
	if done || err != nil {
		return exitStatus(err, 2, stderr)
	}
	if command := commands[strings.Fields(cfg.Command)[0]]; command != nil {
		return exitStatus(command(ctx, cfg, stdout), 1, stderr)
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// From now on, it does not end the process.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	logger, webLogger := logging.New(stderr, cfg.LogLevel, cfg.LogFormat)
	if err := supervise(ctx, func(ctx context.Context) error { return serve(ctx, cfg, hangups, logger, webLogger) }); err != nil {
		atMostASecond(func() { level.Error(logger).Log("msg", "stopped", "err", err) })
		return 1
	}
	return 0
}

// exitStatus prints an error in one line: some of YAML, and some paths, have several.
func exitStatus(err error, failed int, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "%s: error: %s\n", config.Program, strings.Join(strings.Fields(err.Error()), " "))
	return failed
}

// serve runs the exporter until ctx ends or it can't be served.
func serve(ctx context.Context, cfg *config.Validated, hangups <-chan os.Signal, logger log.Logger, webLogger *slog.Logger) (err error) {
	clock := collector.NewClock()
	scrapers := scrape.NewScrapers(clock.Now)
	deps := collector.Deps{Logger: logger, Clock: clock, AllRead: scrapers.AllRead, Limit: opper.NewSharedLimit(cfg.MaxRequestsPerSecondTotal)}
	verify := func() error { return nil }
	var copyState scrape.CopyState
	if slices.ContainsFunc(cfg.Projects, func(p config.Project) bool { return !p.ClassicHistograms && !p.NativeHistograms }) {
		level.Warn(logger).Log("msg", "classic and native histograms disabled, histograms have only a count and a sum")
	}
	if cfg.StoragePath == "" {
		level.Warn(logger).Log("msg", "persistence disabled, counters restart from zero on every start")
	} else {
		state, err := store.Open(cfg.StoragePath)
		if err != nil {
			return fmt.Errorf("--storage.path: %w", err)
		}
		defer state.Close() //nolint:errcheck // all that was committed has been verified
		deps.Store, verify, copyState = state, state.Verify, state.OpenCopy
	}
	c, err := collector.New(cfg.Projects, deps)
	if err != nil {
		return fmt.Errorf("--storage.path: %w", err)
	}

	reloader := reload.New(cfg.Projects, cfg.Reload, c.Apply, logger)
	var onReload http.Handler
	if cfg.Reload != nil {
		onReload = reloader
	}
	registry := prometheus.NewRegistry() // of the process; the projects are not of it
	registry.MustRegister(versioncollector.NewCollector(config.Program), c.Count(), reloader)
	handler := scrape.NewHandler(cfg.Scrape, c, scrapers, registry, copyState, onReload, logger)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	level.Info(logger).Log("msg", "starting opper_exporter", "version", config.Version(), "revision", version.GetRevision(), "projects", len(cfg.Projects), "opper_url", config.UpstreamURLs(cfg.Projects))
	server := scrape.NewServer(handler, scrapers)
	served, err := scrape.Serve(ctx, server, cfg.Web, cfg.HealthAddress, webLogger)
	if err != nil {
		return err
	}
	level.Info(logger).Log("msg", "serving metrics", "path", cfg.Scrape.TelemetryPath)

	synced := make(chan error, 1)
	go func() { synced <- c.Run(ctx) }()
	var reloads sync.WaitGroup
	reloads.Go(func() { reloader.Run(ctx, hangups) })
	defer func() { // before the state is closed
		cancel()
		reloads.Wait()
		if broken := cmp.Or(<-synced, verify()); err == nil && broken != nil {
			err = fmt.Errorf("--storage.path: %w", broken)
		}
	}()
	select {
	case err := <-served:
		return fmt.Errorf("web server: %w", err)
	case broken := <-synced:
		synced <- broken
		if broken != nil {
			_ = server.Close()
			return nil
		}
	case <-ctx.Done():
	}
	level.Info(logger).Log("msg", "shutting down")
	drain, cancelDrain := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancelDrain()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("web server: %w", err)
	}
	return nil
}

// supervise runs the exporter until it ends by itself, ctx ends or a signal ends
// it. The shutdown may hang, for example in a commit to a disk that does not
// answer: it is aborted after shutdownTimeout, or by a second signal.
func supervise(ctx context.Context, serve func(context.Context) error) error {
	// Never stopped: no further signal may change the exit status.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()

	stopping := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case err := <-ended:
			return err
		case s := <-signals:
			if ctx.Err() != nil {
				return fmt.Errorf("signal %q during the shutdown", s)
			}
			stop()
		case <-stopping:
			stopping, late = nil, time.After(shutdownTimeout)
		case <-late:
			return fmt.Errorf("shutdown not finished within %s", shutdownTimeout)
		}
	}
}

// atMostASecond waits no longer for f: the log may be blocked.
func atMostASecond(f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
