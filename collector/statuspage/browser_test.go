package statuspage

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"opper_exporter/collector/status"
	"opper_exporter/deploy/test/promtest"
)

var screenshots = flag.String("screenshots", "", "directory into which the test in a browser puts what it saw")

// What the browser is to find out about a page.
//
//go:embed testdata/look.js
var lookScript string

// look is what testdata/look.js returns.
type look struct {
	Title, Text               string
	ScrollWidth, ClientWidth  int
	Outside                   []string // elements that reach out of the page
	NarrowestName             *float64 // pixels for the name of a failed trace; nil without one
	LowContrast               []string // elements whose text has less than 4.5:1
	Texts                     int      // that were measured
	Background                string
	Headings, UnscopedHeaders int // of the first level; of tables
	SkippedLevels             []string
	Scripts, Images, Foreign  int
}

type visit struct {
	URL        string
	Width      int
	Dark       bool
	Screenshot string
}

// browse looks at pages in a real Chromium.
func browse(t *testing.T, views []visit) []look {
	t.Helper()
	promtest.DependOnSources(t)
	binary := filepath.Join(t.TempDir(), "browser")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../../deploy/test/tools/browser", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	request, err := json.Marshal(map[string]any{"Script": lookScript, "Views": views})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var seen []struct {
		Result look
		Errors []string
	}
	if err := json.Unmarshal(stdout.Bytes(), &seen); err != nil {
		t.Fatal(err)
	}
	if len(seen) != len(views) {
		t.Fatalf("%d of %d pages were seen", len(seen), len(views))
	}
	var out []look
	for i, s := range seen {
		for _, e := range s.Errors {
			t.Errorf("%+v: in the console: %s", views[i], e)
		}
		out = append(out, s.Result)
	}
	return out
}

// TestPageInBrowser looks at the page as a person does: on a phone and on a desktop, by
// day and by night.
func TestPageInBrowser(t *testing.T) {
	states := map[string][]status.Project{
		"healthy": {healthy()}, "initial-sync": {initialSync()}, "failing": {failing()}, "stalled": {stalled()}, "no-traces": {noTraces()},
		"hostile": {hostile()}, "several": {healthy(), failing()}, "many": many(40), "none": nil,
	}
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if _, ok := states[state]; !ok || rest != "" {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r.URL.Path)
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Security-Policy", ContentSecurityPolicy)
		if err := render(w, testConfig(), states[state], len(states[state]) > 1, now); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	var views []visit
	for state := range states {
		for _, width := range []int{360, 1280} {
			for _, dark := range []bool{false, true} {
				v := visit{URL: server.URL + "/" + state + "/", Width: width, Dark: dark}
				if *screenshots != "" {
					v.Screenshot = filepath.Join(*screenshots, fmt.Sprintf("%s-%d-%s.png", state, width, map[bool]string{false: "light", true: "dark"}[dark]))
				}
				views = append(views, v)
			}
		}
	}
	backgrounds := map[bool]string{}
	for i, l := range browse(t, views) {
		v := views[i]
		backgrounds[v.Dark] = l.Background
		if l.ClientWidth != v.Width || l.ScrollWidth > l.ClientWidth || len(l.Outside) > 0 {
			t.Errorf("%+v: %d pixels wide, scrolls over %d, outside: %q", v, l.ClientWidth, l.ScrollWidth, l.Outside)
		}
		if l.NarrowestName != nil && *l.NarrowestName < 200 {
			t.Errorf("%+v: a name has only %.0f pixels", v, *l.NarrowestName)
		}
		if len(l.LowContrast) > 0 || l.Texts < 5 {
			t.Errorf("%+v: of %d texts without contrast: %q", v, l.Texts, l.LowContrast)
		}
		if l.Scripts != 0 || l.Images != 0 || l.Foreign != 0 || l.UnscopedHeaders != 0 || l.Headings != 1 || len(l.SkippedLevels) > 0 {
			t.Errorf("%+v: %d scripts, %d images, %d files, %d headers without scope, %d headings, skipped levels: %q", v, l.Scripts, l.Images, l.Foreign, l.UnscopedHeaders, l.Headings, l.SkippedLevels)
		}
		if strings.Contains(l.Title, "injected") {
			t.Errorf("%+v: the title is %q", v, l.Title)
		}
		wants := wantTexts[filepath.Base(v.URL)]
		if v.Width > 360 {
			wants = slices.Concat(wants, wantWideTexts[filepath.Base(v.URL)])
		}
		for _, want := range wants {
			if !strings.Contains(l.Text, want) {
				t.Errorf("%+v: no %q", v, want)
			}
		}
	}
	if backgrounds[true] == backgrounds[false] {
		t.Errorf("the page is %s by day and by night", backgrounds[true])
	}
	if len(asked) > 0 {
		t.Errorf("asked for %q", asked)
	}
}

// wantTexts is what a reader sees in each state.
var wantTexts = map[string][]string{
	"healthy":      {"Collecting: last sync 12 s ago", "checkout", "https://api.opper.ai/v2", "48,211", "120,784", "97.7 %", "cancelled", "invoice-extractor", "anthropic/claude-sonnet-4.5 96,240 $1,411.25", "2 more 7,207 $0.0022", "Total 372,638 $2,277.54", "$2,281.54 spent, 45 % of $5,000.00", "4 waiting, 1,912 unknown"},
	"no-traces":    {"No traces listed, only usage", "openai/gpt-5"},
	"initial-sync": {"Initial sync: 42 %, about 3 min left", "20,400 of 48,211"},
	"failing":      {"Failing since 2026-03-01 02:11:15 UTC: opper answered 401 Unauthorized: invalid key", "2: traces may have been missed", "This month $5,000.21 spent, 100 % of $5,000.00", "yes: Opper refuses calls", "refused, asked again every hour read usage: opper answered 403"},
	"stalled":      {"Stalled: no answer from Opper for 4 min"},
	"hostile":      {`<script>document.title = "injected"</script>`, `\u202e\u2067`, `nul\x00 escape\x1b[31m`},
	"several":      {"2 projects", "1 failing or stalled, 0 starting, 1 collecting", "Collecting", "Failing since 2026-03-01 02:11:15 UTC: opper answered 401"},
	"many":         {"40 projects", "21 failing or stalled, 10 starting, 9 collecting", `<script>document.title = "injected"</script>`, "Stalled no answer from Opper for 4 min"},
}

// wantWideTexts is what a reader sees of tables where there is room for it.
var wantWideTexts = map[string][]string{
	"several": {"Spent this month", "97.7 % 2 $5,000.21, 100 %", "97.7 % 0 $2,281.54, 45 %"},
	"many":    {"Spent this month", "97.7 % 0 $2,281.54, 45 %", "– – – – –"},
}
