package grafana_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v2"
)

// ruleFile is a file of recording rules and alerts.
type ruleFile struct {
	name  string
	rules []rule
	// hasty is its text with nothing in it that makes a server wait.
	hasty string
}

type rule struct {
	Record string            `yaml:"record"`
	Alert  string            `yaml:"alert"`
	Expr   string            `yaml:"expr"`
	Labels map[string]string `yaml:"labels"`
}

// parseRules reads a file in the format of Prometheus. It returns nil if the
// file is another one, such as a configuration.
func parseRules(name string, content []byte) (*ruleFile, error) {
	var doc struct {
		Groups []struct {
			Labels map[string]string `yaml:"labels"`
			Rules  []rule            `yaml:"rules"`
		} `yaml:"groups"`
	}
	var tree map[string]any
	if err := errors.Join(yaml.Unmarshal(content, &doc), yaml.Unmarshal(content, &tree)); err != nil {
		return nil, err
	}
	groups, ok := tree["groups"].([]any)
	if !ok {
		return nil, nil //nolint:nilnil // no rules are neither a file nor a fault
	}
	f := &ruleFile{name: name}
	for i, group := range doc.Groups {
		for _, r := range group.Rules {
			labels := map[string]string{}
			for _, set := range []map[string]string{group.Labels, r.Labels} {
				maps.Copy(labels, set)
			}
			r.Labels = labels
			f.rules = append(f.rules, r)
		}
		if group, ok := groups[i].(map[any]any); ok {
			delete(group, "interval")
			delete(group, "query_offset")
		}
	}
	hasty, err := yaml.Marshal(tree)
	f.hasty = string(hasty)
	return f, err
}

// readRules reads all files of rules in some directories.
func readRules(t *testing.T, dirs ...string) []*ruleFile {
	t.Helper()
	var all []*ruleFile
	for _, dir := range dirs {
		for _, pattern := range []string{"*.yml", "*.yaml"} {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				content, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				f, err := parseRules(name, content)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if f != nil {
					all = append(all, f)
				}
			}
		}
	}
	return all
}
