// Package grafana_test holds the dashboards, and the rules of the Prometheus
// beside them, to what Grafana accepts and to what the exporter exposes.
package grafana_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what the tests need to know of a dashboard. That all of it is as
// Grafana wants it is for the schema to say.
type dashboard struct {
	ID            *int64   `json:"id"`
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Timezone      string   `json:"timezone"`
	Refresh       string   `json:"refresh"`
	Panels        []panel  `json:"panels"`
	Links         []link   `json:"links"`
	Templating    struct {
		List []*variable `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []annotation `json:"list"`
	} `json:"annotations"`

	file string
	tree any // all of it
}

// query returns the question of a variable that asks the data source.
func (v *variable) query() string {
	query, ok := v.Query.(map[string]any)
	if !ok {
		return ""
	}
	text, _ := query["query"].(string)
	return text
}

var prometheus = source{Type: "prometheus", UID: "${datasource}"}

func readDashboards(t *testing.T) []*dashboard {
	t.Helper()
	files, err := filepath.Glob("dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []*dashboard
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := &dashboard{file: file}
		if err := json.Unmarshal(content, d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := json.Unmarshal(content, &d.tree); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, d)
	}
	if len(all) < 3 {
		t.Fatalf("only %d dashboards", len(all))
	}
	return all
}

// all returns the panels, those of folded rows included.
func (d *dashboard) all() []panel {
	var all []panel
	for _, p := range d.Panels {
		all = append(all, p)
		all = append(all, p.Panels...)
	}
	return all
}

func (d *dashboard) variable(name string) *variable {
	for _, v := range d.Templating.List {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// texts returns all strings of a part of a dashboard.
func texts(tree any) []string {
	var all []string
	switch node := tree.(type) {
	case string:
		all = append(all, node)
	case []any:
		for _, child := range node {
			all = append(all, texts(child)...)
		}
	case map[string]any:
		for _, child := range node {
			all = append(all, texts(child)...)
		}
	}
	return all
}

func TestDashboards(t *testing.T) {
	all := readDashboards(t)
	byUID := map[string]*dashboard{}
	for _, d := range all {
		if byUID[d.UID] != nil {
			t.Errorf("%s and %s have the same uid", d.file, byUID[d.UID].file)
		}
		byUID[d.UID] = d
	}
	for _, d := range all {
		t.Run(filepath.Base(d.file), func(t *testing.T) {
			checkHead(t, d)
			checkVariables(t, d)
			checkLinks(t, d, byUID)
			checkLayout(t, d)
			for _, p := range d.all() {
				if p.Type != "row" {
					t.Run(p.Title, func(t *testing.T) { checkPanel(t, p) })
				}
			}
		})
	}
}

func checkHead(t *testing.T, d *dashboard) {
	t.Helper()
	if want := "opper-" + strings.TrimSuffix(filepath.Base(d.file), ".json"); d.UID != want {
		t.Errorf("the uid is %q, not %q", d.UID, want)
	}
	if d.ID != nil {
		t.Error("it has the id that one Grafana gave it")
	}
	// 41 is read by Grafana 12, and 42 is what Grafana 12.1 and 13 write.
	if d.SchemaVersion != 41 && d.SchemaVersion != 42 {
		t.Errorf("the schema version is %d", d.SchemaVersion)
	}
	if d.Title == "" || d.Description == "" || d.Refresh == "" || d.Timezone != "browser" || !slices.Contains(d.Tags, "opper") {
		t.Error("without title, description, refresh, the browser's timezone or the tag opper")
	}
}

var (
	variableUse = regexp.MustCompile(`\$(\w+)|\$\{(\w+)(?:\.[^:}]+)?(?::[^}]+)?\}`)
	labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	queryResult = regexp.MustCompile(`^query_result\((.+)\)$`)
)

// builtins are the variables that Grafana has by itself.
var builtins = []string{"__all", "__rate_interval", "__interval", "__range", "__url_time_range", "__value", "__data"}

func checkVariables(t *testing.T, d *dashboard) {
	t.Helper()
	if len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Name != "datasource" {
		t.Error("the first variable is not the data source, on which the others depend")
	}
	used := map[string]bool{"datasource": true}
	for _, text := range texts(d.tree) {
		for _, match := range variableUse.FindAllStringSubmatch(text, -1) {
			name := match[1] + match[2]
			if d.variable(name) == nil && !slices.Contains(builtins, name) {
				t.Errorf("no variable $%s, in %q", name, text)
			}
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" && (a.Name == "" || a.Datasource != prometheus || len(a.Filter.IDs) == 0) {
			t.Errorf("the annotation %q has no name, another data source, or is in all panels", a.Name)
		}
	}
	for _, p := range d.all() {
		for _, target := range p.Targets {
			for _, match := range variableUse.FindAllStringSubmatch(target.Expr, -1) {
				used[match[1]+match[2]] = true
			}
		}
	}
	for _, v := range d.Templating.List {
		if !used[v.Name] {
			t.Errorf("no panel asks with the variable %s", v.Name)
		}
		if v.Label == "" {
			t.Errorf("the variable %s has no label", v.Name)
		}
		if v.Type == "datasource" && v.Current.Value != "" {
			t.Errorf("the data source of one Grafana is chosen: %v", v.Current.Value)
		}
		if v.Type == "query" && (v.Datasource != prometheus || v.query() != v.Definition || !labelValues.MatchString(v.query()) && !queryResult.MatchString(v.query())) {
			t.Errorf("the variable %s asks %q (%q) of %v", v.Name, v.query(), v.Definition, v.Datasource)
		}
	}
}

// checkLinks follows the links to other dashboards.
func checkLinks(t *testing.T, d *dashboard, byUID map[string]*dashboard) {
	t.Helper()
	found := 0
	for _, text := range texts(d.tree) {
		rest, ok := strings.CutPrefix(text, "/d/")
		if !ok {
			continue
		}
		found++
		uid, query, _ := strings.Cut(rest, "?")
		to := byUID[uid]
		if to == nil {
			t.Errorf("no dashboard for %s", text)
			continue
		}
		if !strings.Contains(query, "${datasource:queryparam}") {
			t.Errorf("the data source is lost by %s", text)
		}
		for _, match := range regexp.MustCompile(`var-(\w+)=|\$\{(\w+):queryparam\}`).FindAllStringSubmatch(query, -1) {
			if to.variable(match[1]+match[2]) == nil {
				t.Errorf("%s has no variable for %s", uid, text)
			}
		}
	}
	if found < len(byUID)-1 {
		t.Errorf("only %d links to other dashboards", found)
	}
}

// checkLayout finds panels that lie outside of the grid or on each other, and
// rows without panels.
func checkLayout(t *testing.T, d *dashboard) {
	t.Helper()
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("the id %d of %q is missing or taken", p.ID, p.Title)
		}
		ids[p.ID] = true
		pos := p.GridPos
		if pos.X < 0 || pos.Y < 0 || pos.W < 1 || pos.H < 1 || pos.X+pos.W > 24 {
			t.Errorf("%q is outside of the grid: %v", p.Title, pos)
		}
		for x := pos.X; x < pos.X+pos.W; x++ {
			for y := pos.Y; y < pos.Y+pos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%q lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" && len(p.Panels) == 0 && (i+1 == len(d.Panels) || d.Panels[i+1].Type == "row") {
			t.Errorf("the row %q is empty", p.Title)
		}
	}
}

func checkPanel(t *testing.T, p panel) {
	t.Helper()
	if p.Title == "" || !strings.HasSuffix(p.Description, ".") && !strings.HasSuffix(p.Description, "?") {
		t.Errorf("title %q, description %q", p.Title, p.Description)
	}
	if defaults := p.FieldConfig.Defaults; defaults.Unit == "" || defaults.NoValue == "" {
		t.Errorf("unit %q, and for an empty panel %q", defaults.Unit, defaults.NoValue)
	}
	if err := errors.Join(ascending(p), legible(p)); err != nil {
		t.Error(err)
	}
	if p.Datasource != prometheus {
		t.Errorf("the data source is %v", p.Datasource)
	}
	if len(p.Targets) == 0 {
		t.Error("it asks nothing")
	}
	refs := map[string]bool{}
	for _, target := range p.Targets {
		if target.RefID == "" || refs[target.RefID] || target.Expr == "" || target.Datasource != prometheus || target.Range == target.Instant || target.Hide {
			t.Errorf("refId, expression, data source, or either range or instant is missing: %+v", target)
		}
		refs[target.RefID] = true
	}
}

// ascending says whether the thresholds of a panel are steps.
func ascending(p panel) error {
	steps := p.FieldConfig.Defaults.Thresholds.Steps
	for i, step := range steps {
		if (step.Value == nil) != (i == 0) {
			return fmt.Errorf("threshold %d has no value, or the first one has", i)
		}
		if i > 1 && *step.Value <= *steps[i-1].Value {
			return fmt.Errorf("threshold %v follows %v", *step.Value, *steps[i-1].Value)
		}
	}
	return nil
}
