package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v2"
)

const (
	prometheusConfig = "deploy/prometheus/prometheus.yml"
	// With these thresholds an alert fires within five minutes.
	demoThresholds = "deploy/demo/thresholds.yml"
	// demoInterval is the scrape interval, short so that changes show at once.
	demoInterval = 5 * time.Second
)

// prometheusCommand builds Prometheus and returns a command that scrapes the
// target with the example configuration and keeps its data in a directory, as old as
// the history may be.
func prometheusCommand(ctx context.Context, dir, target, address, data string) (*exec.Cmd, error) {
	config, err := demoConfig(prometheusConfig, target)
	if err != nil {
		return nil, err
	}
	configPath := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(configPath, config, 0o600); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "tool", "-modfile=deploy/test/tools/go.mod", "-n", "prometheus")
	build.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -tags=remove_all_sd")
	build.Stderr = os.Stderr
	binary, err := build.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool prometheus: %w", err)
	}
	return exec.CommandContext(ctx, strings.TrimSpace(string(binary)), //nolint:gosec // built by us
		"--config.file="+configPath, "--storage.tsdb.path="+data, "--storage.tsdb.retention.time=1y", "--web.listen-address="+address,
		"--enable-feature=exemplar-storage", "--log.level=warn"), nil
}

// demoConfig returns the example configuration with another target, and without
// an Alertmanager, which does not run.
func demoConfig(path, target string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var config struct {
		Global        map[string]any   `yaml:"global"`
		RuleFiles     []string         `yaml:"rule_files"`
		ScrapeConfigs []map[string]any `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, file := range config.RuleFiles {
		config.RuleFiles[i] = filepath.Join(dir, file)
	}
	thresholds, err := filepath.Abs(demoThresholds)
	if err != nil {
		return nil, err
	}
	config.RuleFiles = append(config.RuleFiles, thresholds)
	config.Global["evaluation_interval"] = demoInterval.String()
	for _, job := range config.ScrapeConfigs {
		job["scrape_interval"] = demoInterval.String()
		job["static_configs"] = []map[string]any{{"targets": []string{target}}}
	}
	return yaml.Marshal(config)
}
