package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

// patience is far above what a start takes.
const patience = 5 * time.Minute

// scrape runs the exporter against an Opper that lists some traces, and
// returns what it exposes. Its state is in dir.
func scrape(ctx context.Context, binary, dir string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	opper := exportertest.NewOpper()
	opper.FillHistory(10, 1, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	opper.Add(oppertest.Sample()) // a status that maps to no outcome
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: opper, ReadHeaderTimeout: patience}
	go func() { _ = server.Serve(listener) }() // ends when it is closed
	defer func() { _ = server.Close() }()      // nothing more is asked

	cmd := exec.CommandContext(ctx, binary, "--opper.url=http://"+listener.Addr().String(), "--web.listen-address=127.0.0.1:0", "--storage.path="+filepath.Join(dir, "data")) //nolint:gosec // binary was built here
	cmd.Env = append(os.Environ(), "OPPER_API_KEY=documentation")
	exporter, err := exportertest.Start(cmd)
	if err != nil {
		return nil, err
	}
	defer exporter.Kill()
	address, err := exporter.Ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, &exporter.Log)
	}
	return exporter.FamiliesWithUsage(ctx, address)
}

// ofCost matches the names of the metrics that are made of usage and budget.
var ofCost = regexp.MustCompile(`^opper_(usage|cost|project|trace_cost|trace_model)_`)

// metricTables returns a table of the metrics about traces, one of those about cost,
// and one of those about the exporter.
func metricTables(families map[string]*dto.MetricFamily) map[string]string {
	titles := "\n" + head("metric", "type", "labels", "meaning")
	blocks := map[string]string{"trace metrics": titles, "cost metrics": titles, "exporter metrics": titles}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		block := "trace metrics"
		switch {
		case strings.HasPrefix(name, "opper_exporter_"):
			block = "exporter metrics"
		case ofCost.MatchString(name):
			block = "cost metrics"
		case !strings.HasPrefix(name, "opper_"):
			continue // of the Go runtime, the process and the handler
		}
		family := families[name]
		blocks[block] += row(code(name), strings.ToLower(family.GetType().String()), code(labelNames(family)...), escaper.Replace(family.GetHelp()))
	}
	for name := range blocks {
		blocks[name] += "\n"
	}
	return blocks
}

// labelOrder is that of the labels that most metrics share; others follow.
var labelOrder = []string{"project", "trace_name", "outcome"}

func labelNames(family *dto.MetricFamily) []string {
	has := map[string]bool{}
	for _, m := range family.GetMetric() {
		for _, pair := range m.GetLabel() {
			has[pair.GetName()] = true
		}
	}
	var names []string
	for _, name := range labelOrder {
		if has[name] {
			names = append(names, name)
			delete(has, name)
		}
	}
	return append(names, slices.Sorted(maps.Keys(has))...)
}
