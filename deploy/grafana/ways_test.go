package grafana_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// startProjects runs an exporter of two projects, and returns its address when the
// initial sync of both is published.
func startProjects(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(oppertest.Projects{
		"the-key-of-checkout": newOpper(t, "0b6f1c6e-0000-4000-8000-000000000001"),
		"the-key-of-support":  newOpper(t, "0b6f1c6e-0000-4000-8000-000000000002"),
	})
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"opper.yml": "project_key_directories: [keys]", "keys/checkout": "the-key-of-checkout", "keys/support": "the-key-of-support",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exporter := exportertest.MustStart(t, exec.Command(exportertest.Binary(t), "--config.file="+filepath.Join(dir, "opper.yml"), "--opper.url="+server.URL,
		"--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--opper.max-requests-per-second-total=0", "--collector.interval=1s",
		"--collector.settle-delay=1s", "--collector.usage-interval=10s", "--storage.path="+filepath.Join(dir, "data")))
	address := exporter.AwaitReady(t)
	if _, err := exporter.FamiliesWithUsage(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	return address
}

// ways are the ways to scrape many projects, each as the jobs of a server.
var ways = map[string]string{
	"metrics": `
  - job_name: opper
    static_configs: [{targets: [ADDRESS]}]
`,
	"service discovery": `
  - job_name: opper
    honor_labels: true
    http_sd_configs: [{url: "http://ADDRESS/sd", refresh_interval: 1s}]
`,
	// What the operator makes of the Probe in deploy/helm/README.md, and of a scrape of the
	// process beside it.
	"probes": `
  - job_name: process
    metrics_path: /metrics/exporter
    static_configs: [{targets: [ADDRESS]}]
  - job_name: probes
    metrics_path: /probe
    static_configs: [{targets: [checkout, support]}]
    relabel_configs:
      - {source_labels: [__address__], target_label: __param_target}
      - {source_labels: [__param_target], target_label: instance}
      - {target_label: __address__, replacement: ADDRESS}
      - {source_labels: [__param_target], target_label: project}
      - {target_label: instance, replacement: ADDRESS}
    metric_relabel_configs:
      - {action: labeldrop, regex: exported_project}
`,
}

// The dashboards Cost and Exporter have data in each of them, for all projects and for
// one. Exporter has it for the process, too, which may be another target.
func TestDashboardsShowProjectsHoweverScraped(t *testing.T) {
	address := startProjects(t)
	known := newFacts(scrape(t, address), nil)
	var exporter, cost *dashboard
	for _, d := range readDashboards(t) {
		switch d.UID {
		case "opper-exporter":
			exporter = d
		case "opper-cost":
			cost = d
		}
	}
	for way, jobs := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			server := promtest.Start(t, promtest.Config{YAML: fmt.Sprintf(`
global: {scrape_interval: %[1]v, scrape_timeout: %[1]v, scrape_protocols: [PrometheusProto], scrape_native_histograms: true, always_scrape_classic_histograms: true}
scrape_configs:%s`, scrapeInterval, strings.ReplaceAll(jobs, "ADDRESS", address))})
			const want = `[{instance="ADDRESS", project="checkout"} {instance="ADDRESS", project="support"}]`
			promtest.Eventually(t, func() error {
				vector, err := server.Query(t.Context(), `group without (job) (opper_up == 1)`, time.Now())
				var got []string
				for _, sample := range vector {
					got = append(got, sample.Metric.String())
				}
				slices.Sort(got)
				if text := strings.ReplaceAll(fmt.Sprint(got), address, "ADDRESS"); err == nil && text != want {
					err = fmt.Errorf("opper_up is there for %s, not %s", text, want)
				}
				return err
			})
			var chosen choice
			promtest.Eventually(t, func() (err error) {
				if chosen, err = options(t, server, exporter); err == nil && len(chosen["job"]) != strings.Count(jobs, "job_name") {
					err = fmt.Errorf("the jobs to choose are %q", chosen["job"])
				}
				return err
			})
			for _, projects := range [][]string{nil, {"support"}} {
				chosen["project"], chosen["instance"] = projects, []string{address}
				checkDashboard(t, server, known, exporter, chosen)
				checkDashboard(t, server, known, cost, choice{"datasource": chosen["datasource"], "project": projects, "window": {"1h"}})
			}
		})
	}
}
