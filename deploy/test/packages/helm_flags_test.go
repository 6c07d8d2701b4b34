package packages_test

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"opper_exporter/collector/config"
)

// setByValues are the flags that values other than flags set, or that end the
// exporter.
var setByValues = []string{
	"opper.url", "opper.project", "opper.api-key-file", "storage.path",
	"web.listen-address", "web.health-listen-address", "web.systemd-socket", "web.config.file",
	"config.file", "config.check", "help", "version",
}

// flagsBlock is the value flags in the schema.
var flagsBlock = regexp.MustCompile(`(?s)    "flags": \{\n.*?\n    \}`)

// The schema takes the flags that the program has, each with values of its kind,
// so that a mistake shows before anything is installed.
func TestChartKnowsTheFlags(t *testing.T) {
	app, _ := config.NewApplication()
	for _, name := range setByValues {
		if app.GetFlag(name) == nil {
			t.Errorf("the program has no flag --%s", name)
		}
	}
	properties := map[string]any{}
	for _, f := range app.Model().Flags {
		if f.Hidden || slices.Contains(setByValues, f.Name) {
			continue
		}
		kind := "value"
		if many, ok := f.Value.(interface{ IsCumulative() bool }); ok && many.IsCumulative() {
			kind = "repeatable"
		}
		if f.IsBoolFlag() {
			kind = "switch"
		}
		properties[f.Name] = map[string]string{"$ref": "#/definitions/" + kind}
	}
	if len(properties) < 20 {
		t.Fatalf("the program has only %d flags", len(properties))
	}
	block, err := json.MarshalIndent(map[string]any{
		"description": "Further flags of the exporter by name, without dashes. What other values set is not taken here.",
		"type":        "object", "additionalProperties": false, "properties": properties,
	}, "    ", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(chart, "values.schema.json")
	schema := read(t, path)
	want := flagsBlock.ReplaceAllLiteralString(schema, `    "flags": `+string(block))
	if *update {
		write(t, path, want)
	} else if schema != want {
		t.Errorf("%s has other flags than the program; make golden writes them:\n%s", path, firstDifference(schema, want))
	}
	if !strings.Contains(want, string(block)) {
		t.Errorf("%s has no value flags", path)
	}
}
