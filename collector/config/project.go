package config

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

// validateProject returns the project that the flags, and the fields set in their
// place, describe. Its errors name the flag.
func (p *Parsed) validateProject(getenv func(string) string) (Project, error) {
	project := p.project
	var err error
	if project.Opper.Key, project.KeyOrigin, err = p.key(getenv); err != nil {
		return Project{}, err
	}
	project.Opper.UserAgent = Program + "/" + Version()
	if err := p.setHTTPClient(&project.Opper); err != nil {
		return Project{}, err
	}
	client, err := opper.New(project.Opper)
	if err != nil {
		setting, reason, _ := strings.Cut(err.Error(), ": ")
		return Project{}, &flagError{"opper." + setting, errors.New(reason)}
	}
	project.UpstreamURL = client.URL()
	if err := p.validateAggregate(&project.Aggregate); err != nil {
		return Project{}, err
	}
	project.Aggregate.Costs = project.UsageInterval > 0
	project.InitialLookback = p.lookback.duration
	if !p.lookback.isSet && p.values.StoragePath == "" {
		project.InitialLookback = new(time.Duration)
	}
	if rate := project.Opper.RequestsPerSecond; rate > 0 {
		project.SweepPause = time.Duration(sweepShare / rate * float64(time.Second))
	}
	project.Digest = digest(project)
	return project, nil
}

// setHTTPClient sets how requests to Opper are sent. A header of a flag replaces
// that of the file.
func (p *Parsed) setHTTPClient(opts *opper.Options) error {
	opts.Header = http.Header{}
	for _, h := range p.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return &flagError{"opper.header", errors.New("expected 'Name: value'")}
		}
		opts.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	client, err := p.httpClient()
	if err != nil {
		return &flagError{httpClientFlag, err}
	}
	opts.Transport = client.Transport
	for name, values := range client.Header {
		if _, ok := opts.Header[name]; !ok {
			opts.Header[name] = values
		}
	}
	return nil
}

var inlineLine = regexp.MustCompile(`\bline \d+: `)

// httpClient reads each file only once.
func (p *Parsed) httpClient() (httpClient, error) {
	source := p.httpConfigFile + "\n" + p.inlineHTTPClient
	if client, ok := p.httpClients[source]; ok {
		return client, nil
	}
	var client httpClient
	var err error
	switch {
	case p.inlineHTTPClient != "":
		if client, err = parseHTTPClient([]byte(p.inlineHTTPClient), p.configFile); err != nil {
			err = errors.New(inlineLine.ReplaceAllString(err.Error(), "")) // not that of the file
		}
	case p.httpConfigFile != "":
		client, err = loadHTTPClient(p.httpConfigFile)
	}
	if err == nil {
		p.httpClients[source] = client
	}
	return client, err
}

func (p *Parsed) validateAggregate(s *aggregate.Config) error {
	for _, text := range p.rewrites {
		rewrite, err := parseRewrite(text)
		if err != nil {
			return &flagError{"collector.trace-name-rewrite", err}
		}
		s.Rewrites = append(s.Rewrites, rewrite)
	}
	s.Success, s.Failure = parseStatuses(p.success), parseStatuses(p.failure)
	for _, status := range s.Success {
		if slices.Contains(s.Failure, status) {
			return &flagError{"collector.failure-status", fmt.Errorf("%q is also a --collector.success-status", status)}
		}
	}
	return nil
}

// key also returns where the key comes from.
func (p *Parsed) key(getenv func(string) string) (key opper.KeySource, origin string, err error) {
	if p.keyFile != "" {
		if key, err = opper.KeyFile(p.keyFile); err != nil {
			return key, "", &flagError{keyFileFlag, err}
		}
		if p.configFile == "" {
			return key, "--" + keyFileFlag + " " + p.keyFile, nil
		}
		return key, "file " + p.keyFile, nil
	}
	for _, name := range p.keyVariables {
		if value := getenv(name); value != "" {
			if key, err = opper.FixedKey(value); err != nil {
				return key, "", p.variableError(name, err)
			}
			return key, "environment variable " + name, nil
		}
	}
	if len(p.keyVariables) == 1 {
		return key, "", p.variableError(p.keyVariables[0], errors.New("expected the name of an environment variable that is set"))
	}
	return key, "", errors.New("no API key: set --opper.api-key-file, or OPPER_API_KEY in the environment")
}

// variableError does not name a variable of the configuration file: it may be
// the key itself, in the wrong place.
func (p *Parsed) variableError(name string, err error) error {
	if p.configFile != "" {
		return &flagError{keyVariable, err}
	}
	return fmt.Errorf("%s: %w", name, err)
}
