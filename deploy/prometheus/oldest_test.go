package prometheus_test

import (
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/promtest"
)

// before38 is for servers that refuse the line that tells it from prometheus.yml.
const before38 = "prometheus-before-3.8.yml"

func TestConfigForOlderServersIsTheSameButForOneLine(t *testing.T) {
	var newer, older map[string]any
	if err := yaml.Unmarshal([]byte(strings.Replace(read(t, "prometheus.yml"), "    scrape_native_histograms: true\n", "", 1)), &newer); err != nil {
		t.Fatal(err)
	}
	parse(t, before38, &older)
	if !reflect.DeepEqual(newer, older) {
		t.Errorf("%s has\n%v\nwant\n%v", before38, older, newer)
	}
}

func TestOlderServersTakeTheirConfigOnly(t *testing.T) {
	rules(t) // promtool reads them, which makes a cached result stale when they change
	check := []string{"check", "config", "--lint=all", "--lint-fatal"}
	read(t, before38)
	if out, err := promtest.Promtool(t, nil, append(check, before38)...); err != nil {
		t.Errorf("a newer server: %v\n%s", err, out)
	}
	if out, err := promtest.OldestPromtool(t, append(check, before38)...); err != nil {
		t.Errorf("an older server: %v\n%s", err, out)
	}
	out, err := promtest.OldestPromtool(t, append(check, "prometheus.yml")...)
	if err == nil || !strings.Contains(out, "scrape_native_histograms") {
		t.Errorf("an older server takes prometheus.yml: %v\n%s", err, out)
	}
}
