package grafana_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v2"
)

type destination struct {
	Name  string `yaml:"name"`
	URL   string `yaml:"url"`
	Label string `yaml:"urlDisplayLabel"`
}

func destinations(t *testing.T) []destination {
	t.Helper()
	content, err := os.ReadFile("provisioning/datasources/prometheus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool `yaml:"isDefault"`
			JSONData                     struct {
				HTTPMethod     string        `yaml:"httpMethod"`
				PrometheusType string        `yaml:"prometheusType"`
				TimeInterval   string        `yaml:"timeInterval"`
				Destinations   []destination `yaml:"exemplarTraceIdDestinations"`
			} `yaml:"jsonData"`
		} `yaml:"datasources"`
	}
	if err := yaml.UnmarshalStrict(content, &file); err != nil {
		t.Fatal(err)
	}
	if file.APIVersion != 1 || len(file.Datasources) != 1 || file.Datasources[0].Type != "prometheus" {
		t.Fatalf("one data source for Prometheus, not %+v", file)
	}
	found := file.Datasources[0].JSONData.Destinations
	for i := range found {
		// As Grafana does with values of a file: $$ stands for $.
		found[i].URL = os.Expand(found[i].URL, func(name string) string {
			if name == "$" {
				return name
			}
			return os.Getenv(name)
		})
	}
	return found
}

// exemplarLabel is the label by which a data source finds the way to Opper.
func exemplarLabel(t *testing.T) model.LabelName {
	t.Helper()
	found := destinations(t)
	if len(found) != 1 {
		t.Fatalf("ways from an exemplar: %v", found)
	}
	return model.LabelName(found[0].Name)
}

func TestProvisioning(t *testing.T) {
	const page = "https://platform.opper.ai/traces/${__value.raw}"
	if found := destinations(t); len(found) != 1 || found[0].URL != page {
		t.Errorf("an exemplar leads to %v, not %s", found, page)
	}

	content, err := os.ReadFile("provisioning/dashboards/opper.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type    string
			AllowUIUpdates        bool `yaml:"allowUiUpdates"`
			UpdateIntervalSeconds int  `yaml:"updateIntervalSeconds"`
			Options               struct{ Path string }
		}
	}
	if err := yaml.UnmarshalStrict(content, &file); err != nil {
		t.Fatal(err)
	}
	if file.APIVersion != 1 || len(file.Providers) != 1 || file.Providers[0].Type != "file" || file.Providers[0].Options.Path == "" {
		t.Errorf("one provider of files, not %+v", file)
	}
}

// TestReadme holds README.md to the files that it speaks of.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(content)
	for _, d := range readDashboards(t) {
		if !strings.Contains(readme, d.file) || !strings.Contains(readme, d.UID) {
			t.Errorf("no word of %s, %s", d.file, d.UID)
		}
	}
	for _, match := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(readme, -1) {
		name, _, _ := strings.Cut(match[1], "#")
		if _, err := os.Stat("./" + name); err != nil {
			t.Error(err)
		}
	}
	for _, d := range destinations(t) {
		if !strings.Contains(readme, d.URL) {
			t.Errorf("no word of %s", d.URL)
		}
	}
}
