package grafana_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pixels is the width of a dashboard in a window of 1600 pixels, without the
// menu, and of the border of a panel.
const pixels, border = 1568, 20

// legible says what of a panel cannot be read, or says what is not so, in a
// window of an ordinary size.
func legible(p panel) error {
	defaults, legend := p.FieldConfig.Defaults, p.Options.Legend
	custom := defaults.Custom
	stacked := custom.Stacking.Mode == "normal"
	var legends, exprs string
	for _, target := range p.Targets {
		legends += target.Legend + "\n"
		exprs += target.Expr + "\n"
	}
	errs := []error{legibleThresholds(p)}
	fault := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(p.Type == "stat" && p.GridPos.W < 4, "a width of %d cuts the title off", p.GridPos.W)
	fault(p.Type == "status-history" && p.Options.ShowValue != "never", "100 %% does not fit into the cells: showValue is %q", p.Options.ShowValue)
	fault(defaults.Unit == "short" && defaults.Decimals != nil && *defaults.Decimals == 0, "5500 is written as 6 K")
	fault(strings.Contains(exprs, `outcome="failure"`) && !strings.Contains(exprs, "opper_trace_duration_seconds"), "abandoned traces are left out of the failed ones")
	fault(p.Type == "table" && !fits(p), "the columns have no widths, or are too wide for the panel")
	if p.Type != "timeseries" {
		return errors.Join(errs...)
	}
	fault(stacked && custom.LineWidth > 0, "the outline of the stack has the colour of the last series, though that may be 0")
	if strings.Contains(legends, "{{trace_name}}") {
		fault(!stacked && custom.FillOpacity > 0, "many filled lines hide each other")
		fault(legend.Placement != "right" || legend.Width == 0 || len(legend.Calcs) > 1, "a legend below shows two of many names: %+v", legend)
	}
	if strings.Contains(legends, "{{outcome}}") {
		fault(legend.DisplayMode != "list", "a legend as a table does not show the last outcome")
	}
	if strings.Contains(legends, "{{result}}") {
		for result, color := range map[string]string{"success": "green", "error": "red"} {
			fault(!slices.ContainsFunc(p.FieldConfig.Overrides, func(o override) bool {
				return o.Matcher.Options == "/^"+result+"/" && strings.Contains(string(o.property("color")), `"`+color+`"`)
			}), "%s is not %s", result, color)
		}
	}
	return errors.Join(errs...)
}

// legibleThresholds finds panels whose text for no data has the colour of a good
// or a bad value, which is that of the first step.
func legibleThresholds(p panel) error {
	all := []thresholds{}
	if p.FieldConfig.Defaults.Color.Mode == "thresholds" {
		all = append(all, p.FieldConfig.Defaults.Thresholds)
	}
	for _, o := range p.FieldConfig.Overrides {
		if value := o.property("thresholds"); value != nil {
			var t thresholds
			if err := json.Unmarshal(value, &t); err != nil {
				return err
			}
			all = append(all, t)
		}
	}
	want := "text"
	if p.Title == "Data age" {
		want = "red" // without data it is as old as it can be
	}
	for _, t := range all {
		if len(t.Steps) == 0 || t.Steps[0].Color != want {
			return fmt.Errorf("no data does not have the colour %s: %+v", want, t.Steps)
		}
	}
	return nil
}

// fits says whether all columns of a table have a width for which there is room.
func fits(p panel) bool {
	sum, columns := 0, map[string]int{}
	for _, transformation := range p.Transformations {
		columns = transformation.Options.IndexByName
	}
	for column := range columns {
		width := 0
		for _, o := range p.FieldConfig.Overrides {
			for _, id := range []string{"custom.width", "custom.minWidth"} {
				if n, err := strconv.Atoi(string(o.property(id))); err == nil && o.Matcher.Options == column {
					width = n
				}
			}
		}
		if width == 0 {
			return false
		}
		sum += width
	}
	return sum > 0 && sum <= pixels*p.GridPos.W/24-border
}

// The checks find what they are there to find.
func TestLegibleFinds(t *testing.T) {
	for _, test := range []struct{ file, title, from, to, finds string }{
		{"overview", "Success rate", `"color":"text"`, `"color":"green"`, "no data"},
		{"overview", "Worst agents", `"color":"text","value":null},{"color":"red"`, `"color":"red","value":null},{"color":"red"`, "no data"},
		{"overview", "Traces", `"w":4`, `"w":3`, "cuts the title"},
		{"overview", "Traces", `"locale"`, `"short"`, "6 K"},
		{"overview", "Success rate by agent", `"never"`, `"auto"`, "does not fit"},
		{"overview", "Worst agents", `"custom.width","value":110`, `"custom.width","value":310`, "columns"},
		{"overview", "Silent agents", `"custom.width"`, `"custom.align"`, "columns"},
		{"overview", "Failed", `=~\"failure|abandoned\"`, `=\"failure\"`, "abandoned"},
		{"overview", "Traces by outcome", `"lineWidth":0`, `"lineWidth":1`, "outline"},
		{"overview", "Traces by outcome", `"list"`, `"table"`, "last outcome"},
		{"overview", "Traces by agent", `"fillOpacity":0`, `"fillOpacity":8`, "filled"},
		{"overview", "Traces by agent", `"right"`, `"bottom"`, "two of many"},
		{"exporter", "Syncs", `/^error/`, `/^errors/`, "error is not red"},
	} {
		content, err := os.ReadFile("dashboards/" + test.file + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var d struct{ Panels []any }
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, tree := range d.Panels {
			node, ok := tree.(map[string]any)
			if !ok || node["title"] != test.title || node["type"] == "row" || found {
				continue
			}
			found = true
			text, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.Replace(string(text), test.from, test.to, 1)
			var p panel
			if err := json.Unmarshal([]byte(broken), &p); err != nil {
				t.Fatal(err)
			}
			if err := legible(p); broken == string(text) || err == nil || !strings.Contains(err.Error(), test.finds) {
				t.Errorf("%s with %s: the error is %v, not %q", test.title, test.to, err, test.finds)
			}
		}
		if !found {
			t.Errorf("no panel %s", test.title)
		}
	}
}
