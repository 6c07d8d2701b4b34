// Command opper_exporter exposes the traces of Opper to Prometheus.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // lets promhttp negotiate zstd
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
	slgk "github.com/tjhop/slog-gokit"

	"opper_exporter/collector"
	"opper_exporter/collector/store"
	"opper_exporter/collector/sums"
	"opper_exporter/collector/walk"
	"opper_exporter/opper"
)

const (
	program = "opper_exporter"
	// syncRetries is how many requests of one sync may be repeats.
	syncRetries = 4
	// sweepShare is of how many requests one may be of a complete walk.
	sweepShare = 4
	// drainTime is how long scrapes in flight may take after a signal.
	drainTime = 5 * time.Second
)

func main() {
	// Otherwise, a log line that nobody reads any more ends the process.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program, until ctx ends or a signal ends it. It returns the exit
// status: 2 for a configuration that can't be used, 1 for a failure later.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, done, err := parse(args, getenv, stdout)
	if done {
		return 0
	}
	if err != nil {
		// Some errors of YAML, and some paths, have several lines.
		_, _ = fmt.Fprintf(stderr, "%s: error: %s\n", program, strings.Join(strings.Fields(err.Error()), " "))
		return 2
	}
	base := newLogger(stderr, cfg)
	logger := log.With(base, "caller", log.DefaultCaller)
	err = supervise(ctx, logger, func(ctx context.Context) error { return serve(ctx, cfg, logger, slogger(base)) })
	if err != nil {
		atMostASecond(func() { level.Error(logger).Log("msg", "stopped", "err", err) })
		return 1
	}
	return 0
}

// gcPercent makes the garbage collector run more often than by default. Most of
// the memory is tables without pointers, through which it passes quickly; waiting
// until the heap has doubled would cost more than that.
const gcPercent = 20

// serve runs the exporter until ctx ends or it can't be served.
func serve(ctx context.Context, cfg *config, logger log.Logger, webLogger *slog.Logger) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	requests := collector.NewRequests(cfg.collector.Project, cfg.collector.Native)
	cfg.opper.Observe = requests.Observe
	cfg.opper.UserAgent = program + "/" + versionText()
	cfg.opper.Logger = log.With(logger, "project", cfg.collector.Project)
	client, err := opper.New(cfg.opper)
	if err != nil {
		return fmt.Errorf("opper client: %w", err)
	}
	clock := collector.NewClock()
	cfg.collector.Clock = clock
	readers := collector.NewReaders(clock.Now)
	cfg.collector.AllRead = readers.AllRead
	cfg.collector.Logger = logger
	cfg.collector.Source = func() walk.Source { return client.WithRetries(syncRetries) }
	verify := func() error { return nil }
	if cfg.storagePath == "" {
		level.Warn(logger).Log("msg", "nothing is stored, so counters begin anew with each start")
	} else {
		kept, err := store.Open(cfg.storagePath)
		if err != nil {
			return fmt.Errorf("--storage.path: %w", err)
		}
		defer kept.Close() //nolint:errcheck // all that was committed has been verified
		cfg.collector.Store = kept
		verify = kept.Verify
	}
	project, err := collector.NewProject(cfg.collector)
	if err != nil {
		return fmt.Errorf("--storage.path: %w", err)
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(project, requests, versioncollector.NewCollector(program))
	handler, err := newHandler(cfg, project, readers, registry, logger)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	level.Info(logger).Log("msg", "starting "+program, "version", versionText(), "revision", version.GetRevision(), "opper_url", cfg.opper.URL, "project", cfg.collector.Project)
	bound := make(chan struct{}, len(*cfg.web.WebListenAddresses)+1)
	server := newServer(handler, readers)
	server.ErrorLog = slog.NewLogLogger(webLogger.Handler(), slog.LevelWarn)
	// Called once a listener serves: before that, nothing is started.
	server.BaseContext = func(net.Listener) context.Context {
		select {
		case bound <- struct{}{}:
		default:
		}
		return ctx
	}
	served := make(chan error, 1)
	go func() { served <- web.ListenAndServe(server, cfg.web, webLogger) }()
	select {
	case <-bound:
	case err := <-served:
		return fmt.Errorf("--web.listen-address: %w", err)
	}

	synced := make(chan error, 1)
	go func() { synced <- project.Run(ctx) }()
	defer func() { // before the state is closed
		cancel()
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
	level.Info(logger).Log("msg", "stopping: scrapes in flight are finished")
	drain, cancelDrain := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancelDrain()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("web server: %w", err)
	}
	return nil
}

