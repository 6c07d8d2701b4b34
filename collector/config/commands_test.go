package config

import (
	"encoding/json"
	"strings"
	"testing"
)

// Flags stand before or after the command, and running is the default.
func TestCommands(t *testing.T) {
	for want, lines := range map[string][]string{
		CommandRun:   {"", "run", "--web.max-requests=3", "run --web.max-requests=3", "--web.max-requests=3 run"},
		CommandCheck: {"check", "check --web.max-requests=3", "--web.max-requests=3 check", "check --json", "--web.max-requests=3 check --json"},
	} {
		for _, line := range lines {
			cfg, err := parse(withKey, strings.Fields(line)...)
			if err != nil || cfg.Command != want || cfg.CheckJSON != strings.Contains(line, "--json") || strings.Contains(line, "=3") != (cfg.Scrape.MaxRequests == 3) {
				t.Errorf("%q: got %+v, %v, want command %s", line, cfg, err, want)
			}
		}
	}
	for _, line := range []string{"--json", "run --json", "check stray", "run check", "chekc"} {
		if _, err := parse(withKey, strings.Fields(line)...); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

// A program that reads JSON gets it also if the key or a file cannot be used.
func TestCheckPrintsRefusedConfigurationAsJSON(t *testing.T) {
	for _, args := range [][]string{{"check", "--json"}, {"check"}} {
		var out strings.Builder
		_, done, err := Parse(args, func(string) string { return "op-mak-\n" + testKey }, &out)
		if done || err == nil {
			t.Fatalf("%v: done %t, error %v", args, done, err)
		}
		if len(args) == 1 {
			if out.Len() > 0 {
				t.Errorf("%v prints %s", args, &out)
			}
			continue
		}
		var got struct {
			Healthy  *bool
			Error    string
			Projects []any
		}
		if err := json.Unmarshal([]byte(out.String()), &got); err != nil || got.Healthy == nil || *got.Healthy || got.Projects == nil || !strings.Contains(got.Error, "OPPER_API_KEY: ") || strings.Contains(out.String(), testKey) {
			t.Errorf("%v: %s", err, &out)
		}
	}
}

func TestStateCommands(t *testing.T) {
	noKey := func(string) string { return "" }
	for line, want := range map[string]State{
		"state show":             {},
		"state show --json":      {JSON: true},
		"state forget a":         {Project: "a"},
		"state forget a b":       {Project: "a", TraceName: "b"},
		"state rename a b":       {Project: "a", NewProject: "b"},
		"state copy other/state": {Directory: "other/state"},
	} {
		cfg, err := parse(noKey, strings.Fields("--storage.path=d "+line)...)
		if err != nil || cfg.State != want || !strings.HasPrefix(line, cfg.Command) || cfg.StoragePath != "d" {
			t.Errorf("%q: got %+v, %v", line, cfg, err)
		}
	}
	for line, text := range map[string]string{
		"state":                        "must select a subcommand of 'state'",
		"state forget":                 "required argument 'project' not provided",
		"state rename a":               "required argument 'new-project' not provided",
		"state copy":                   "required argument 'directory' not provided",
		"state show --storage.path=":   "--storage.path: expected the directory of the state",
		"state forget a ''":            "trace-name: expected UTF-8 text that is not empty",
		"state forget ''":              "project: expected UTF-8 text that is not empty",
		"state rename a \xff":          "new-project: expected UTF-8 text",
		"state show --log.level=wrong": "--log.level: ",
	} {
		args := strings.Fields(line)
		for i, arg := range args {
			args[i] = strings.TrimPrefix(arg, "''")
		}
		if _, err := parse(noKey, args...); err == nil || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("%q: error %v, want %q", line, err, text)
		}
	}
}
