// Command bench compares the exporter with two others in the same run: the
// floor, which downloads or reads the same bytes and throws them away, and a
// plain implementation with encoding/json and client_golang's vectors. It prints
// tables in Markdown. Run it inside the project: it builds the exporter.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: error: %s\n", err)
		os.Exit(1)
	}
}

// bench is what all measurements have in common.
type bench struct {
	out      io.Writer
	progress io.Writer
	rounds   int
	scale    int // of the long lists, as a divisor
	profile  string
	window   time.Duration // of quiet time
	shape    string        // the only extreme list to measure; empty for all
	dir      string        // for files, removed at the end
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	app := kingpin.New("bench", "Compares the exporter with a bare download and with a plain implementation.")
	app.Terminate(nil)
	b := &bench{out: stdout, progress: stderr}
	var only string
	app.Flag("only", "Measure only these, with commas between: decode, initial-sync, sync, scrape, memory, start, extremes, bursts, commit, fairness, scale.").StringVar(&only)
	app.Flag("rounds", "How often each side is measured, in turns. The best time counts: other work on the machine only adds to it.").Default("5").IntVar(&b.rounds)
	app.Flag("scale", "Divide the lengths of the lists by this, for a quick try.").Default("1").IntVar(&b.scale)
	app.Flag("window", "For how long quiet projects are watched. What they write is told for multiples of 5m.").Default("5m").DurationVar(&b.window)
	app.Flag("profile", "Write a CPU profile of our initial syncs to this file.").StringVar(&b.profile)
	serve := app.Flag(serveFlag, "Serve a list; bench starts itself with it.").Hidden().Bool()
	var list listConfig
	list.flags(app)
	if _, err := app.Parse(args); err != nil {
		return err
	}
	b.shape = list.shape
	if *serve {
		return serveList(ctx, list, os.Stdin, stdout)
	}
	if b.rounds < 1 || b.scale < 1 {
		return errors.New("--rounds and --scale must be 1 or more")
	}
	dir, err := os.MkdirTemp("", "opper_exporter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the system's own directory for such files
	b.dir = dir

	printf(stdout, "%s, %s/%s, %s, %d CPUs.\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, processor(), runtime.GOMAXPROCS(0))
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"decode", b.decode},
		{"initial-sync", b.initialSync},
		{"sync", b.sync},
		{"scrape", b.scrape},
		{"memory", b.memory},
		{"start", b.start},
		{"extremes", b.extremes},
		{"bursts", b.bursts},
		{"commit", b.commit},
		{"fairness", b.fairness},
		{"scale", b.projects},
	} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// side is one of those that are compared.
type side struct {
	name string
	run  func(context.Context) error
	// once says that it takes so long that one round has to do.
	once bool
	// prepare, if set, is run before each round, and is not measured.
	prepare func(context.Context) error
}

// cost is what a side took, and what this process used of the processors
// meanwhile: the kernel's work for it included, that of the server not.
type cost struct{ took, cpu time.Duration }

// String returns both.
func (c cost) String() string { return short(c.took) + " (" + short(c.cpu) + ")" }

func minimum(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// race runs the sides in turns, so that what slows the machine down for a while
// slows down all, and returns the least that each took.
func (b *bench) race(ctx context.Context, what string, sides ...side) ([]cost, error) {
	best := make([]cost, len(sides))
	for round := range b.rounds {
		printf(b.progress, "%s, round %d of %d\n", what, round+1, b.rounds)
		for i, s := range sides {
			if s.run == nil || s.once && round > 0 {
				continue
			}
			if s.prepare != nil {
				if err := s.prepare(ctx); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", what, s.name, err)
				}
			}
			runtime.GC()
			began, used := time.Now(), processorTime()
			if err := s.run(ctx); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", what, s.name, err)
			}
			best[i].took = minimum(best[i].took, time.Since(began))
			best[i].cpu = minimum(best[i].cpu, processorTime()-used)
		}
	}
	return best, nil
}

// repeated makes a side of something short: it is run n times.
func repeated(n int, f func() error) func(context.Context) error {
	return func(context.Context) error {
		for range n {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
}

// printf ignores errors: standard output may be closed.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// table prints one table. The first column is text.
func (b *bench) table(title string, head []string, rows [][]string) {
	printf(b.out, "\n%s\n\n| %s |\n|---|%s\n", title, strings.Join(head, " | "), strings.Repeat("---:|", len(head)-1))
	for _, row := range rows {
		printf(b.out, "| %s |\n", strings.Join(row, " | "))
	}
}

// profiled runs f under the CPU profile that was asked for.
func (b *bench) profiled(f func() error) (err error) {
	file, err := os.Create(b.profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// ratio is a in units of b.
func ratio(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3g ×", float64(a)/float64(b))
}

func short(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

// processor names the machine's, where the system tells.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // only there where it is
	for line := range strings.Lines(string(info)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "a processor of unknown name"
}
