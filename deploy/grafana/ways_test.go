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
)

// startProjects runs an exporter of two projects, and returns its address when the
// initial sync of both is published.
func startProjects(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(newOpper(t))
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
	return exportertest.MustStart(t, exec.Command(exportertest.Binary(t), "--config.file="+filepath.Join(dir, "opper.yml"), "--opper.url="+server.URL,
		"--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--opper.max-requests-per-second-total=0", "--collector.interval=1s",
		"--collector.settle-delay=1s", "--storage.path="+filepath.Join(dir, "data"))).AwaitReady(t)
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

// The Exporter dashboard has data in each of them, for all projects and for one, and so
// for the process, which may be another target.
func TestDashboardShowsProjectsHoweverScraped(t *testing.T) {
	address := startProjects(t)
	known := newFacts(scrape(t, address), nil)
	var d *dashboard
	for _, other := range readDashboards(t) {
		if other.UID == "opper-exporter" {
			d = other
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
				if chosen, err = options(t, server, d); err == nil && len(chosen["job"]) != strings.Count(jobs, "job_name") {
					err = fmt.Errorf("the jobs to choose are %q", chosen["job"])
				}
				return err
			})
			for _, projects := range [][]string{nil, {"support"}} {
				chosen["project"], chosen["instance"] = projects, []string{address}
				checkDashboard(t, server, known, d, chosen)
			}
		})
	}
}
