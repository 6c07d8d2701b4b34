package e2e_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// A server that ingests created timestamps as zeros has samples of a series from before its
// first scrape. They are neither taken for that, nor for a reset of the history.
func TestHistoryOfCreatedZeros(t *testing.T) {
	t.Parallel()
	n := size{days: 8, names: 2, places: 10, traces: 1000}
	w := newWorld(t, n, "--web.openmetrics-created")
	// Names that appear now, but one of a trace that has ended long ago.
	now := time.Now()
	w.appear(t, "young", now)
	w.appear(t, "late", now.Add(-10*time.Hour))

	protocols := map[string]string{"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0", "protobuf": "PrometheusProto"}
	yaml := "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n"
	for job, protocol := range protocols {
		yaml += fmt.Sprintf("- {job_name: %s, scrape_protocols: [%s], scrape_native_histograms: true, always_scrape_classic_histograms: true, static_configs: [{targets: [%q]}]}\n", job, protocol, w.address)
	}
	w.Server = promtest.Start(t, promtest.Config{YAML: yaml, Flags: []string{
		"--enable-feature=created-timestamp-zero-ingestion", "--storage.tsdb.retention.time=60d", "--storage.tsdb.block-reload-interval=1s",
	}})
	for job := range protocols {
		w.WaitScrapes(t, job, 2)
	}
	state := w.state(t)
	w.appear(t, "later", time.Now())
	for job := range protocols {
		w.WaitScrapes(t, job, 2)
		w.moveIn(t, w.backfill(t, n, "--state="+state, "--from-server="+w.URL(), "--label=job="+job, "--step=4m"))
	}
	for job := range protocols {
		series := classicSeries
		if job == "protobuf" {
			series = slices.Concat(series, nativeSeries)
		}
		if err := w.checkResetsOf(t, job, series); err != nil {
			t.Error(err)
		}
	}
}

// appear lists the first trace of a name, and waits until the exporter has counted it.
func (w *world) appear(t *testing.T, name string, ended time.Time) {
	t.Helper()
	w.opper.Add(oppertest.Trace{ID: name, Name: &name, Start: &ended, End: &ended, Status: new("success"), Tokens: new(int64(5))})
	eventually(t, func() error {
		if got := exportertest.MustScrape(t, w.address).Lasting.Total("opper_traces_total", fmt.Sprintf("trace_name=%q", name)); got != 1 {
			return fmt.Errorf("%v traces of %s are counted", got, name)
		}
		return nil
	})
}
