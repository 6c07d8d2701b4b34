// Command soak runs the exporter against an Opper in memory for a given time,
// with everything at random that can go wrong on either side, and ends with a
// verdict: the counters against the truth, leaks, and the slowest scrape. Run
// it inside the project: it builds the exporter.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"opper_exporter/deploy/test/exportertest"

	"github.com/alecthomas/kingpin/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: error: %s\n", err)
	}
	os.Exit(code)
}

// run is one soak. It returns the exit status: 1 if a promise was broken.
func run(ctx context.Context, args []string, stdout io.Writer) (int, error) {
	app := kingpin.New("soak", "The exporter against a hostile Opper in memory, with hostile clients, for a given time. Ends with a verdict.")
	app.Terminate(nil)
	app.UsageWriter(stdout).ErrorWriter(io.Discard)
	lasts := app.Flag("for", "How long it runs; at the end up to eleven minutes more, until all that has to be counted is shown. What happens is as long as in an hour, in proportion.").Default("10m").Envar("SOAK").Duration()
	seed := app.Flag("seed", "Seed of all that is random. Default: another one each time.").Int64()
	without := app.Flag("without", "Leave these out, with commas between: "+strings.Join(topics, ", ")+".").String()
	calm := app.Flag("calm", "Leave out everything that goes wrong: traffic only.").Bool()
	sortBy := app.Flag("sort", "How Opper sorts its list. Default: by chance.").Default("any").Enum("any", "arrival", "start")
	binary := app.Flag("exporter", "Binary of the exporter. If empty, it is built.").String()
	race := app.Flag("race", "Build the exporter with the race detector.").Bool()
	keep := app.Flag("keep", "Keep the directory with the state and the log of the exporter, also if nothing is wrong.").Bool()
	if _, err := app.Parse(args); err != nil {
		return 2, err
	}
	s := &settings{lasts: *lasts, seed: *seed, sortBy: *sortBy, out: stdout}
	if s.lasts < shortest {
		return 2, fmt.Errorf("--for: at least %s", shortest)
	}
	if s.seed == 0 {
		s.seed = time.Now().UnixNano() % 1e9
	}
	s.without = strings.FieldsFunc(*without, func(r rune) bool { return r == ',' || r == ' ' })
	if *calm {
		s.without = topics
	}
	for _, topic := range s.without {
		if !slices.Contains(topics, topic) {
			return 2, fmt.Errorf("--without: %q is none of %s", topic, strings.Join(topics, ", "))
		}
	}

	var err error
	if s.dir, err = os.MkdirTemp("", "opper_exporter-soak-"); err != nil {
		return 1, err
	}
	if s.binary = *binary; s.binary == "" {
		if s.binary, err = exportertest.Build(ctx, s.dir, *race); err != nil {
			return 1, err
		}
	}
	broken, err := soak(ctx, s)
	if err != nil || broken || *keep {
		_, _ = fmt.Fprintf(stdout, "\nThe state and the log of the exporter are in %s.\n", s.dir)
	} else {
		_ = os.RemoveAll(s.dir) // what stays is for the system to clear
	}
	if err != nil || broken {
		return 1, err
	}
	return 0, nil
}

// settings are what a soak is run with.
type settings struct {
	lasts       time.Duration
	seed        int64
	without     []string
	sortBy      string
	binary, dir string
	out         io.Writer
}

func (s *settings) has(topic string) bool { return !slices.Contains(s.without, topic) }

const (
	shortest = 10 * time.Second
	// An hour has all durations at full length. Below some minutes they get no
	// shorter: the list would change faster than it can be read.
	whole, least = time.Hour, 3 * time.Minute
	reportEvery  = 30 * time.Second
)

// scaled returns a duration of a soak of an hour as long as it is in this one.
func (s *settings) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(max(s.lasts, least), whole).Seconds() / whole.Seconds())
}

// soak runs it. It reports whether a promise was broken; the error is that it
// could not be run to its end.
func soak(ctx context.Context, s *settings) (broken bool, err error) {
	p := &promises{out: s.out, began: time.Now()}
	tl := &timeline{}
	w, err := newWorld(ctx, s, tl)
	if err != nil {
		return false, err
	}
	defer w.close()
	x, err := newExporter(s, w, p, tl)
	if err != nil {
		return false, err
	}
	defer x.close()
	v := newWatcher(s, x, w, p, tl)
	_, _ = fmt.Fprintf(s.out, "soak: --for=%s --seed=%d --sort=%s --without=%s, %s/%s, %d CPUs\n%s\n",
		s.lasts, s.seed, w.order(), strings.Join(s.without, ","), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), w)

	begun := time.Now()
	if err := x.start(); err != nil {
		return false, err
	}
	v.begun = begun
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := v.run(ctx)
	defer func() { cancel(); <-stopped }()
	if !wait(ctx, patience, func() bool { return v.synced() > 0 }) {
		return false, errors.Join(ctx.Err(), errors.New("the exporter did not finish its initial sync"))
	}
	c := &conductor{settings: s, world: w, exporter: x, watcher: v, promises: p, timeline: tl}
	if err := c.play(ctx); err != nil {
		return false, err
	}
	if err := v.finish(ctx); err != nil {
		return false, err
	}
	cancel()
	<-stopped
	x.finish()
	return v.verdict(), nil
}

// patience is far above what any awaited condition needs.
const patience = 2 * time.Minute

// wait polls until a condition is true, for so long at most.
func wait(ctx context.Context, most time.Duration, condition func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// sleep returns when so much time has passed or ctx has ended.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
