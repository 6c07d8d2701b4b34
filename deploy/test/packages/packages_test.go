// Package packages_test runs what the exporter is delivered in as far as that
// goes without a container engine, a cluster or systemd, and holds the rest to
// its schema.
package packages_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// top is the top directory of the project.
const top = "../../.."

var (
	update = flag.Bool("update", false, "rewrite the golden files, and the chart's copies of rules and dashboards")

	// dir is for what all tests share.
	dir string
)

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "opper_exporter"); err != nil {
		panic(err)
	}
	// Other users are to run what is in it.
	if err = os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	exportertest.Main(m) // the process ends with what the tests returned
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
}

// run runs a command. Its error has what the command printed.
func run(dir string, stdout *bytes.Buffer, env []string, command ...string) error {
	cmd := exec.CommandContext(context.Background(), command[0], command[1:]...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr, cmd.Env = dir, &stderr, append(os.Environ(), env...)
	if stdout != nil {
		cmd.Stdout = stdout
	} else {
		cmd.Stdout = &stderr
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, &stderr)
	}
	return nil
}

var programs sync.Map

// program builds a command of deploy/test/tools, once, and returns its path. Each is a
// module of its own.
func program(t testing.TB, name string) string {
	t.Helper()
	promtest.DependOnSources(t)
	build, _ := programs.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		path := filepath.Join(dir, "tool-"+name)
		return path, run(filepath.Join(top, "deploy/test/tools", name), nil, nil, "go", "build", "-o", path, ".")
	}))
	path, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// decoded runs a command of deploy/test/tools and decodes what it writes.
func decoded(t testing.TB, into any, env []string, name string, args ...string) error {
	t.Helper()
	return runJSON(into, env, append([]string{program(t, name)}, args...)...)
}

func runJSON(into any, env []string, command ...string) error {
	var stdout bytes.Buffer
	if err := run(".", &stdout, env, command...); err != nil {
		return err
	}
	return json.Unmarshal(stdout.Bytes(), into)
}

// golden compares with a file of testdata, or rewrites it.
func golden(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		write(t, path, got)
		return
	}
	if want := read(t, path); got != want {
		t.Errorf("%s is other than it was; go test ./deploy/test/packages -update rewrites it:\n%s", path, firstDifference(want, got))
	}
}

func firstDifference(want, got string) string {
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wants), len(gots)) {
		var w, g string
		if i < len(wants) {
			w = wants[i]
		}
		if i < len(gots) {
			g = gots[i]
		}
		if w != g {
			return fmt.Sprintf("line %d\n-%s\n+%s", i+1, w, g)
		}
	}
	return ""
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatalf("no file %s", pattern)
	}
	return paths
}

const key = "the-key"

// opper serves an Opper with a short history.
func opper(t testing.TB, serve func(http.Handler) *httptest.Server) *httptest.Server {
	t.Helper()
	s := oppertest.New(oppertest.Config{Key: key, Seed: 1})
	s.FillHistory(200, 3, time.Now().Add(-5*time.Hour), time.Now().Add(-2*time.Hour))
	server := serve(s)
	t.Cleanup(server.Close)
	return server
}

var listed = regexp.MustCompile(`(?m)^opper_traces_listed\{.*\} [1-9]`)

// counted waits until the initial sync of a project, by default the default one, is
// published, and returns the metrics.
func counted(t testing.TB, p *exportertest.Process, address string, project ...string) string {
	t.Helper()
	up := fmt.Sprintf("opper_up{project=%q} 1", append(project, "default")[0])
	var metrics bytes.Buffer
	promtest.Eventually(t, func() error {
		p.MustRun(t)
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		metrics.Reset()
		if _, err = metrics.ReadFrom(resp.Body); err == nil && !strings.Contains(metrics.String(), up) {
			err = errors.New("opper_up is not 1")
		}
		if err == nil && !listed.MatchString(metrics.String()) {
			err = errors.New("no trace is listed yet")
		}
		return err
	})
	return metrics.String()
}
