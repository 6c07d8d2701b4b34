package packages_test

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

var healthcheck = sync.OnceValues(func() (string, error) {
	path := filepath.Join(dir, "healthcheck")
	return path, run(top, nil, nil, "go", "build", "-buildvcs=false", "-o", path, "./deploy/container/healthcheck")
})

func TestHealthcheckReportsHealth(t *testing.T) {
	t.Parallel()
	promtest.DependOnSources(t)
	binary, err := healthcheck()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		serve  func(http.Handler) *httptest.Server
		status int
		args   []string
		code   int
		want   string
	}{
		"healthy":        {httptest.NewServer, 200, nil, 0, ""},
		"not healthy":    {httptest.NewServer, 503, nil, 1, "503 Service Unavailable"},
		"with a login":   {httptest.NewServer, 401, nil, 0, ""},
		"TLS":            {httptest.NewTLSServer, 200, nil, 0, ""},
		"more arguments": {httptest.NewServer, 200, []string{"b"}, 2, "expected one URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := test.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.status) }))
			defer server.Close()
			cmd := exec.CommandContext(t.Context(), binary, append([]string{server.URL + "/-/healthy"}, test.args...)...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(string(out), test.want) || strings.Count(string(out), "\n") > 1 {
				t.Errorf("exit status %d, want %d with %q:\n%s", code, test.code, test.want, out)
			}
		})
	}
}
