package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"opper_exporter/collector/config"
)

var update = flag.Bool("update", false, "rewrite the table of flags in the documentation")

// ownFlags returns the flags that the exporter does not have.
func ownFlags(t *testing.T) (own []*kingpin.FlagModel) {
	t.Helper()
	var model *kingpin.ApplicationModel
	change := func(app *kingpin.Application) {
		new(flags).add(new(options))(app)
		model = app.Model()
	}
	if _, done, err := config.ParseFor(program, help, change, []string{"--help"}, os.Getenv, io.Discard); !done || err != nil {
		t.Fatal(err)
	}
	exporter, _ := config.NewApplication()
	for _, f := range model.Flags {
		if exporter.GetFlag(f.Name) == nil && f.Name != "help" && f.Name != "version" {
			own = append(own, f)
		}
	}
	return own
}

// The table of the flags is made from the program, by make docs.
func TestFlagsAreDocumented(t *testing.T) {
	table := "| flag | default | meaning |\n|---|---|---|\n"
	for _, f := range ownFlags(t) {
		value := ""
		if len(f.Default) > 0 {
			value = "`" + strings.Join(f.Default, ",") + "`"
		}
		table += "| `--" + f.Name + "` | " + value + " | " + f.Help + " |\n"
	}
	const begin, end = "<!-- generated: opper_backfill flags -->\n", "<!-- end of generated -->"
	path := filepath.Join("..", "docs", "history.md")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + begin + table + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if string(content) != want {
		t.Errorf("%s is not up to date: run make docs", path)
	}
}

// Flags of the exporter that do nothing here are named rightly.
func TestUnusedFlagsExist(t *testing.T) {
	app, _ := config.NewApplication()
	var names []string
	for _, f := range app.Model().Flags {
		names = append(names, f.Name)
	}
	for _, name := range unusedFlags {
		if !slices.Contains(names, name) {
			t.Errorf("the exporter has no flag --%s", name)
		}
	}
	for _, prefix := range unusedPrefixes {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, prefix) }) {
			t.Errorf("the exporter has no flag --%s…", prefix)
		}
	}
}
