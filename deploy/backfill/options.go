package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/plan"
	"opper_exporter/deploy/backfill/server"
)

const (
	program = "opper_backfill"
	help    = "Writes the history of the exporter's series, as TSDB blocks or OpenMetrics text, from the traces that Opper lists. Give it the flags of the exporter, but --state in place of --storage.path."

	// defaultRetention is that of a Prometheus server.
	defaultRetention = 15 * 24 * time.Hour
)

// unusedPrefixes and unusedFlags are of flags of the exporter that change nothing here. They
// are taken, so that those of the exporter can be given as they are, and hidden.
var (
	unusedPrefixes = []string{"web."}
	unusedFlags    = []string{
		"collector.sweep-interval", "collector.usage-interval", "collector.max-models", "collector.trace-name-expiry",
	}
)

// options is what the arguments say, checked.
type options struct {
	*config.Validated
	State      string
	Output     string
	FromServer *url.URL // nil if not given
	Labels     map[string]string
	For        string
	Format     string
	Step       time.Duration
	Until      time.Time     // zero if not given
	Retention  time.Duration // of the server; 0 is no limit
	retained   bool          // Retention was given
}

// flags are the values of the program's own flags.
type flags struct {
	labels                             []string
	fromServer, step, until, retention string
	storagePath                        bool // was given
	optional                           []*optional
}

// optional is a flag that may be left out, but has no empty value: a script whose variable
// is empty means something else.
type optional struct {
	name  string
	value *string
	given bool
}

// parse reads the arguments, the environment and the files that they name.
func parse(args []string, getenv func(string) string, stdout io.Writer) (o *options, done bool, err error) {
	o, f := &options{}, &flags{}
	cfg, done, err := config.ParseFor(program, help, f.add(o), args, getenv, stdout)
	if done || err != nil {
		return nil, done, err
	}
	o.Validated = cfg
	return o, false, f.check(o)
}

func (f *flags) add(o *options) func(*kingpin.Application) {
	return func(app *kingpin.Application) {
		app.Flag("output", "Directory for the output, which must be new or empty.").PlaceHolder("DIRECTORY").StringVar(&o.Output)
		f.flag(app, "state", "PATH", &o.State, "Copy of the exporter's state, or its directory while the exporter is stopped: the history ends with its counts. Without it, a state is made from which the exporter continues.")
		app.Flag("label", "Label that the server adds to the exporter's series, as 'NAME=VALUE'. Repeatable: job and instance are required, unless they are read from --from-server.").PlaceHolder("NAME=VALUE").StringsVar(&f.labels)
		f.flag(app, "from-server", "URL", &f.fromServer, "URL of the Prometheus that scrapes the exporter. Labels, retention and the first scrape, with whose values the history ends, are read from it. Requires --state.")
		app.Flag("for", "Server that the output is for. new-prometheus has never been started: only then does the history reach until now. One of: [prometheus, new-prometheus, mimir]").Default(plan.Prometheus).EnumVar(&o.For, plan.Prometheus, plan.NewPrometheus, plan.Mimir)
		app.Flag("format", "Output format. openmetrics is one text file per day, without native histograms. One of: [blocks, openmetrics]").Default(plan.Blocks).EnumVar(&o.Format, plan.Blocks, plan.OpenMetrics)
		app.Flag("step", "Interval between samples of a series, at most 4m. The end of each trace adds another.").Default("60s").StringVar(&f.step)
		f.flag(app, "until", "TIME", &f.until, "Time by which the history ends, such as 2026-11-26T18:00:00Z: that of the first scrape. Default: the first sample on --from-server, or when the state began to count.")
		f.flag(app, "retention", "DURATION", &f.retention, "How long the server keeps samples. Use 0s for no limit. Default: that of --from-server, else 15d, or no limit for mimir.")
		app.GetFlag("storage.path").Hidden().IsSetByUser(&f.storagePath)
		for _, flag := range app.Model().Flags {
			unused := slices.ContainsFunc(unusedPrefixes, func(prefix string) bool { return strings.HasPrefix(flag.Name, prefix) })
			if unused || slices.Contains(unusedFlags, flag.Name) {
				app.GetFlag(flag.Name).Hidden()
			}
		}
	}
}

// flag adds an optional flag.
func (f *flags) flag(app *kingpin.Application, name, placeHolder string, value *string, help string) {
	one := &optional{name: name, value: value}
	f.optional = append(f.optional, one)
	app.Flag(name, help).PlaceHolder(placeHolder).IsSetByUser(&one.given).StringVar(value)
}

// check takes the values of the flags over. Its errors name the flag.
func (f *flags) check(o *options) (err error) {
	for _, one := range f.optional {
		if one.given && *one.value == "" {
			return fmt.Errorf("--%s: expected a value", one.name)
		}
	}
	switch {
	case f.storagePath:
		return errors.New("--storage.path: expected --state, with a copy of the state or the directory of a stopped exporter")
	case o.For == plan.NewPrometheus && f.fromServer != "":
		return errors.New("--from-server: a server that runs has samples already, expected --for=prometheus")
	case o.State == "" && f.fromServer != "":
		return errors.New("--from-server: expected --state, too: what the server has scraped are the counts of a state, and those of another one would look like a reset")
	case o.Output == "":
		return errors.New("--output: expected a new directory")
	}
	if f.fromServer != "" {
		if o.FromServer, err = server.ParseURL(f.fromServer); err != nil {
			return fmt.Errorf("--from-server: %w", err)
		}
	}
	if o.Labels, err = parseLabels(f.labels); err != nil {
		return fmt.Errorf("--label: %w", err)
	}
	for _, name := range []string{"job", "instance"} {
		if o.Labels[name] == "" && o.FromServer == nil {
			return fmt.Errorf("--label: expected %s=VALUE, as the server adds it to the live series, or --from-server", name)
		}
	}
	if o.Step, err = parseDuration(f.step); err != nil || o.Step < time.Second || o.Step > history.MaxStep {
		return fmt.Errorf("--step: expected a duration from 1s to %s, got %q", history.MaxStep, f.step)
	}
	if f.until != "" {
		if o.Until, err = time.Parse(time.RFC3339, f.until); err != nil {
			return fmt.Errorf("--until: expected a time such as 2026-11-26T18:00:00Z, got %q", f.until)
		}
		if o.Until.After(time.Now()) {
			return fmt.Errorf("--until: expected the time of the first scrape, and %s is yet to come", f.until)
		}
	}
	if o.For != plan.Mimir {
		o.Retention = defaultRetention
	}
	if o.retained = f.retention != ""; o.retained {
		if o.Retention, err = parseDuration(f.retention); err != nil || o.Retention < 0 {
			return fmt.Errorf("--retention: expected a duration such as 31d, got %q", f.retention)
		}
	}
	return nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := model.ParseDuration(text)
	return time.Duration(d), err
}

func parseLabels(texts []string) (map[string]string, error) {
	all := map[string]string{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("expected NAME=VALUE, such as job=opper, got %q", text)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		all[name] = value
	}
	return all, history.CheckLabels(all)
}
