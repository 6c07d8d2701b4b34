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
	"strconv"
	"time"

	"opper_exporter/collector/status"
)

// Config says what stands on the page besides the projects.
type Config struct {
	Program, Version string
	TelemetryPath    string
	// TraceURL is the address of a trace, in which {id} stands for its id. Empty
	// makes no links.
	TraceURL string
}

//go:embed page.html
var html string

//go:embed page.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"age": age, "bytes": size, "count": count, "duration": duration, "percent": percent, "rate": rate, "rfc3339": rfc3339, "visible": visible,
}).Parse(html))

// ContentSecurityPolicy allows what the page has: its style, and an icon of its own.
var ContentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + hashOf(style) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// New returns the page about the projects that a function returns.
func New(cfg Config, projects func() []status.Project) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var body bytes.Buffer
		if err := render(&body, cfg, projects(), time.Now()); err != nil {
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

func render(w io.Writer, cfg Config, projects []status.Project, now time.Time) error {
	data := struct {
		Config
		Title    string
		Style    template.CSS
		Now      time.Time
		Projects []view
	}{cfg, cfg.Program, template.CSS(style), now.UTC(), nil} //nolint:gosec // it is a file of the program
	for i, p := range projects {
		v := newView(cfg, p, data.Now)
		if i == 0 || v.Badge.Level == "bad" {
			data.Title = v.Badge.Word + " – " + cfg.Program
		}
		data.Projects = append(data.Projects, v)
	}
	return page.Execute(w, data)
}
