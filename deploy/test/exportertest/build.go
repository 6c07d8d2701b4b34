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
	path, err := filepath.Abs(filepath.Join(dir, "opper_exporter"))
	if err != nil {
		return "", err
	}
	root, err := promtest.ProjectDir()
	if err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-o", path}
	env := os.Environ()
	if race {
		// The race detector may need cgo. Packages are those that go test -race has
		// compiled.
		args = append(args, "-race")
	} else {
		args, env = append(args, "-trimpath"), append(env, "CGO_ENABLED=0")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "opper_exporter")...) //nolint:gosec // into a directory of the caller
	// Another module that depends on the project may choose other versions.
	cmd.Dir, cmd.Env = root, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// build is a binary that is built once in each process.
type build struct {
	once sync.Once
	dir  string
	path string
	err  error
}

var released, checked build

// Binary returns the path of the exporter as it is released. Where it is used,
// TestMain calls Main.
func Binary(t testing.TB) string {
	t.Helper()
	return released.mustBuild(t, false)
}

// CheckedBinary is Binary with the race detector, if the test has it.
func CheckedBinary(t testing.TB) string {
	t.Helper()
	return checked.mustBuild(t, raceEnabled)
}

func (b *build) mustBuild(t testing.TB, race bool) string {
	t.Helper()
	promtest.DependOnSources(t)
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "opper_exporter-"); b.err != nil { //nolint:usetesting // it outlives the test
			return
		}
		// Tests run it as other users too.
		if b.err = os.Chmod(b.dir, 0o755); b.err != nil { //nolint:gosec // there is only the binary in it
			return
		}
		b.path, b.err = Build(context.Background(), b.dir, race)
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// Main runs the tests and removes the binaries that they built. The process ends
// with the status of the tests when TestMain returns.
func Main(m *testing.M) {
	m.Run()
	for _, b := range []*build{&released, &checked} {
		if err := os.RemoveAll(b.dir); err != nil {
			panic(err)
		}
	}
}
