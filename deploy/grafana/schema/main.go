// Command schema holds dashboards to the schema that Grafana publishes: no
// field that it does not know, no value of the wrong type, no required field
// left out, no panel or query type but those that are registered here, no unit
// that Grafana would print as it stands. It is a module of its own because
// only a test needs the schema, which is large.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/statushistory"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

const sdk = "github.com/grafana/grafana-foundation-sdk/go"

// panels are those that a dashboard may have. All that the schema knows would
// take a minute to compile.
var panels = []string{"heatmap", "row", "stat", "state-timeline", "status-history", "table", "timeseries"}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout))
}

func run(names []string, stdout io.Writer) int {
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(heatmap.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(statetimeline.VariantConfig())
	runtime.RegisterPanelcfgVariant(statushistory.VariantConfig())
	runtime.RegisterPanelcfgVariant(table.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())

	code := 0
	units, err := units()
	if err != nil {
		_, _ = fmt.Fprintln(stdout, err)
		return 1
	}
	for _, name := range names {
		if err := check(name, units); err != nil {
			_, _ = fmt.Fprintf(stdout, "%s:\n%s\n", name, err)
			code = 1
		}
	}
	return code
}

func check(name string, units []string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var d dashboard.Dashboard
	// The decoder reports errors even if there are none, and leaves out panels.
	var errs cog.BuildErrors
	if err := d.UnmarshalJSONStrict(content); err != nil && (!errors.As(err, &errs) || len(errs) > 0) {
		return err
	}
	if err := json.Unmarshal(content, &d); err != nil {
		return err
	}
	if err := d.Validate(); err != nil {
		return err
	}
	if err := checkPanels(content); err != nil {
		return err
	}
	var tree any
	if err := json.Unmarshal(content, &tree); err != nil {
		return err
	}
	return checkUnits(tree, units)
}

// checkPanels finds panels of another type, and what is unknown in the defaults
// of their fields, where the schema's own decoder lets it pass.
func checkPanels(content []byte) error {
	var d struct {
		Panels []struct {
			Type, Title string
			FieldConfig struct{ Defaults json.RawMessage }
		}
	}
	if err := json.Unmarshal(content, &d); err != nil {
		return err
	}
	for _, panel := range d.Panels {
		if !slices.Contains(panels, panel.Type) {
			return fmt.Errorf("%s: a panel of type %q, none of %q", panel.Title, panel.Type, panels)
		}
		if len(panel.FieldConfig.Defaults) == 0 {
			continue // a row
		}
		decoder := json.NewDecoder(bytes.NewReader(panel.FieldConfig.Defaults))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(new(dashboard.FieldConfig)); err != nil {
			return fmt.Errorf("%s: %w", panel.Title, err)
		}
	}
	return nil
}

// units returns the identifiers of all units. The schema has them only as
// constants, so they are read from its source.
func units() ([]string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", sdk).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "units", "types_gen.go"))
	if err != nil {
		return nil, err
	}
	var units []string
	for _, match := range regexp.MustCompile(`(?m)^const \w+ = "(.+)"$`).FindAllSubmatch(source, -1) {
		units = append(units, string(match[1]))
	}
	return units, nil
}

// custom is a unit that Grafana makes from its own text.
var custom = regexp.MustCompile(`^(count|suffix|prefix|si|time|currency):.`)

func checkUnits(tree any, units []string) error {
	switch node := tree.(type) {
	case []any:
		for _, child := range node {
			if err := checkUnits(child, units); err != nil {
				return err
			}
		}
	case map[string]any:
		unit := node["unit"]
		if node["id"] == "unit" {
			unit = node["value"]
		}
		if unit, ok := unit.(string); ok && !slices.Contains(units, unit) && !custom.MatchString(unit) {
			return fmt.Errorf("no unit is called %q", unit)
		}
		for _, child := range node {
			if err := checkUnits(child, units); err != nil {
				return err
			}
		}
	}
	return nil
}
