package scrape

import (
	"encoding/json"
	"net"
	"net/http"
	"regexp"
	"strconv"
)

// targetGroup is an element of the answer to Prometheus' HTTP service discovery.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// discovery answers with a target for each project and one for the process, at the
// address that the client itself has asked.
func discovery(projects func() []string, exporterPath string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isAddress(r.Host) {
			http.Error(w, "The header Host is not an address: expected host:port.", http.StatusBadRequest)
			return
		}
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		groups := []targetGroup{{[]string{r.Host}, map[string]string{"__scheme__": scheme, "__metrics_path__": exporterPath}}}
		for _, name := range projects() {
			// With a label of its own, each has a series up of its own.
			groups = append(groups, targetGroup{[]string{r.Host}, map[string]string{
				"__scheme__": scheme, "__metrics_path__": ProbePath, "__param_" + targetParam: name, "project": name,
			}})
		}
		body, err := json.Marshal(groups)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a client that has gone does not matter
	})
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?$`)

// isAddress reports whether a text is host:port, or a host alone. The client chooses
// it, and a server scrapes what it names.
func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return len(text) <= maxHostName && hostName.MatchString(text)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && len(host) <= maxHostName && (hostName.MatchString(host) || net.ParseIP(host) != nil)
}

// maxHostName is the maximum length of a name in DNS.
const maxHostName = 253
