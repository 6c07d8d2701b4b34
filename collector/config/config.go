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
	"net/http"
	"slices"
	"strings"
	"time"

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
	ClassicHistograms bool
	NativeHistograms  bool
	Aggregate         aggregate.Config
}

// Parse reads and validates the arguments and the environment. It reports done if
// they only ask for something to be printed, as --help does.
func Parse(args []string, getenv func(string) string, stdout io.Writer) (cfg *Validated, done bool, err error) {
	app, parsed := NewApplication()
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
		return nil, false, suggest(app, err)
	}
	cfg, err = parsed.Validate(getenv)
	return cfg, false, err
}

// Validate checks what the value of one flag alone does not show, and reads the
// API key. Its errors name the flag.
func (p *Parsed) Validate(getenv func(string) string) (*Validated, error) {
	v, project := p.values, p.project
	// They send no request, so they need no key.
	if strings.HasPrefix(v.Command, CommandState+" ") {
		return p.validateState()
	}
	var err error
	if project.Opper.Key, project.KeyOrigin, err = p.key(getenv); err != nil {
		return nil, err
	}
	project.Opper.UserAgent = Program + "/" + Version()
	if err := p.httpClient(&project.Opper); err != nil {
		return nil, err
	}
	client, err := opper.New(project.Opper)
	if err != nil {
		return nil, fmt.Errorf("--opper.%w", err)
	}
	project.UpstreamURL = client.URL()
	if err := p.validateAggregate(&project.Aggregate); err != nil {
		return nil, err
	}
	project.InitialLookback = p.lookback.duration
	if !p.lookback.isSet && v.StoragePath == "" {
		project.InitialLookback = new(time.Duration)
	}
	if rate := project.Opper.RequestsPerSecond; rate > 0 {
		project.SweepPause = time.Duration(sweepShare / rate * float64(time.Second))
	}
	v.Projects = []Project{project}
	v.Scrape.Program, v.Scrape.Version = Program, Version()
	v.Scrape.SyncOnScrape = project.Interval == 0
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

func (p *Parsed) validateState() (*Validated, error) {
	v := p.values
	if v.StoragePath == "" {
		return nil, errors.New("--storage.path: expected the directory of the state, got \"\"")
	}
	return &v, nil
}

// httpClient sets how requests to Opper are sent. A header of a flag replaces that
// of the file.
func (p *Parsed) httpClient(opts *opper.Options) error {
	opts.Header = http.Header{}
	for _, h := range p.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return errors.New("--opper.header: expected 'Name: value'")
		}
		opts.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if p.httpConfigFile == "" {
		return nil
	}
	file, err := LoadHTTPClient(p.httpConfigFile)
	if err != nil {
		return fmt.Errorf("--opper.http-config-file: %w", err)
	}
	opts.Transport = file.Transport
	for name, values := range file.Header {
		if _, ok := opts.Header[name]; !ok {
			opts.Header[name] = values
		}
	}
	return nil
}

func (p *Parsed) validateAggregate(s *aggregate.Config) error {
	for _, text := range p.rewrites {
		rewrite, err := parseRewrite(text)
		if err != nil {
			return fmt.Errorf("--collector.trace-name-rewrite: %w", err)
		}
		s.Rewrites = append(s.Rewrites, rewrite)
	}
	s.Success, s.Failure = parseStatuses(p.success), parseStatuses(p.failure)
	for _, status := range s.Success {
		if slices.Contains(s.Failure, status) {
			return fmt.Errorf("--collector.failure-status: %q is also a --collector.success-status", status)
		}
	}
	return nil
}

// key also returns where the key comes from.
func (p *Parsed) key(getenv func(string) string) (key opper.KeySource, origin string, err error) {
	if p.keyFile != "" {
		key, err := opper.KeyFile(p.keyFile)
		if err != nil {
			return key, "", fmt.Errorf("--opper.api-key-file: %w", err)
		}
		return key, "--opper.api-key-file " + p.keyFile, nil
	}
	for _, name := range []string{"OPPER_API_KEY", "OPPER_HTTP_BEARER"} {
		if value := getenv(name); value != "" {
			key, err := opper.FixedKey(value)
			if err != nil {
				return key, "", fmt.Errorf("%s: %w", name, err)
			}
			return key, "environment variable " + name, nil
		}
	}
	return opper.KeySource{}, "", errors.New("no API key: set --opper.api-key-file, or OPPER_API_KEY in the environment")
}
