package config

import (
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
)

// Parsed holds the values of the flags, each of which is well-formed. Copied, it
// is that of another project.
type Parsed struct {
	args             []string
	application      func() (*kingpin.Application, *Parsed) // whose arguments they are
	settings         map[string]kingpin.Value               // of a project, by flag; they set this Parsed
	configFile       string
	checkOnly        bool
	values           Validated // what needs no further check, without its projects
	project          Project
	isProjectSet     bool
	keyFile          string
	keyVariables     []string // of the environment: the first one that is set has the key
	httpConfigFile   string
	inlineHTTPClient string                // in place of httpConfigFile
	httpClients      map[string]httpClient // those read so far
	headers          []string
	rewrites         []string
	success, failure []string
	lookback         lookback
}

// NewApplication returns the flags and commands of the exporter, and where parsing them puts
// their values.
func NewApplication() (*kingpin.Application, *Parsed) {
	app, p := newFlags(Program, "Prometheus exporter for the traces of Opper.")
	addCommands(app, &p.values)
	return app, p
}

// newFlags returns the flags of the exporter as those of a program.
func newFlags(program, help string) (*kingpin.Application, *Parsed) {
	app := kingpin.New(program, help+" The API key comes from --opper.api-key-file, or from the environment: OPPER_API_KEY or OPPER_HTTP_BEARER.")
	p := &Parsed{keyVariables: []string{"OPPER_API_KEY", "OPPER_HTTP_BEARER"}, httpClients: map[string]httpClient{}}
	v := &p.values
	o, c, s := &p.project.Opper, &p.project, &p.project.Aggregate

	app.Flag("config.file", "File that lists projects, or directories with their keys, in place of --opper.project and --opper.api-key-file. The other flags are the defaults of each project.").PlaceHolder("FILE").StringVar(&p.configFile)
	app.Flag("config.check", "Check the configuration, print what would run, and exit.").BoolVar(&p.checkOnly)
	app.Flag("opper.url", "Base URL of the Opper API. /v2 is appended unless the path ends in a version.").Default("https://api.opper.ai").Envar("OPPER_BASE_URL").StringVar(&o.URL)
	app.Flag("opper.api-key-file", "File that contains the API key. Read again when it changes and after a 401.").PlaceHolder("FILE").StringVar(&p.keyFile)
	app.Flag("opper.http-config-file", "File with TLS, proxy and header settings for requests to Opper, in the HTTP client format of Prometheus. It must not contain credentials for Opper.").PlaceHolder("FILE").StringVar(&p.httpConfigFile)
	app.Flag("opper.allow-plaintext", "Allow http:// to hosts other than loopback, and plain-text proxies for it. The API key is then sent unencrypted.").BoolVar(&o.AllowPlaintext)
	app.Flag("opper.header", "Additional header for requests to Opper, as 'Name: value'. Repeatable.").PlaceHolder("HEADER").StringsVar(&p.headers)
	checked(app, "opper.project", "Value of the label project. One API key belongs to one project.", "default", &c.Name, parseProject).IsSetByUser(&p.isProjectSet)
	app.Flag("opper.name-filter", "Name that Opper filters the list of traces by. Empty lists all.").PlaceHolder("NAME").StringVar(&o.Name)
	checked(app, "opper.timeout", "Timeout of a request to Opper.", "30s", &o.Timeout, parsePositiveDuration)
	checked(app, "opper.concurrency", "Maximum number of concurrent requests to Opper while many pages are read.", "4", &c.Concurrency, parseInt(1))
	checked(app, "opper.max-requests-per-second", "Maximum number of requests to Opper per second. Halved when Opper answers 429. Use 0 to disable.", "5", &o.RequestsPerSecond, parseRate)
	checked(app, "opper.max-requests-per-second-total", "Maximum number of requests to Opper per second, of all projects together. Use 0 to disable.", "50", &v.MaxRequestsPerSecondTotal, parseRate)

	checked(app, "collector.interval", "Interval between syncs. Use 0s to sync on every scrape, within its timeout.", "30s", &c.Interval, parseDuration)
	checked(app, "collector.sweep-interval", "Interval between sweeps, which read the full list in the background to find traces that syncs missed. Use 0s to sweep only when traces are known to be missing.", "24h", &c.SweepInterval, parseDuration)
	app.Flag("collector.initial-lookback", "Traces that the initial sync counts: all, or those that ended within a duration before it. Default: all, or 0s if --storage.path is empty.").PlaceHolder("all").SetValue(&p.lookback)
	checked(app, "collector.settle-delay", "Time from when a trace is first seen ended until it is counted, so that late tokens and statuses are included.", "30s", &c.SettleDelay, parseDuration)
	checked(app, "collector.abandon-after", "Time from when a trace without an end is first seen until it is counted as abandoned. Raise it if agents run longer.", "1h", &c.AbandonAfter, parsePositiveDuration)
	app.Flag("collector.success-status", "Trace statuses treated as success, separated by commas (case-insensitive). Repeatable: replaces success,ok,completed.").PlaceHolder("STATUS").Default("success,ok,completed").StringsVar(&p.success)
	app.Flag("collector.failure-status", "Trace statuses treated as failure, separated by commas (case-insensitive). Repeatable: replaces error,failed,failure.").PlaceHolder("STATUS").Default("error,failed,failure").StringsVar(&p.failure)
	checked(app, "collector.trace-name-include", "Anchored regular expression of trace names to include. Empty includes all.", "", &s.Include, parseRegexp).PlaceHolder("REGEX")
	checked(app, "collector.trace-name-exclude", "Anchored regular expression of trace names to exclude. Empty excludes none.", "", &s.Exclude, parseRegexp).PlaceHolder("REGEX")
	app.Flag("collector.trace-name-rewrite", "Anchored regular expression of trace names and their replacement, as 'REGEX=REPLACEMENT'; $1 is the first group. Repeatable: each applies to the result of the one before.").PlaceHolder("REGEX=REPLACEMENT").StringsVar(&p.rewrites)
	checked(app, "collector.max-trace-names", "Maximum number of trace names with series of their own. Traces of further names are counted as (other).", "200", &s.MaxNames, parseInt(1))
	checked(app, "collector.trace-name-expiry", "Time after which the series of a trace name are removed if none of its traces was counted, listed or open, and those of a model if it had no call. If it returns, its counters start from zero. Use 0s to disable.", "30d", &s.NameExpiry, parseDuration)
	checked(app, "collector.usage-interval", "Interval between reads of Opper's usage, for cost and tokens by model and by trace name; the budget is read every 5 minutes. At least 10s. Use 0s to disable both.", "1m", &c.UsageInterval, parseUsageInterval)
	checked(app, "collector.max-models", "Maximum number of models with series of their own. Usage of further models is counted as (other).", "50", &c.MaxModels, parseInt(1))
	checked(app, "collector.duration-buckets", "Upper bounds of the classic duration buckets, in seconds.", "0.1,0.25,0.5,1,2.5,5,10,30,60,120,300,600,1800,3600", &s.DurationBuckets, parseBuckets)
	checked(app, "collector.token-buckets", "Upper bounds of the classic token buckets.", "16,64,256,1024,4096,16384,65536,262144,1048576", &s.TokenBuckets, parseBuckets)
	app.Flag("collector.classic-histograms", "Expose classic buckets in the histograms of traces.").Default("true").BoolVar(&c.ClassicHistograms)
	app.Flag("collector.native-histograms", "Expose native histogram buckets.").Default("true").BoolVar(&c.NativeHistograms)

	app.Flag("storage.path", "Directory for persistent state. Empty disables persistence.").Default("data/").StringVar(&v.StoragePath)
	v.Web = kingpinflag.AddFlags(app, ":16773")
	checked(app, "web.health-listen-address", "Address of an additional listener for /-/healthy and /-/ready only, without the TLS and authentication of --web.config.file. Empty disables it.", "", &v.HealthAddress, parseAddress)
	checked(app, "web.telemetry-path", "Path under which to expose metrics.", "/metrics", &v.Scrape.TelemetryPath, parsePath)
	checked(app, "web.trace-url", "Address of a trace at Opper, for the links of the status page; {id} stands for its id. Empty disables the links.", "https://platform.opper.ai/traces/{id}", &v.Scrape.TraceURL, parseTraceURL)
	app.Flag("web.disable-exporter-metrics", "Exclude metrics about the exporter itself (promhttp_*, process_*, go_*).").BoolVar(&v.Scrape.DisableExporterMetrics)
	app.Flag("web.openmetrics-created", "Expose created timestamps in OpenMetrics text, as _created samples. Only for scrapers that parse them: others store them as series.").BoolVar(&v.Scrape.OpenMetricsCreated)
	app.Flag("web.enable-lifecycle", "Enable reloads of --config.file and copies of the state via HTTP: POST /-/reload and /-/snapshot.").BoolVar(&v.Scrape.EnableLifecycle)
	checked(app, "web.max-requests", "Maximum number of parallel scrape requests. Others wait for as long as their scrape timeout allows, then get a 503. Use 0 to disable.", "40", &v.Scrape.MaxRequests, parseInt(0))
	checked(app, "log.level", "Only log messages with the given severity or above. One of: [debug, info, warn, error]", "info", &v.LogLevel, parseEnum("debug", "info", "warn", "error"))
	checked(app, "log.format", "Output format of log messages. One of: [logfmt, json]", "logfmt", &v.LogFormat, parseEnum("logfmt", "json"))

	app.Version(version.Print(program)).VersionFlag.NoEnvar()
	app.HelpFlag.Short('h')
	p.settings = map[string]kingpin.Value{keyVariable: &checkedValue[[]string]{name: keyVariable, to: &p.keyVariables, parse: parseVariable}}
	for _, f := range Fields {
		if f.Flag != keyVariable {
			p.settings[f.Flag] = app.GetFlag(f.Flag).Model().Value
		}
	}
	return app, p
}