// versionText is the version of a release, or dev.
func versionText() string { return cmp.Or(version.Version, "dev") }

func newLogger(w io.Writer, cfg *config) log.Logger {
	w = log.NewSyncWriter(w)
	logger := log.NewLogfmtLogger(w)
	if cfg.logFormat == "json" {
		logger = log.NewJSONLogger(w)
	}
	logger = level.NewFilter(logger, level.Allow(level.ParseDefault(cfg.logLevel, level.InfoValue())))
	return log.With(logger, "ts", log.TimestampFormat(func() time.Time { return time.Now().UTC() }, "2006-01-02T15:04:05.000Z07:00"))
}

// slogger bridges to the web toolkit, which wants another kind of logger. The
// bridge adds the caller itself.
func slogger(logger log.Logger) *slog.Logger {
	return slog.New(slgk.NewGoKitHandler(logger, slog.LevelDebug))
}

// config is a checked configuration.
type config struct {
	opper     opper.Options
	collector collector.Config
	web       *web.FlagConfig

	storagePath            string
	telemetryPath          string
	disableExporterMetrics bool
	openMetricsCreated     bool
	maxRequests            int
	logLevel, logFormat    string
}

// parse reads the flags and the environment. It reports done if that was all
// that was asked for, as with --help.
func parse(args []string, getenv func(string) string, stdout io.Writer) (cfg *config, done bool, err error) {
	app := kingpin.New(program, "Prometheus exporter for the traces of Opper. The API key comes from --opper.api-key-file, or from the environment: OPPER_API_KEY or OPPER_HTTP_BEARER.")
	f := addFlags(app)
	app.UsageWriter(stdout).ErrorWriter(io.Discard)
	app.Version(version.Print(program)).VersionFlag.NoEnvar()
	app.HelpFlag.Short('h')
	app.Terminate(func(int) { done = true })
	_, err = app.Parse(args)
	if done {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	cfg, err = f.config(getenv)
	return cfg, false, err
}

// flags are the values of the flags that need more than their own check.
type flags struct {
	cfg              config
	keyFile          string
	headers          []string
	rewrites         []string
	success, failure []string
	backfill         *time.Duration // nil is all
	backfillSet      bool
}

func addFlags(app *kingpin.Application) *flags {
	f := &flags{}
	o, c, s := &f.cfg.opper, &f.cfg.collector, &f.cfg.collector.Sums

	app.Flag("opper.url", "Base URL of Opper; /v2 is added unless the path ends in a version.").Default("https://api.opper.ai").Envar("OPPER_BASE_URL").StringVar(&o.URL)
	app.Flag("opper.api-key-file", "File with the API key, read again when it changes and after a 401.").StringVar(&f.keyFile)
	app.Flag("opper.allow-plaintext", "Allow an http:// URL that is not loopback, directly or through a proxy: the API key is sent unencrypted.").BoolVar(&o.AllowPlaintext)
	app.Flag("opper.header", "Extra header for requests to Opper, as 'Name: value'. Repeatable.").StringsVar(&f.headers)
	checked(app, "opper.project", "Value of the label project: one API key is one project.", "default", &c.Project, parseLabel)
	app.Flag("opper.name-filter", "Only list traces that Opper finds by this name.").StringVar(&o.Name)
	checked(app, "opper.timeout", "Timeout of one request to Opper.", "30s", &o.Timeout, parsePositiveDuration)
	checked(app, "opper.concurrency", "Requests to Opper at once in a long walk.", "4", &c.Concurrency, parseInt(1))
	checked(app, "opper.max-requests-per-second", "Most requests to Opper per second; halved when Opper answers 429. 0 is no limit.", "5", &o.RequestsPerSecond, parseRate)

	checked(app, "collector.interval", "Time between two syncs. 0s syncs on every scrape, within the scrape's timeout.", "30s", &c.Interval, parseDuration)
	checked(app, "collector.sweep-interval", "Time between two complete walks over the list, which find what slipped in behind the newest. 0s makes none that nothing asks for.", "24h", &c.SweepEvery, parseDuration)
	app.Flag("collector.backfill", "What the first walk counts: all that is listed, or traces that ended within a duration. Default: all, but 0s if nothing is stored.").PlaceHolder("all").SetValue(&backfillValue{f})
	checked(app, "collector.settle-delay", "Time from when a trace is first seen ended until it is counted, so that late tokens and statuses have arrived.", "30s", &c.Settle, parseDuration)
	checked(app, "collector.abandon-after", "Time from when a trace is first seen until it is counted as abandoned, if it has no end. Raise it if agents run longer.", "1h", &c.Abandon, parsePositiveDuration)
	app.Flag("collector.success-status", "Status that counts as a success, in any case. Repeatable.").Default("success", "ok", "completed").StringsVar(&f.success)
	app.Flag("collector.failure-status", "Status that counts as a failure, in any case. Repeatable.").Default("error", "failed", "failure").StringsVar(&f.failure)
	checked(app, "collector.trace-name-include", "Anchored regular expression of the trace names to count; all if empty.", "", &s.Include, parseRegexp)
	checked(app, "collector.trace-name-exclude", "Anchored regular expression of the trace names not to count; none if empty.", "", &s.Exclude, parseRegexp)
	app.Flag("collector.trace-name-rewrite", "Anchored regular expression and what to make of the trace names that it matches, as 'REGEX=REPLACEMENT'; $1 is its first group. Repeatable: each sees what the one before has made.").StringsVar(&f.rewrites)
	checked(app, "collector.max-trace-names", "Most trace names with series of their own; more are counted as (other).", "200", &s.MaxNames, parseInt(1))
	checked(app, "collector.duration-buckets", "Upper bounds of the classic duration buckets, in seconds.", "0.1,0.25,0.5,1,2.5,5,10,30,60,120,300,600,1800,3600", &s.DurationBuckets, parseBuckets)
	checked(app, "collector.token-buckets", "Upper bounds of the classic token buckets.", "16,64,256,1024,4096,16384,65536,262144,1048576", &s.TokenBuckets, parseBuckets)
	app.Flag("collector.classic-histograms", "Expose the classic buckets of the traces' histograms.").Default("true").BoolVar(&c.Classic)
	app.Flag("collector.native-histograms", "Expose native histogram buckets.").Default("true").BoolVar(&c.Native)

	app.Flag("storage.path", "Folder in which to keep what has been counted. If empty, nothing is kept.").Default("data/").StringVar(&f.cfg.storagePath)
	f.cfg.web = kingpinflag.AddFlags(app, ":16773")
	checked(app, "web.telemetry-path", "Path under which to expose metrics.", "/metrics", &f.cfg.telemetryPath, parsePath)
	app.Flag("web.disable-exporter-metrics", "Exclude metrics about the exporter itself (promhttp_*, process_*, go_*).").BoolVar(&f.cfg.disableExporterMetrics)
	app.Flag("web.openmetrics-created", "Expose created timestamps in OpenMetrics text, too, as _created samples. Only for servers that read them as such: others store a series for each.").BoolVar(&f.cfg.openMetricsCreated)
	checked(app, "web.max-requests", "Maximum number of parallel scrapes; others wait up to 2s, then get a 503. Use 0 to disable.", "40", &f.cfg.maxRequests, parseInt(0))
	checked(app, "log.level", "Only log messages with the given severity or above. One of: [debug, info, warn, error]", "info", &f.cfg.logLevel, parseEnum("debug", "info", "warn", "error"))
	checked(app, "log.format", "Output format of log messages. One of: [logfmt, json]", "logfmt", &f.cfg.logFormat, parseEnum("logfmt", "json"))
	return f
}

// config checks what a single flag can't know. Its errors name the flag.
func (f *flags) config(getenv func(string) string) (*config, error) {
	cfg := &f.cfg
	var err error
	if cfg.opper.Key, err = f.key(getenv); err != nil {
		return nil, err
	}
	cfg.opper.Header = http.Header{}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, errors.New("--opper.header: expected 'Name: value'")
		}
		cfg.opper.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	cfg.opper.MaxConnections = cfg.collector.Concurrency
	client, err := opper.New(cfg.opper)
	if err != nil {
		return nil, fmt.Errorf("--opper.%w", err)
	}
	s := &cfg.collector.Sums
	for _, text := range f.rewrites {
		w, err := parseRewrite(text)
		if err != nil {
			return nil, fmt.Errorf("--collector.trace-name-rewrite: %w", err)
		}
		s.Rewrites = append(s.Rewrites, w)
	}
	s.Success, s.Failure = lower(f.success), lower(f.failure)
	for _, status := range s.Success {
		if slices.Contains(s.Failure, status) {
			return nil, fmt.Errorf("--collector.failure-status: %q is also a --collector.success-status", status)
		}
	}
	cfg.collector.Backfill = f.backfill
	if !f.backfillSet && cfg.storagePath == "" {
		cfg.collector.Backfill = new(time.Duration)
	}
	cfg.collector.List = collector.List{URL: client.URL(), NameFilter: cfg.opper.Name}
	if rate := cfg.opper.RequestsPerSecond; rate > 0 {
		cfg.collector.SweepPause = time.Duration(sweepShare / rate * float64(time.Second))
	}
	if err := web.Validate(*cfg.web.WebConfigFile); err != nil {
		return nil, fmt.Errorf("--web.config.file: %w", err)
	}
	return cfg, nil
}

