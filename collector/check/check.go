// Package check tells what the exporter would find at Opper with its
// configuration, what that would cost, and what is wrong with it. It reads a sample
// and writes nothing.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// Run prints the check of the project. It returns an error if there is a problem.
func Run(ctx context.Context, cfg *config.Validated, stdout io.Writer) error {
	return run(ctx, cfg, stdout, time.Now)
}

func run(ctx context.Context, cfg *config.Validated, stdout io.Writer, now func() time.Time) error {
	var reports []*Report
	problems := 0
	for _, project := range cfg.Projects {
		report, err := Project(ctx, project, cfg.StoragePath, now)
		if err != nil {
			return err
		}
		reports = append(reports, report)
		problems += len(report.Problems)
	}
	var err error
	if cfg.CheckJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(struct {
			Healthy  bool      `json:"healthy"`
			Projects []*Report `json:"projects"`
		}{problems == 0, reports})
	} else {
		for _, r := range reports {
			_, err = io.WriteString(stdout, r.Text())
		}
	}
	switch {
	case err != nil:
		return err
	case problems == 1:
		return errors.New("check found a problem")
	case problems > 1:
		return fmt.Errorf("check found %d problems", problems)
	}
	return nil
}

// Project checks one project. The error is that of settings which no client can be
// made of.
func Project(ctx context.Context, cfg config.Project, storagePath string, now func() time.Time) (*Report, error) {
	s, err := read(ctx, cfg, now)
	if err != nil {
		return nil, err
	}
	traces := len(s.traces())
	r := &Report{
		Project: printable(cfg.Name), URL: cfg.UpstreamURL, Filter: printable(cfg.Opper.Name), Key: Key{Origin: printable(cfg.KeyOrigin)},
		Sample: Sample{
			Requests: s.requests, Planned: s.planned, Traces: traces, Bytes: s.received, Seconds: s.took.Seconds(),
			Complete: s.complete && traces >= s.total, Stopped: s.isStopped(),
		},
		State:    State{Result: stateUnread},
		Problems: []Finding{}, Notes: []Finding{},
	}
	switch {
	case len(s.pages) > 0:
		r.Key.Accepted = new(true)
		r.List = newList(s, &cfg.Aggregate)
		r.State = newState(storagePath, cfg.Name, s)
	case opper.Refused(s.err):
		r.Key.Accepted = new(false)
	}
	if s.rows > 0 {
		r.Cost = newCost(s, r.List, &cfg, now())
	}
	r.findings(s, &cfg)
	return r, nil
}
