package oppertest

import (
	"net/http"
	"strings"
)

// Projects is an Opper with several projects, which are told apart by their API keys.
// Any other key is refused.
type Projects map[string]*Server

// ServeHTTP lets the project of the key answer.
func (p Projects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	project, ok := p[key]
	if !ok {
		project = New(Config{Key: "the key of nobody"})
	}
	project.ServeHTTP(w, r)
}
