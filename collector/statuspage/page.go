// Package statuspage renders the page at /, for people: what is collected, how that
// goes, and what failed last.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"opper_exporter/collector/status"
)

// Config says what stands on the page besides the projects, and where metrics are.
type Config struct {
	Program, Version string
	TelemetryPath    string
	// TraceURL is the address of a trace, in which {id} stands for its id. Empty
	// disables the links.
	TraceURL string
}

//go:embed page.html
var html string

//go:embed page.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"age": age, "bytes": size, "cents": fromCents, "count": count, "cut": cut, "duration": duration, "nanodollars": fromNanodollars, "percent": percent, "rate": rate, "rfc3339": rfc3339, "visible": visible,
}).Parse(html))

// ContentSecurityPolicy allows what the page has: its style, and an icon of its own.
var ContentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + hashOf(style) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// projectParam is the parameter of a URL that names a project.
const projectParam = "project"

// New returns the page about the projects that a function returns: about one, the one
// in the URL or the only one, all that is known, of several a table.
func New(cfg Config, projects func() []status.Project) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown := projects()
		several := len(shown) > 1
		if query := r.URL.Query(); query.Has(projectParam) {
			name := query.Get(projectParam)
			shown = slices.DeleteFunc(shown, func(p status.Project) bool { return p.Name != name })
			if len(shown) == 0 {
				http.Error(w, fmt.Sprintf("There is no project %.100q.", name), http.StatusNotFound)
				return
			}
		}
		var body bytes.Buffer
		if err := render(&body, cfg, shown, several, time.Now()); err != nil {
			http.Error(w, fmt.Sprintf("The status page cannot be rendered: %s", err), http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Length", strconv.Itoa(body.Len()))
		header.Set("Cache-Control", "no-store")
		_, _ = w.Write(body.Bytes()) // a client that has gone does not matter
	})
}

// render writes the page about one project, or a table of more. There are several if
// one is not the only one.
func render(w io.Writer, cfg Config, projects []status.Project, several bool, now time.Time) error {
	data := struct {
		Config
		Title   string
		Style   template.CSS
		Now     time.Time
		Several bool
		Project *view // nil without projects, and if there is a Table
		Table   *table
	}{Config: cfg, Title: cfg.Program, Style: template.CSS(style), Now: now.UTC(), Several: several} //nolint:gosec // it is a file of the program
	var views []view
	for i, p := range projects {
		v := newView(cfg, p, data.Now)
		if i == 0 || v.Badge.Level == bad {
			data.Title = v.Badge.Word + " – " + cfg.Program
		}
		views = append(views, v)
	}
	switch len(views) {
	case 0:
	case 1:
		data.Project = &views[0]
	default:
		data.Table = newTable(views)
	}
	return page.Execute(w, data)
}
