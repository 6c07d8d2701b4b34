// Package exportertest builds the exporter, runs it as users do, in a process of
// its own, and reads what it exposes. The tests and the programs that measure the
// exporter share it.
package exportertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// Build builds the exporter in dir, as it is released or with the race detector,
// and returns its path. It must run inside the project.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	path := filepath.Join(dir, "opper_exporter")
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", path}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		// The race detector may need cgo.
		args, env = append(args, "-race"), os.Environ()
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "opper_exporter")...) //nolint:gosec // into a directory of the caller
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// built is what Binary built in this process.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Binary returns the path of the exporter, which it builds once in each process.
// Where it is used, TestMain calls Main.
func Binary(t testing.TB) string {
	t.Helper()
	promtest.DependOnSources(t)
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "opper_exporter-"); built.err != nil { //nolint:usetesting // it outlives the test
			return
		}
		// Tests run it as other users too.
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil { //nolint:gosec // there is only the binary in it
			return
		}
		built.path, built.err = Build(context.Background(), built.dir, false)
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// Main runs the tests and removes what Binary built. The process ends with the
// status of the tests when TestMain returns.
func Main(m *testing.M) {
	m.Run()
	if err := os.RemoveAll(built.dir); err != nil {
		panic(err)
	}
}
