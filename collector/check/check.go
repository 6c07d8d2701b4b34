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
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

const (
	// maxAtOnce is how many projects are checked at once.
	maxAtOnce = 8
	// maxTotalTime bounds the check of all projects.
	maxTotalTime = 5 * time.Minute
)

// Run prints the check of each project. It returns an error if there is a problem.
func Run(ctx context.Context, cfg *config.Validated, stdout io.Writer) error {
	return run(ctx, cfg, stdout, time.Now)
}

func run(ctx context.Context, cfg *config.Validated, stdout io.Writer, now func() time.Time) error {
	reports, err := projects(ctx, cfg, now)
	if err != nil {
		return err
	}
	problems := 0
	var wrong []string
	for _, r := range reports {
		if problems += len(r.Problems); len(r.Problems) > 0 {
			wrong = append(wrong, r.Project)
		}
	}
	if cfg.CheckJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(struct {
			Healthy  bool      `json:"healthy"`
			Projects []*Report `json:"projects"`
		}{problems == 0, reports})
	} else {
		_, err = io.WriteString(stdout, textOf(reports, wrong))
	}
	switch {
	case err != nil:
		return err
	case problems == 0:
		return nil
	case len(reports) > 1:
		return fmt.Errorf("check found problems in %d of %d projects", len(wrong), len(reports))
	case problems == 1:
		return errors.New("check found a problem")
	}
	return fmt.Errorf("check found %d problems", problems)
}

// textOf returns the reports for people. Of several, it says at the end which are to be
// looked at.
func textOf(reports []*Report, wrong []string) string {
	var texts []string
	for _, r := range reports {
		texts = append(texts, r.Text())
	}
	if len(reports) != 1 {
		summary := fmt.Sprintf("%d projects, no problem found.\n", len(reports))
		if len(wrong) > 0 {
			summary = fmt.Sprintf("%d of %d projects have problems: %s\n", len(wrong), len(reports), strings.Join(wrong, ", "))
		}
		texts = append(texts, summary)
	}
	return strings.Join(texts, "\n")
}

// projects checks all projects, some at once. They share the limit of requests and the
// time.
func projects(ctx context.Context, cfg *config.Validated, now func() time.Time) ([]*Report, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTotalTime)
	defer cancel()
	stored := &storedState{dir: cfg.StoragePath}
	defer stored.close()
	limit := opper.NewSharedLimit(cfg.MaxRequestsPerSecondTotal)
	reports := make([]*Report, len(cfg.Projects))
	var g errgroup.Group
	g.SetLimit(maxAtOnce)
	for i, project := range cfg.Projects {
		project.Opper.Shared = limit
		g.Go(func() (err error) {
			reports[i], err = check(ctx, project, stored, now)
			return err
		})
	}
	return reports, g.Wait()
}

// check checks one project. The error is that of settings which no client can be made
// of.
func check(ctx context.Context, cfg config.Project, stored *storedState, now func() time.Time) (*Report, error) {
	r := &Report{
		Project: printable(cfg.Name), URL: cfg.UpstreamURL, Filter: printable(cfg.Opper.Name), Key: Key{Origin: printable(cfg.KeyOrigin)},
		State:    State{Result: stateUnread},
		Problems: []Finding{}, Notes: []Finding{},
	}
	select {
	case <-ctx.Done():
		r.Sample.Stopped = true
		r.problem("Not checked: the time for all projects was up.", "Try again when Opper answers faster, or with fewer projects in --config.file.")
		return r, nil
	default:
	}
	s, err := read(ctx, cfg, now)
	if err != nil {
		return nil, err
	}
	traces := len(s.traces())
	r.Sample = Sample{
		Requests: s.requests, Planned: s.planned, Traces: traces, Bytes: s.received, Seconds: s.took.Seconds(),
		Complete: s.complete && traces >= s.total, Stopped: s.isStopped(),
	}
	switch {
	case len(s.pages) > 0:
		r.Key.Accepted = new(true)
		r.List = newList(s, &cfg.Aggregate)
		r.State = stored.compare(cfg.Name, s)
		if cfg.UsageInterval > 0 {
			if r.Usage, err = readUsage(ctx, cfg, s, now()); err != nil {
				return nil, err
			}
		}
	case opper.Refused(s.err):
		r.Key.Accepted = new(false)
	}
	if s.rows > 0 {
		r.Traffic = newTraffic(s, r.List, &cfg, now())
	}
	r.findings(s, &cfg)
	return r, nil
}
