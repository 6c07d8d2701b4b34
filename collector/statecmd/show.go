package statecmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"opper_exporter/collector"
	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/store"
)

type report struct {
	Path     string    `json:"path"`
	Version  int       `json:"version"`
	Bytes    int64     `json:"bytes"`
	Projects []project `json:"projects"`
}

type project struct {
	Name        string     `json:"name"`
	URL         string     `json:"url"`
	NameFilter  string     `json:"name_filter,omitempty"`
	InitialSync bool       `json:"initial_sync_complete"`
	LastSync    *time.Time `json:"last_sync,omitempty"`
	Listed      int        `json:"listed"`
	Open        int        `json:"open"`
	Bytes       int        `json:"bytes"`
	TraceNames  []name     `json:"trace_names"`
}

type name struct {
	Name   string            `json:"name"`
	Traces map[string]uint64 `json:"traces"` // by outcome
}

// show prints what a state holds.
func show(s *store.Store, asJSON bool, w io.Writer) error {
	r, err := newReport(s)
	if err != nil {
		return err
	}
	if !asJSON {
		_, err = io.WriteString(w, r.text())
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

func newReport(s *store.Store) (*report, error) {
	info, err := os.Stat(s.Path())
	if err != nil {
		return nil, err
	}
	names, err := s.Projects()
	if err != nil {
		return nil, err
	}
	r := &report{Path: s.Path(), Version: store.Version, Bytes: info.Size(), Projects: []project{}}
	for _, of := range names {
		known, err := collector.ReadKnown(s, of)
		if err != nil {
			return nil, fmt.Errorf("state of project %q: %w", of, err)
		}
		p := project{
			Name: of, URL: known.URL, NameFilter: known.NameFilter, InitialSync: !known.IsInitialSync,
			Listed: known.Listed, Open: known.Open, Bytes: known.Bytes, TraceNames: []name{},
		}
		if !known.LastSync.IsZero() {
			p.LastSync = &known.LastSync
		}
		for _, n := range known.Aggregates.All() {
			traces := map[string]uint64{}
			for _, o := range aggregate.Outcomes {
				traces[o.String()] = n.ByOutcome[o].Traces
			}
			p.TraceNames = append(p.TraceNames, name{n.Label, traces})
		}
		r.Projects = append(r.Projects, p)
	}
	return r, nil
}

// text returns the report for people. Names are quoted, as they may hold anything.
func (r *report) text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s: version %d, %d bytes\n", r.Path, r.Version, r.Bytes)
	for _, p := range r.Projects {
		fmt.Fprintf(&out, "\nproject %q\n", p.Name)
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		row := func(cells ...string) { _, _ = fmt.Fprintln(table, "  "+strings.Join(cells, "\t")) } // into memory
		row("url", p.URL)
		if p.NameFilter != "" {
			row("name filter", strconv.Quote(p.NameFilter))
		}
		row("initial sync complete", strconv.FormatBool(p.InitialSync))
		if p.LastSync != nil {
			row("last sync", p.LastSync.UTC().Format(time.RFC3339))
		}
		row("traces listed", strconv.Itoa(p.Listed))
		row("traces open", strconv.Itoa(p.Open))
		row("bytes", strconv.Itoa(p.Bytes))
		_ = table.Flush()
		outcomes := []string{}
		for _, o := range aggregate.Outcomes {
			outcomes = append(outcomes, o.String())
		}
		row(append([]string{"trace name"}, outcomes...)...)
		for _, n := range p.TraceNames {
			cells := []string{strconv.Quote(n.Name)}
			for _, o := range outcomes {
				cells = append(cells, strconv.FormatUint(n.Traces[o], 10))
			}
			row(cells...)
		}
		_ = table.Flush()
	}
	return out.String()
}