func (f *flags) key(getenv func(string) string) (opper.KeySource, error) {
	if f.keyFile != "" {
		key, err := opper.KeyFile(f.keyFile)
		if err != nil {
			return key, fmt.Errorf("--opper.api-key-file: %w", err)
		}
		return key, nil
	}
	for _, name := range []string{"OPPER_API_KEY", "OPPER_HTTP_BEARER"} {
		if value := getenv(name); value != "" {
			key, err := opper.FixedKey(value)
			if err != nil {
				return key, fmt.Errorf("%s: %w", name, err)
			}
			return key, nil
		}
	}
	return opper.KeySource{}, errors.New("no API key: set --opper.api-key-file, or OPPER_API_KEY in the environment")
}

// backfillValue is the flag whose default depends on another one.
type backfillValue struct{ *flags }

// Set implements kingpin.Value.
func (v *backfillValue) Set(text string) error {
	v.backfillSet = true
	if text == "all" {
		v.backfill = nil
		return nil
	}
	d, err := parseDuration(text)
	if err != nil {
		return fmt.Errorf("--collector.backfill: expected all, or a duration such as 6h, got %q", text)
	}
	v.backfill = &d
	return nil
}

// String implements kingpin.Value.
func (v *backfillValue) String() string { return "" }

// checkedValue is a flag whose errors name it.
type checkedValue[T any] struct {
	name, text string
	to         *T
	parse      func(string) (T, error)
}

