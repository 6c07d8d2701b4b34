// Package config reads and checks the flags of the exporter and the files that they
// name. They are parsed, then validated, and only the validated configuration is
// used.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/scrape"
	"opper_exporter/opper"
)

// Program is the name of the exporter.
const Program = "opper_exporter"

// sweepShare is one of how many requests a sweep may use.
const sweepShare = 4

// Version is the version of a release, or dev.
func Version() string { return cmp.Or(version.Version, "dev") }

// Validated is a configuration without contradictions. Validate makes it.
type Validated struct {
	Command   string // its words with blanks between, such as CommandCheck
	CheckJSON bool   // CommandCheck prints JSON
	State     State
	Projects  []Project // each with another name; none only with --config.file
	// Reload reads --config.file and its directories again, as Parse does. It is
	// nil without --config.file.
	Reload                    func() ([]Project, error)
	MaxRequestsPerSecondTotal float64 // of all projects; 0 is no limit
	Scrape                    scrape.Config
	Web                       *web.FlagConfig
	HealthAddress             string // empty disables the listener
	StoragePath               string // empty disables persistence
	LogLevel                  string
	LogFormat                 string // logfmt or json
}

// Project says how the traces of one API key are collected.
type Project struct {
	Name              string // value of the label project
	Digest            string // of everything here but the key itself: equal if nothing has changed
	Opper             opper.Options
	KeyOrigin         string         // where the key comes from: a flag or an environment variable
	UpstreamURL       string         // with the version of the API
	Interval          time.Duration  // between syncs; 0 syncs on every scrape
	SweepInterval     time.Duration  // between sweeps; 0 disables them
	SweepPause        time.Duration  // between two pages of a sweep
	SettleDelay       time.Duration  // from when a trace is first seen ended until it is counted
	AbandonAfter      time.Duration  // from when a trace without an end is first seen until it is abandoned
	InitialLookback   *time.Duration // what the initial sync counts; nil is all
	Concurrency       int            // of requests in the initial sync
	UsageInterval     time.Duration  // between reads of the usage; 0 reads neither usage nor budget
	MaxModels         int            // how many models have series of their own
	ClassicHistograms bool
	NativeHistograms  bool
	Aggregate         aggregate.Config
}

// List tells the list of a key from others. Those of all versions of the API are one; a
// header can choose the project of a credential.
func (p *Project) List() string {
	return fmt.Sprintf("%q %q %q", path.Dir(p.UpstreamURL), p.Opper.Name, p.Opper.Header)
}

// Parse reads and validates the arguments, the environment and the files that
// they name. It reports done if the arguments only ask for something to be
// printed, as --help does.
func Parse(args []string, getenv func(string) string, stdout io.Writer) (cfg *Validated, done bool, err error) {
	return parseWith(NewApplication, args, getenv, stdout)
}

// ParseFor does so for another program that collects what the exporter does. It has the
// flags of the exporter, as change leaves them, and no commands.
func ParseFor(program, help string, change func(*kingpin.Application), args []string, getenv func(string) string, stdout io.Writer) (cfg *Validated, done bool, err error) {
	application := func() (*kingpin.Application, *Parsed) {
		app, parsed := newFlags(program, help)
		change(app)
		return app, parsed
	}
	return parseWith(application, args, getenv, stdout)
}

func parseWith(application func() (*kingpin.Application, *Parsed), args []string, getenv func(string) string, stdout io.Writer) (cfg *Validated, done bool, err error) {
	parsed, done, err := parseArgs(application, args, stdout)
	if done || err != nil {
		return nil, done, err
	}
	cfg, err = parsed.Validate(getenv)
	if err == nil && parsed.checkOnly {
		return nil, true, writeSummary(stdout, cfg.Projects)
	}
	err = withoutKeys(err)
	if err != nil && parsed.values.CheckJSON {
		err = errors.Join(err, writeRefused(stdout, err))
	}
	return cfg, false, err
}

func parseArgs(application func() (*kingpin.Application, *Parsed), args []string, stdout io.Writer) (parsed *Parsed, done bool, err error) {
	app, parsed := application()
	parsed.args, parsed.application = args, application
	var usage bytes.Buffer // kingpin panics where it cannot write, as into a closed pipe
	app.UsageWriter(&usage).ErrorWriter(io.Discard)
	app.Terminate(func(int) {
		if !done { // kingpin parses on after --help if there is no command
			_, _ = usage.WriteTo(stdout)
		}
		done = true
	})
	parsed.values.Command, err = app.Parse(withCommand(app, args))
	if done {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, withoutKeys(suggest(app, args, err))
	}
	return parsed, false, nil
}

// Validate checks what the value of one flag alone does not show, and reads the
// files and the API keys. Its errors name the flag, or the file and its field.
func (p *Parsed) Validate(getenv func(string) string) (*Validated, error) {
	v := p.values
	// They send no request, so they need no key.
	if strings.HasPrefix(v.Command, CommandState+" ") {
		if v.StoragePath == "" {
			return nil, errors.New("--storage.path: expected the directory of the state, got \"\"")
		}
		return &v, nil
	}
	var err error
	if v.Projects, err = p.projects(getenv); err != nil {
		return nil, err
	}
	if p.configFile != "" {
		v.Reload = func() ([]Project, error) {
			again, _, err := parseArgs(p.application, p.args, io.Discard)
			if err != nil {
				return nil, err
			}
			return again.projects(getenv)
		}
	}
	v.Scrape.Program, v.Scrape.Version = Program, Version()
	// A reload may bring a project that is synced on scrape.
	v.Scrape.SyncOnScrape = p.configFile != "" || v.Projects[0].Interval == 0
	for _, address := range *v.Web.WebListenAddresses {
		// Without a port, the system would choose one.
		if _, port, err := net.SplitHostPort(address); (err != nil || port == "") && !strings.HasPrefix(address, "vsock://") {
			return nil, fmt.Errorf("--web.listen-address: expected an address such as :16773, got %q", address)
		}
	}
	if err := web.Validate(*v.Web.WebConfigFile); err != nil {
		return nil, fmt.Errorf("--web.config.file: %w", err)
	}
	return &v, nil
}

// projects returns those of the configuration file, or the one of the flags.
func (p *Parsed) projects(getenv func(string) string) ([]Project, error) {
	if p.configFile == "" {
		project, err := p.validateProject(getenv)
		return []Project{project}, err
	}
	if p.isProjectSet || p.keyFile != "" {
		return nil, errors.New("--config.file: cannot be combined with --opper.project and --opper.api-key-file, as each project has a name and a key of its own")
	}
	for _, name := range p.keyVariables {
		if getenv(name) != "" {
			return nil, fmt.Errorf("--config.file: cannot be combined with %s in the environment, as each project has a key of its own", name)
		}
	}
	return p.load(getenv)
}
