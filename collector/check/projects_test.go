package check

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/config"
	"opper_exporter/opper/oppertest"
)

// configOf returns the configuration of a file with projects of several fixtures, by
// their keys.
func configOf(t *testing.T, fixtures map[string]*fixture, keys map[string]string, args ...string) *config.Validated {
	t.Helper()
	var text strings.Builder
	text.WriteString("projects:\n")
	for _, name := range []string{"good", "wrong", "other"} {
		fmt.Fprintf(&text, "- {name: %s, api_key_env: KEY_%s, url: %q}\n", name, name, fixtures[name].url)
	}
	path := filepath.Join(t.TempDir(), "opper.yml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Parse(append([]string{"check", "--config.file=" + path, "--storage.path=" + t.TempDir(), fixtures["good"].args[0]}, args...),
		func(name string) string { return keys[strings.TrimPrefix(name, "KEY_")] }, &strings.Builder{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func threeFixtures(t *testing.T) (fixtures map[string]*fixture, keys map[string]string) {
	t.Helper()
	fixtures, keys = map[string]*fixture{}, map[string]string{}
	for _, name := range []string{"good", "wrong", "other"} {
		fixtures[name], keys[name] = newFixture(t, oppertest.Config{}, 150), projectKey
	}
	return fixtures, keys
}

// Each project has a report in the order of the file, and one with a problem makes the
// check fail.
func TestSeveralProjects(t *testing.T) {
	t.Parallel()
	fixtures, keys := threeFixtures(t)
	keys["wrong"] = "op-not-this-one"
	var out strings.Builder
	err := run(t.Context(), configOf(t, fixtures, keys), &out, fixtures["good"].clock.now)
	if err == nil || err.Error() != "check found problems in 1 of 3 projects" {
		t.Errorf("%v", err)
	}
	text := out.String()
	at := -1
	for _, part := range []string{"Project good\n", "No problem found.", "Project wrong\n", "Opper refuses the key (401)", "Project other\n", "No problem found.", "\n\n1 of 3 projects have problems: wrong\n"} {
		i := strings.Index(text[at+1:], part)
		if i < 0 {
			t.Fatalf("no %q behind byte %d of %s", part, at, text)
		}
		at += 1 + i
	}

	keys["wrong"] = projectKey
	out.Reset()
	if err := run(t.Context(), configOf(t, fixtures, keys, "--json"), &out, fixtures["good"].clock.now); err != nil {
		t.Error(err)
	}
	var result struct {
		Healthy  bool
		Projects []struct{ Project string }
	}
	if err := json.Unmarshal([]byte(out.String()), &result); err != nil || !result.Healthy || fmt.Sprint(result.Projects) != "[{good} {wrong} {other}]" {
		t.Errorf("%v, %+v", err, result)
	}
}

// Projects share the time, and those that it does not suffice for are problems.
func TestProjectsShareTheTime(t *testing.T) {
	t.Parallel()
	fixtures, keys := threeFixtures(t)
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	var out strings.Builder
	err := run(over, configOf(t, fixtures, keys), &out, fixtures["good"].clock.now)
	if err == nil || err.Error() != "check found problems in 3 of 3 projects" || strings.Count(out.String(), "Not checked: the time for all projects was up.") != 3 || fixtures["good"].RequestCount() != 0 {
		t.Errorf("%v: %s", err, out.String())
	}
}
