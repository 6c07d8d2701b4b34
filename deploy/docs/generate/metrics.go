package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/prometheus/common/expfmt"

	"opper_exporter/opper/oppertest"
)

const (
	// patience is far above what a start takes.
	patience = time.Minute
	poll     = 25 * time.Millisecond
)

// scrape runs the exporter against an Opper that lists some traces, and
// returns what it exposes. Its state and its log are in dir.
func scrape(ctx context.Context, binary, dir string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	opper := oppertest.New(oppertest.Config{})
	opper.FillHistory(10, 1, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: opper, ReadHeaderTimeout: patience}
	go func() { _ = server.Serve(listener) }() // ends when it is closed
	defer func() { _ = server.Close() }()      // nothing more is asked

	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()                                                                                                                                             // the exporter writes through a copy
	exporter := exec.CommandContext(ctx, binary, "--opper.url=http://"+listener.Addr().String(), "--web.listen-address=127.0.0.1:0", "--storage.path="+filepath.Join(dir, "data")) //nolint:gosec // binary was built here
	exporter.Env = append(os.Environ(), "OPPER_API_KEY=documentation")
	exporter.Stderr = log
	if err := exporter.Start(); err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		_ = exporter.Wait() // ends with ctx
	}()
	address, err := waitReady(ctx, log.Name())
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return get(ctx, "http://"+address+"/metrics")
}

var listening = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// waitReady waits for the end of the initial sync and returns the address that
// the log names.
func waitReady(ctx context.Context, log string) (string, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(log)
		if err != nil {
			return "", err
		}
		if match := listening.FindSubmatch(text); match != nil {
			address := string(match[1])
			if resp, err := request(ctx, "http://"+address+"/-/ready"); err == nil {
				_ = resp.Body.Close()
				return address, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", errors.New("the exporter does not get ready")
		}
	}
}

// get returns the metric families of a scrape in the protobuf format, which
// alone has native histograms.
func get(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	resp, err := request(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	families := map[string]*dto.MetricFamily{}
	for decoder := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header)); ; {
		var family dto.MetricFamily
		if err := decoder.Decode(&family); errors.Is(err, io.EOF) {
			return families, nil
		} else if err != nil {
			return nil, err
		}
		families[family.GetName()] = &family
	}
}

// request returns a response with status 200.
func request(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp, nil
}

// metricTables returns a table of the metrics about traces, and one of those
// about the exporter.
func metricTables(families map[string]*dto.MetricFamily) map[string]string {
	titles := "\n" + head("metric", "type", "labels", "meaning")
	blocks := map[string]string{"trace metrics": titles, "exporter metrics": titles}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		block := "trace metrics"
		switch {
		case strings.HasPrefix(name, "opper_exporter_"):
			block = "exporter metrics"
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