func checked[T any](app *kingpin.Application, name, help, otherwise string, to *T, parse func(string) (T, error)) {
	app.Flag(name, help).Default(otherwise).SetValue(&checkedValue[T]{name: name, to: to, parse: parse})
}

// Set implements kingpin.Value.
func (v *checkedValue[T]) Set(text string) error {
	got, err := v.parse(text)
	if err != nil {
		return fmt.Errorf("--%s: %w", v.name, err)
	}
	*v.to, v.text = got, text
	return nil
}

// String implements kingpin.Value.
func (v *checkedValue[T]) String() string { return v.text }

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		// Prometheus has days and weeks.
		var long model.Duration
		if long, err = model.ParseDuration(text); err != nil {
			return 0, fmt.Errorf("expected a duration such as 30s or 1d, got %q", text)
		}
		d = time.Duration(long)
	}
	if d < 0 {
		return 0, fmt.Errorf("expected a duration that is not negative, got %q", text)
	}
	return d, nil
}

func parsePositiveDuration(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d == 0 {
		return 0, fmt.Errorf("expected a duration above 0, got %q", text)
	}
	return d, err
}

func parseInt(least int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return 0, fmt.Errorf("expected a whole number from %d on, got %q", least, text)
		}
		return n, nil
	}
}

func parseRate(text string) (float64, error) {
	r, err := strconv.ParseFloat(text, 64)
	if err != nil || !(r >= 0) || math.IsInf(r, 0) {
		return 0, fmt.Errorf("expected a number from 0 on, got %q", text)
	}
	return r, nil
}

func parseRegexp(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	// Alone first: the group around it would make a)|(b valid, and unanchored.
	re, err := regexp.Compile(text)
	if err == nil {
		re, err = regexp.Compile("^(?s:" + text + ")$")
	}
	if err != nil {
		return nil, fmt.Errorf("expected a regular expression: %w", err)
	}
	return re, nil
}

