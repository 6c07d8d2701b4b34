package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// shutdownTimeout is how long a shutdown may take, scrapes in flight included.
// It is less than the 10 seconds that a container runtime waits before it kills.
const shutdownTimeout = drainTime + 3*time.Second

// supervise runs the exporter until it ends by itself or is told to, by a signal
// or as ctx ends. Whatever hangs then, for example a commit to a disk that does
// not answer, is waited for until shutdownTimeout, or a second signal.
func supervise(ctx context.Context, logger log.Logger, serve func(context.Context) error) error {
	// Never stopped: no further signal may change the exit status.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()

	told := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case err := <-ended:
			return err
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				atMostASecond(func() { level.Info(logger).Log("msg", "SIGHUP ignored: there is no configuration to reload") })
			case ctx.Err() == nil:
				stop()
			default:
				return fmt.Errorf("signal %q during the shutdown", s)
			}
		case <-told:
			told, late = nil, time.After(shutdownTimeout)
		case <-late:
			return fmt.Errorf("shutdown not finished within %s", shutdownTimeout)
		}
	}
}

// atMostASecond waits no longer for f: nobody may be reading the log.
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
