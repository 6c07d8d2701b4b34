package scrape

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"opper_exporter/collector/statuspage"
)

// discovered returns the answer of /sd to a request with a Host.
func discovered(t *testing.T, h http.Handler, host string, secure bool) *httptest.ResponseRecorder {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, DiscoveryPath, http.NoBody)
	r.Host = host
	if secure {
		r.TLS = new(tls.ConnectionState)
	}
	h.ServeHTTP(w, r)
	return w
}

func TestDiscovery(t *testing.T) {
	p := newProjects("a", `b "ü" / <c>&d`)
	h := newTestHandler(t, Config{}, p, io.Discard, up())
	for scheme, secure := range map[string]bool{"http": false, "https": true} {
		w := discovered(t, h, "exporter.example:16773", secure)
		var got []targetGroup
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%d, %v, %v", w.Code, w.Header(), err)
		}
		want := []targetGroup{{[]string{"exporter.example:16773"}, map[string]string{"__scheme__": scheme, "__metrics_path__": "/metrics/exporter"}}}
		for _, name := range p.names {
			want = append(want, targetGroup{[]string{"exporter.example:16773"}, map[string]string{
				"__scheme__": scheme, "__metrics_path__": "/probe", "__param_target": name, "project": name,
			}})
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// The metrics of the process are below those of all.
func TestProcessIsBelowTheTelemetryPath(t *testing.T) {
	h := newTestHandler(t, Config{Config: statuspage.Config{TelemetryPath: "/a/b"}}, newProjects("a"), io.Discard, up())
	var groups []targetGroup
	if err := json.Unmarshal(discovered(t, h, "x:1", false).Body.Bytes(), &groups); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		path := g.Labels["__metrics_path__"]
		if path != "/a/b/exporter" && path != "/probe" {
			t.Errorf("path %s", path)
		}
		if w := get(t, h, path+"?target=a"); w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get(t, h, "/metrics/exporter"); w.Code != http.StatusNotFound || len(groups) != 2 {
		t.Errorf("%d, %d groups", w.Code, len(groups))
	}
}

// What is sent to a server as an address is one.
func TestDiscoveryChecksTheHost(t *testing.T) {
	h := newTestHandler(t, Config{}, newProjects("a"), io.Discard, up())
	for host, want := range map[string]int{
		"localhost": 200, "exporter": 200, "my_exporter.ns.svc:16773": 200, "exporter.example.:80": 200, "127.0.0.1:65535": 200, "[::1]:16773": 200,
		"": 400, ":16773": 400, "a:0": 400, "a:65536": 400, "a:": 400, "a:http": 400, "::1": 400, "[::1": 400, "a:1:2": 400, "[a/b]:1": 400,
		"user@host:80": 400, "a b:80": 400, "a/b:80": 400, "a?b": 400, "<a>:80": 400, "a%2fb:80": 400, "-a:80": 400, "ä:80": 400, "a\":80": 400, "a\n:80": 400,
		strings.Repeat("a", 254): 400, strings.Repeat("a", 254) + ":80": 400,
	} {
		w := discovered(t, h, host, false)
		if w.Code != want || want != http.StatusOK && w.Body.String() != "The header Host is not an address: expected host:port.\n" {
			t.Errorf("%.40q: %d, %s", host, w.Code, w.Body)
		}
	}
}