// flagError is an error in a flag, or in the field that sets it.
type flagError struct {
	flag string
	err  error
}

// Error implements error.
func (e *flagError) Error() string { return "--" + e.flag + ": " + e.err.Error() }

// Unwrap returns the error without its flag.
func (e *flagError) Unwrap() error { return e.err }

// lookback is the flag whose default depends on another one.
type lookback struct {
	isSet    bool
	duration *time.Duration // nil is all
}

// Set implements kingpin.Value.
func (l *lookback) Set(text string) error {
	l.isSet = true
	if text == "all" {
		l.duration = nil
		return nil
	}
	d, err := parseDuration(text)
	if err != nil {
		return &flagError{"collector.initial-lookback", fmt.Errorf("expected all, or a duration such as 6h, got %q", text)}
	}
	l.duration = &d
	return nil
}

// String implements kingpin.Value.
func (*lookback) String() string { return "" }

// checkedValue is a flag whose errors name it.
type checkedValue[T any] struct {
	name, text string
	to         *T
	parse      func(string) (T, error)
}

func checked[T any](app *kingpin.Application, name, help, value string, to *T, parse func(string) (T, error)) *kingpin.FlagClause {
	flag := app.Flag(name, help).Default(value)
	flag.SetValue(&checkedValue[T]{name: name, to: to, parse: parse})
	return flag
}

// Set implements kingpin.Value.
func (v *checkedValue[T]) Set(text string) error {
	got, err := v.parse(text)
	if err != nil {
		return &flagError{v.name, err}
	}
	*v.to, v.text = got, text
	return nil
}

// String implements kingpin.Value.
func (v *checkedValue[T]) String() string { return v.text }