var reference = regexp.MustCompile(`\$(?:\$|(\w+)|\{(\w+)\})?`)

// parseRewrite takes the last = for the one between: names seldom have one.
func parseRewrite(text string) (sums.Rewrite, error) {
	i := strings.LastIndexByte(text, '=')
	if i < 1 {
		return sums.Rewrite{}, fmt.Errorf("expected 'REGEX=REPLACEMENT', got %q", text)
	}
	pattern, err := parseRegexp(text[:i])
	if err != nil {
		return sums.Rewrite{}, err
	}
	w := sums.Rewrite{Pattern: pattern, Replacement: text[i+1:]}
	if !utf8.ValidString(w.Replacement) {
		return w, fmt.Errorf("expected text in UTF-8, got %q", w.Replacement)
	}
	var groups []string
	for i, name := range pattern.SubexpNames() {
		groups = append(groups, strconv.Itoa(i), name)
	}
	for _, ref := range reference.FindAllStringSubmatch(w.Replacement, -1) {
		if group := ref[1] + ref[2]; ref[0] != "$$" && (group == "" || !slices.Contains(groups, group)) {
			return w, fmt.Errorf("expected %q to be a group of the regular expression, as $1 or ${name}, or $$ for the character itself", ref[0])
		}
	}
	return w, nil
}

func parseBuckets(text string) ([]float64, error) {
	var bounds []float64
	for field := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		b, err := strconv.ParseFloat(field, 64)
		if err != nil || !(b > 0) || math.IsInf(b, 0) {
			return nil, fmt.Errorf("expected positive numbers with commas between, got %q", field)
		}
		if len(bounds) > 0 && b <= bounds[len(bounds)-1] {
			return nil, fmt.Errorf("expected rising numbers, got %q after %g", field, bounds[len(bounds)-1])
		}
		bounds = append(bounds, b)
	}
	if len(bounds) == 0 {
		return nil, errors.New("expected at least one number")
	}
	return bounds, nil
}

func parseLabel(text string) (string, error) {
	if text == "" || !utf8.ValidString(text) {
		return "", fmt.Errorf("expected text in UTF-8, got %q", text)
	}
	return text, nil
}

func parsePath(text string) (string, error) {
	if !strings.HasPrefix(text, "/") || path.Clean(text) != text || text == "/" || strings.HasPrefix(text, "/-/") || strings.ContainsAny(text, "{} \t") {
		return "", fmt.Errorf("expected a path such as /metrics, got %q", text)
	}
	return text, nil
}

func parseEnum(values ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(values, text) {
			return "", fmt.Errorf("expected one of %s, got %q", strings.Join(values, ", "), text)
		}
		return text, nil
	}
}

func lower(texts []string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = strings.ToLower(t)
	}
	return out
}

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

const (
	// readTimeout is for a request, and for a TLS handshake.
	readTimeout = 10 * time.Second
	// sendTimeout is for a client to take a response.
	sendTimeout = 30 * time.Second
	// writeTimeout is for all of a request after its header: a scrape that syncs
	// first may take as long as a scraper is believed, which is 2 minutes.
	writeTimeout = 2*time.Minute + sendTimeout
	// maxHeaderBytes leaves room for the cookies and tokens of a proxy.
	maxHeaderBytes = 32 << 10
	// maxUnsent is how many bytes of responses wait for slow clients.
	maxUnsent = 32 << 20
	// maxConnections is far above what scrapers and probes need, and far below
	// the usual limit of 1024 file descriptors.
	maxConnections = 256
	// maxStreams is how many requests an HTTP/2 connection may have at once, each
	// of which may take the memory of a header. A scraper has one.
	maxStreams = 8
	// maxReceiveBuffer is for bodies of requests, which nothing reads: the least
	// that HTTP/2 allows.
	maxReceiveBuffer = 64 << 10
)

// newServer returns a server whose clients cannot hold on to more than a bounded
// amount of time, memory and file descriptors.
func newServer(handler http.Handler, readers *collector.Readers) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       collector.ScraperIdle,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: maxReceiveBuffer,
			MaxReceiveBufferPerStream:     maxReceiveBuffer,
			WriteByteTimeout:              sendTimeout,
		},

		DisableGeneralOptionsHandler: true,
	}
	readers.Attach(server)
	limitConnections(server, maxConnections, readers.IsScraper)
	return server
}

