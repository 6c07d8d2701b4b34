package deploy_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A vulnerability in what the exporter calls is an error; a database that can't
// be reached is none, but says so.
func TestVulncheckFindsVulnerabilities(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "vuln")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "test/tools/vuln", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check := func(db string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary, "-C", "..", "opper_exporter/collector/store")
		cmd.Env = append(os.Environ(), "GOVULNDB="+db)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	t.Run("not reachable", func(t *testing.T) {
		down := httptest.NewServer(http.NotFoundHandler())
		for _, db := range []string{down.URL, "http://127.0.0.1:1"} {
			if out, err := check(db); err != nil || !strings.HasPrefix(out, "skipped: ") {
				t.Errorf("%s: %v\n%s", db, err, out)
			}
		}
		down.Close()
	})

	const (
		found    = 3 // the status of govulncheck
		modified = `"modified":"2026-01-01T00:00:00Z"`
		entry    = `{"id":"GO-2026-0001",` + modified
	)
	for module, affected := range map[string]bool{"go.etcd.io/bbolt": true, "example.com/other": false} {
		t.Run(module, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"index/db.json":      `{` + modified + `}`,
				"index/modules.json": `[{"path":"` + module + `","vulns":[` + entry + `}]}]`,
				"index/vulns.json":   `[` + entry + `}]`,
				"ID/GO-2026-0001.json": entry + `,"schema_version":"1.3.1","summary":"made up","database_specific":{"url":"https://example.com"},"affected":[{"package":{"name":"` + module + `","ecosystem":"Go"},
					"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"` + module + `","symbols":["Open"]}]}}]}`,
			} {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := check("file://" + dir)
			status := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				status = exit.ExitCode()
			}
			want := map[bool]int{true: found}[affected]
			if status != want || strings.Contains(out, "GO-2026-0001") != affected {
				t.Errorf("status %d, want %d\n%s", status, want, out)
			}
		})
	}
}
