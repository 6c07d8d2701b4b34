// Command demo runs the exporter against an Opper in memory: a dozen agents
// with two weeks of history, about two traces a second, and an incident of one of
// them every few minutes. With --prometheus it also runs the Prometheus that the
// tests use, with the rules and the history.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"opper_exporter/opper/oppertest"
)

const (
	key = "demo"
	// grace is longer than the exporter takes to drain.
	grace = 15 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	// Whatever an interrupt met, it is how the demo ends.
	if ctx.Err() != nil {
		code, err = 0, nil
	}
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: error: %s\n", err)
	}
	os.Exit(code)
}

// run is the demo until ctx ends or the exporter does. It returns the exit
// status: that of the exporter, if it ends first.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	app := kingpin.New("demo", "The exporter against an Opper in memory. What follows -- goes to the exporter.")
	opperAddress := app.Flag("opper.listen-address", "Address of the Opper in memory.").Default("127.0.0.1:16774").String()
	webAddress := app.Flag("web.listen-address", "Address of the exporter.").Default("127.0.0.1:16773").String()
	binary := app.Flag("exporter", "Binary of the exporter.").Default("./opper_exporter").String()
	withPrometheus := app.Flag("prometheus", "Also run Prometheus with the alerts. It is built, which needs Go and takes minutes the first time. The demo must run in the directory of the project.").Bool()
	prometheusAddress := app.Flag("prometheus.listen-address", "Address of Prometheus.").Default("127.0.0.1:9090").String()
	prometheusData := app.Flag("prometheus.path", "Data directory of a Prometheus that has never been started: the history is written there before the exporter starts.").String()
	instance := app.Flag("prometheus.instance", "Label instance that Prometheus adds to what it scrapes from the exporter. Default: the address of the exporter.").String()
	backfill := app.Flag("backfill", "Binary of opper_backfill, which writes the history. With --prometheus it is built.").String()
	history := app.Flag("history", "How much history the agents have. Opper deletes what is older.").Default("336h").Duration()
	flags := app.Arg("flags", "Flags of the exporter.").Strings()
	if _, err := app.Parse(args); err != nil {
		return 2, err
	}

	dir, err := os.MkdirTemp("", "opper_exporter-demo-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is for the system to clear
	var prometheus *exec.Cmd
	if *withPrometheus {
		_, _ = fmt.Fprintln(stdout, "Building Prometheus, which takes minutes the first time.")
		*prometheusData = filepath.Join(dir, "prometheus")
		if prometheus, err = prometheusCommand(ctx, dir, *webAddress, *prometheusAddress, *prometheusData); err == nil {
			*backfill, err = buildBackfill(ctx, dir)
		}
		if err != nil {
			return 1, fmt.Errorf("--prometheus: %w", err)
		}
	}

	// It may run for days, so it keeps no records, and forgets what is old.
	now := time.Now()
	usage := newUsage(now.UnixNano())
	opper := oppertest.New(oppertest.Config{Key: key, Retention: *history, BodyBytes: 1, NoRecord: true, Usage: usage, Project: opperProject})
	traffic := fillHistory(opper, *history, now)
	setBudget(usage)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *opperAddress)
	if err != nil {
		return 1, fmt.Errorf("--opper.listen-address: %w", err)
	}
	server := &http.Server{Handler: opper, ReadHeaderTimeout: grace}
	served := make(chan struct{})
	go func() {
		_ = server.Serve(listener) // ends when it is closed
		close(served)
	}()
	defer func() {
		_ = server.Close() // nothing that the demo could still do about it
		<-served
	}()
	opperURL := "http://" + listener.Addr().String()

	exporterFlags := withDefaults(*flags,
		"--opper.url="+opperURL, "--web.listen-address="+*webAddress, "--collector.interval=5s", "--collector.settle-delay=5s",
		// The thresholds of the demo are for this project.
		"--opper.project=demo",
		// The limit is there to spare the real Opper: a day of history would take minutes.
		"--opper.max-requests-per-second=0",
		"--opper.max-requests-per-second-total=0",
		// There are no pages about these traces.
		"--web.trace-url=")
	state := ""
	if *prometheusData != "" {
		p := past{binary: *backfill, data: *prometheusData, instance: cmp.Or(*instance, *webAddress)}
		if state, err = p.write(ctx, dir, exporterFlags, stdout, stderr); err != nil {
			return 1, fmt.Errorf("--prometheus.path: %w", err)
		}
	}
	exporterFlags = withDefaults(exporterFlags, "--storage.path="+cmp.Or(state, filepath.Join(dir, "data")))
	exporter := exec.CommandContext(ctx, *binary, exporterFlags...) //nolint:gosec // binary and flags are the user's own
	exporter.Env = append(os.Environ(), "OPPER_API_KEY="+key)
	exporterEnded, err := start(exporter, stdout, stderr)
	if err != nil {
		return 1, fmt.Errorf("--exporter: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if prometheus != nil {
		prometheusEnded, err := start(prometheus, stdout, stderr)
		if err != nil {
			return 1, fmt.Errorf("--prometheus: %w", err)
		}
		defer func() { <-prometheusEnded }()
		defer prometheus.Cancel() //nolint:errcheck // it may have ended
	}
	go func() {
		if awaitReady(ctx, *webAddress) {
			_, _ = fmt.Fprintf(stdout, explanation, key, opperURL, *webAddress)
			switch {
			case prometheus != nil:
				_, _ = fmt.Fprintf(stdout, "Prometheus         http://%[1]s/query\nAlerts             http://%[1]s/alerts\n\n", *prometheusAddress)
			case *prometheusData == "":
				_, _ = fmt.Fprint(stdout, more)
			}
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			traffic.Step(now)
			continue
		case <-exporterEnded:
		}
		if code := exporter.ProcessState.ExitCode(); code >= 0 {
			return code, nil
		}
		return 1, fmt.Errorf("exporter: %s", exporter.ProcessState)
	}
}

