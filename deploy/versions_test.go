package deploy_test

import (
	"regexp"
	"strings"
	"testing"
)

// The versions that were tested are those that are pinned, and the minimums those
// that files ask for.
func TestVersionsAreThosePinned(t *testing.T) {
	rows := map[string][]string{}
	for _, row := range read(t, "docs/versions.md").table(t, "Minimum versions") {
		software, _, _ := strings.Cut(row[0], "](")
		rows[software] = row
	}
	const minimum, tested = 1, 2
	for _, c := range []struct {
		software      string
		column        int
		file, pattern string // whose groups are the version
	}{
		{"Go, to build", minimum, "../go.mod", `(?m)^go (\S+)$`},
		{"Go, to build", tested, "container/Dockerfile", `GO_VERSION=(\S+)`},
		{"Prometheus", minimum, "../README.md", `Prometheus (\d+\.\d+) or later`},
		{"Prometheus", tested, "test/tools/go.mod", `github\.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`},
		{"Prometheus", tested, "backfill/go.mod", `github\.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`},
		{"Prometheus", tested, "container/compose.yaml", `prom/prometheus:v(\S+)`},
		{"Prometheus, [other configuration", minimum, "prometheus/prometheus-before-3.8.yml", `for Prometheus (\d+\.\d+) to`},
		{"Prometheus, [other configuration", tested, "test/tools/promtool3.0/go.mod", `github\.com/prometheus/prometheus v0\.(\d)0(\d)\.(\d+)`},
		{"Alertmanager", tested, "test/tools/alertmanager/go.mod", `github\.com/prometheus/alertmanager v(\S+)`},
		{"Kubernetes", minimum, "helm/opper-exporter/Chart.yaml", `kubeVersion: ">=(\d+\.\d+)\.0-0"`},
		{"Kubernetes", tested, "test/tools/manifests/go.mod", `k8s\.io/api v0\.(\d+)\.\d+`},
		{"Prometheus operator", tested, "test/tools/manifests/go.mod", `pkg/apis/monitoring v(\S+)`},
		{"Helm", tested, "test/tools/helm/go.mod", `helm\.sh/helm/v4 v(\S+)`},
		{"systemd", minimum, "systemd/README.md", `systemd (\d+) or newer`},
		{"Docker Compose", tested, "test/tools/compose/go.mod", `compose-go/v2 v(\S+)`},
	} {
		row := rows[c.software]
		if row == nil {
			t.Errorf("no row %s", c.software)
			continue
		}
		match := regexp.MustCompile(c.pattern).FindStringSubmatch(string(read(t, c.file)))
		if match == nil {
			t.Errorf("%s does not match %s", c.file, c.pattern)
			continue
		}
		version := strings.Join(match[1:], ".")
		if c.software == "Kubernetes" && c.column == tested {
			version = "1." + version // as Kubernetes numbers its modules
		}
		if got := strings.TrimPrefix(row[c.column], "compose-go "); got != version {
			t.Errorf("%s: %s has %s, the table %s", c.software, c.file, version, got)
		}
	}
}
