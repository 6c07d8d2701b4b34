package config

import (
	"io"
	"strings"
	"testing"
)

// FuzzConfigFile reads any file: it is refused in one line, or is projects that
// can run. No key that a project has shows in an error.
func FuzzConfigFile(f *testing.F) {
	for _, c := range badFiles {
		f.Add([]byte(c.file))
	}
	for _, file := range []string{
		"projects: [{name: a, api_key_env: KEY_A, interval: 0s}, {name: b, api_key_env: KEY_B, headers: {A: b}, http_client: {enable_http2: false}}]\n",
		"a: &a [*a]\nprojects: *a\n", "projects: &a\n- *a\n", "projects: [&p {name: a, api_key_env: KEY_A}, *p]\n", "projects: [{<<: {name: a}, api_key_env: KEY_A}]\n",
		"projects: [{name: a, api_key_env: KEY_A, http_client: &h {proxy_url: *h}}]\n", "project_key_directories: [testdata]\n", "%YAML 1.1\n---\nprojects: []\n...\n",
		"projects: [{name: a, api_key_env: KEY_A, headers: {? [a] : b}}]\n", "? [a]\n: b\n", "projects: [{name: a, api_key_env: KEY_A, success_status: [a, !!int b, 0x1]}]\n",
	} {
		f.Add([]byte(file))
	}
	const secret = "op-PLANTED"
	getenv := func(name string) string {
		if strings.HasPrefix(name, "KEY_") {
			return secret + name
		}
		return ""
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		parsed, _, err := parseArgs(NewApplication, []string{"--config.file=testdata/opper.yml"}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		projects, err := parsed.parseProjects(content, getenv)
		if err != nil {
			if text := err.Error(); strings.Contains(text, secret) || strings.Contains(text, "\n") || !strings.HasPrefix(text, "testdata/opper.yml: ") {
				t.Fatalf("the error shows a key, or is more than one line: %q", text)
			}
			return
		}
		names := map[string]bool{}
		for _, p := range projects {
			if names[p.Name] || p.Name == "" || p.Digest == "" || p.UpstreamURL == "" || p.KeyOrigin == "" || p.Opper.Timeout <= 0 || p.Concurrency < 1 || p.Aggregate.MaxNames < 1 {
				t.Fatalf("%+v", p)
			}
			names[p.Name] = true
		}
	})
}