// start starts a command that is terminated when its context ends, and returns
// what is closed when the process has ended.
func start(cmd *exec.Cmd, stdout, stderr io.Writer) (ended <-chan struct{}, err error) {
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	separate(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state says the same
		close(done)
	}()
	return done, nil
}

// awaitReady waits until the initial sync is complete, and reports whether that
// was before the end of ctx. Users may have asked for TLS and passwords: any other
// answer than "not ready" says as much.
func awaitReady(ctx context.Context, address string) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/-/ready", http.NoBody)
		if err != nil {
			return false // the exporter refuses such an address, too
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close() // nothing is read from it
			if response.StatusCode != http.StatusServiceUnavailable {
				return true
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// firstIncident is when the busiest agent begins to fail, after the start. A
// Prometheus that is started with the demo has seen it succeed by then.
const firstIncident = time.Minute

// agents are the usual ones, with the first incident soon after a start.
func agents(start time.Time) []oppertest.Agent {
	all := oppertest.DefaultAgents()
	for i := range all {
		all[i].IncidentPhase += time.Duration(start.Add(firstIncident).UnixNano() % all[i].IncidentEvery.Nanoseconds())
	}
	return all
}

// withDefaults adds flags that are not among args: kingpin takes none twice.
func withDefaults(args []string, defaults ...string) []string {
	for _, flag := range defaults {
		name, _, _ := strings.Cut(flag, "=")
		if !slices.ContainsFunc(args, func(arg string) bool { return arg == name || strings.HasPrefix(arg, name+"=") }) {
			args = append(args, flag)
		}
	}
	return args
}

const explanation = `
Opper in memory    curl -H 'Authorization: Bearer %[1]s' '%[2]s/v2/traces?limit=3'
Its usage          curl -H 'Authorization: Bearer %[1]s' '%[2]s/v2/analytics/usage?granularity=hour&group_by=model'
Its budget         curl -H 'Authorization: Bearer %[1]s' '%[2]s/v3/me'
Exporter           http://%[3]s/
Metrics            curl -s http://%[3]s/metrics | grep ^opper_

After a minute, and then every four minutes, another agent fails for 90 seconds. Queries to try in a Prometheus that scrapes the exporter:

  failure ratio    sum by (trace_name) (rate(opper_traces_total{outcome="failure"}[2m])) / sum by (trace_name) (rate(opper_traces_total[2m]))
  p95 of duration  histogram_quantile(0.95, sum by (trace_name, le) (rate(opper_trace_duration_seconds_bucket[5m])))
  tokens a second  sum by (trace_name) (rate(opper_trace_tokens_total[5m]))

Ctrl-C stops everything.

`

// more is what the demo does not show alone.
const more = `Alerts             make demo ARGS=--prometheus
And dashboards     docker compose -f deploy/container/compose.yaml up --build

`
