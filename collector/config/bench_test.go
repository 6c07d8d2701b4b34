package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkReload reads 1 000 projects: of the file with settings of their own,
// and of a directory.
func BenchmarkReload(b *testing.B) {
	const projects = 1000
	content := map[string]string{"ca.pem": string(newAuthority(b).pem), "http.yml": "tls_config: {ca_file: ca.pem}\n", "opper.yml": "project_key_directories: [keys]\n"}
	var list strings.Builder
	list.WriteString("projects:\n")
	for i := range projects {
		content[fmt.Sprintf("keys/project-%d", i)] = fmt.Sprintf("op-%d", i)
		_, _ = fmt.Fprintf(&list, "  - name: project-%d\n    api_key_file: keys/project-%d\n    interval: 60s\n    http_client: http.yml\n    trace_name_rewrites: ['user-\\d+-.*=user']\n    max_trace_names: 500\n", i, i)
	}
	content["list.yml"] = list.String()
	path := files(b, content)
	for _, name := range []string{"list.yml", "opper.yml"} {
		b.Run(strings.TrimSuffix(name, ".yml"), func(b *testing.B) {
			cfg, err := parseFile(filepath.Join(filepath.Dir(path), name))
			if err != nil || len(cfg.Projects) != projects {
				b.Fatal(len(cfg.Projects), err)
			}
			for b.Loop() {
				if _, err := cfg.Reload(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