// limitConnections closes the connection that has been quiet for longest when
// there are more than a maximum. A server that stops accepting would lock out
// scrapers instead. Protected connections stay open.
func limitConnections(server *http.Server, maximum int, isProtected func(net.Conn) bool) {
	var mu sync.Mutex
	changed := map[net.Conn]time.Time{} // when its state did
	quietest := func() (found net.Conn) {
		for conn, at := range changed {
			if (found == nil || at.Before(changed[found])) && !isProtected(conn) {
				found = conn
			}
		}
		return found
	}
	next := server.ConnState
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		next(conn, state)
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateClosed || state == http.StateHijacked {
			delete(changed, conn)
			return
		}
		if _, known := changed[conn]; !known && state != http.StateNew {
			return // it is being closed
		}
		changed[conn] = time.Now()
		if len(changed) <= maximum {
			return
		}
		if conn := quietest(); conn != nil {
			delete(changed, conn)
			if secure, ok := conn.(*tls.Conn); ok {
				conn = secure.NetConn() // to close the other one can block
			}
			_ = conn.Close() // it may be closed
		}
	}
}

// newHandler returns all pages of the exporter.
func newHandler(cfg *config, project *collector.Project, readers *collector.Readers, registry *prometheus.Registry, logger log.Logger) (http.Handler, error) {
	opts := promhttp.HandlerOpts{
		ErrorLog: scrapeErrors{logger},
		// The buffered response becomes a 500, also where an encoder fails.
		ErrorHandling: promhttp.PanicOnError,

		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.openMetricsCreated,
	}
	if !cfg.disableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		opts.Registry = registry
	}
	metrics := promhttp.HandlerFor(registry, opts)
	if cfg.collector.Interval == 0 {
		metrics = collector.RefreshFirst(project, metrics)
	}
	if cfg.maxRequests > 0 {
		metrics = atMost(cfg.maxRequests, metrics)
	}
	metrics = collector.NewResponses(logger, sendTimeout, maxUnsent).Buffer(metrics)
	if !cfg.disableExporterMetrics {
		metrics = promhttp.InstrumentMetricHandler(registry, metrics)
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        program,
		Description: "Prometheus exporter for the traces of Opper",
		Version:     versionText(),
		Profiling:   "false",
		Links: []web.LandingLinks{
			{Address: strings.TrimPrefix(cfg.telemetryPath, "/"), Text: "Metrics"},
			{Address: "-/healthy", Text: "Healthy", Description: "200 while the process runs"},
			{Address: "-/ready", Text: "Ready", Description: "200 once the first walk over the list of traces is published"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(cfg.telemetryPath, readers.Watch(metrics))
	mux.Handle("/-/ready", collector.ReadyHandler(project))
	mux.HandleFunc("/-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, program+" is healthy.\n")
	})
	mux.Handle("/", landing)
	return readOnly(mux), nil
}

// securityHeaders keep a browser from running, framing or guessing anything. The
// landing page has a style of its own.
var securityHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options":  "nosniff",
	"X-Frame-Options":         "DENY",
}

// readOnly answers GET and HEAD only, with the security headers that
// --web.config.file does not set.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		for name, value := range securityHeaders {
			if header.Get(name) == "" {
				header.Set(name, value)
			}
		}
		if r.ContentLength != 0 {
			header.Set("Connection", "close") // or the server would wait for the body first
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maxPlaceWait is how long a scrape waits for a place. Gathering takes
// milliseconds, so that many clients at once need not be refused.
const maxPlaceWait = 2 * time.Second

// atMost handles n requests at once. Others wait for a place, and are answered
// 503 if they wait for too long. The limit of promhttp would leave out those that
// wait for a sync.
func atMost(n int, next http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxPlaceWait)
		defer cancel()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next.ServeHTTP(w, r)
		case <-ctx.Done():
			http.Error(w, fmt.Sprintf("There are %d scrapes already, try again later.", n), http.StatusServiceUnavailable)
		}
	})
}

// scrapeErrors logs what goes wrong while metrics are gathered and encoded.
type scrapeErrors struct{ logger log.Logger }

// Println implements promhttp.Logger.
func (l scrapeErrors) Println(v ...any) {
	level.Error(l.logger).Log("msg", "scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
