// Package promtest runs a real Prometheus server, and promtool, in tests. They
// are built from the versions pinned in deploy/test/tools when they are first asked
// for, which takes minutes on a fresh machine and about a second afterwards.
package promtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// patience is far above what any awaited condition needs: only a failing
	// test is slow. A server on a busy machine may leave a connection open and go on
	// over another one, and first increments wait for five minutes then.
	patience = 10 * time.Minute
	// minPoll is short because what is asked is local and cheap. What takes long to
	// come is asked for less often, or asking would take most of the processor.
	minPoll, maxPoll = 25 * time.Millisecond, 100 * time.Millisecond
	// grace lets a server write its head block before it is killed.
	grace = 20 * time.Second
	// data is the name of the directory of the blocks and the head.
	data = "data"
)

// Config says how to start a server.
type Config struct {
	// YAML is the whole text of prometheus.yml.
	YAML string
	// RuleFiles holds the text of rule files by name. They are written beside
	// prometheus.yml, which lists them under rule_files by the same names.
	RuleFiles map[string]string
	// Flags are further arguments, for example
	// --enable-feature=exemplar-storage.
	Flags []string
	// Blocks is a directory of blocks that the server has before its first start.
	Blocks string
}

// Server is a running Prometheus server. Its methods may be called from
// several goroutines, but not during Restart.
type Server struct {
	dir    string
	config Config
	url    string
	log    *Output
	// exited is done when the process has ended; its cause says how.
	exited context.Context
	stop   context.CancelFunc
}

// Start runs a server on a free port of 127.0.0.1 with a data directory of its
// own, and returns when it is ready to answer. The server is stopped when the
// test ends, and logged if the test has failed.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	dir := t.TempDir()
	if c.Blocks != "" {
		if err := os.CopyFS(filepath.Join(dir, data), os.DirFS(c.Blocks)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := start(dir, c)
	if err != nil {
		t.Fatalf("prometheus: %v", err)
	}
	t.Cleanup(func() {
		s.close()
		if t.Failed() {
			t.Logf("log of prometheus:\n%s", s.log)
		}
	})
	return s
}

// At returns a server that something else has started. It can be asked, and not
// restarted.
func At(url string) *Server { return &Server{url: url} }

// Restart stops the server as an operator does, and starts it with the same
// configuration and data, and further flags. Its address is another one.
func (s *Server) Restart(t testing.TB, flags ...string) {
	t.Helper()
	s.close()
	s.config.Flags = slices.Concat(s.config.Flags, flags)
	again, err := start(s.dir, s.config)
	if err != nil {
		t.Fatalf("prometheus: %v", err)
	}
	_, _ = again.log.Write([]byte("\nbefore the restart:\n" + s.log.String())) // into memory
	*s = *again
}

// DataDir returns the directory of the blocks and the head.
func (s *Server) DataDir() string { return filepath.Join(s.dir, data) }

// URL returns the address of the server, without a slash at its end.
func (s *Server) URL() string { return s.url }

func start(dir string, c Config) (*Server, error) {
	binary, err := tool(newest, "prometheus")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(c.YAML), 0o600); err != nil {
		return nil, err
	}
	for name, text := range c.RuleFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	args := append([]string{
		"--config.file=" + config,
		"--storage.tsdb.path=" + filepath.Join(dir, data),
		// The server takes a free port itself and logs which: no other process
		// can take it in between.
		"--web.listen-address=127.0.0.1:0",
		"--log.format=logfmt",
		// Targets are known at once instead of after five seconds.
		"--scrape.discovery-reload-interval=10ms",
	}, c.Flags...)

	running, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(running, binary, args...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	s := &Server{dir: dir, config: c, log: new(Output), stop: stop}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	exited, exit := context.WithCancelCause(context.Background())
	s.exited = exited
	go func() {
		_ = cmd.Wait() // the state says the same and more
		exit(fmt.Errorf("server ended: %v", cmd.ProcessState))
	}()

	ctx, cancel := context.WithTimeout(s.exited, patience)
	defer cancel()
	if err := await(ctx, func() error { return s.ready(ctx) }); err != nil {
		s.close()
		return nil, fmt.Errorf("%w\n%s", err, s.log)
	}
	return s, nil
}

var listening = regexp.MustCompile(`msg="Listening on" .*address=(127\.0\.0\.1:[0-9]+)`)

// ready finds the address of the server and asks whether it serves.
func (s *Server) ready(ctx context.Context) error {
	if s.url == "" {
		match := listening.FindStringSubmatch(s.log.String())
		if match == nil {
			return errors.New("not listening yet")
		}
		s.url = "http://" + match[1]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/-/ready", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}

func (s *Server) close() {
	s.stop()
	<-s.exited.Done()
}

// Eventually asks for a condition again and again until it returns nil. It
// fails the test, with the last error, if that takes minutes.
func Eventually(t testing.TB, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := await(ctx, condition); err != nil {
		t.Fatalf("never came true: %v", err)
	}
}

// await returns nil as soon as the condition does, or else, when the context
// is done, why it is and what the condition said last.
func await(ctx context.Context, condition func() error) error {
	began := time.Now()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		case <-time.After(min(max(time.Since(began)/20, minPoll), maxPoll)):
		}
	}
}

// Promtool runs promtool and returns what it printed, on either output. The
// error is not nil if it could not be run or found a fault.
func Promtool(t testing.TB, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	return promtool(t, newest, stdin, args...)
}

// OldestPromtool is Promtool of the oldest server that the rules are for.
func OldestPromtool(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return promtool(t, oldest, nil, args...)
}

func promtool(t testing.TB, module string, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	binary, err := tool(module, "promtool")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	// It evaluates rules with little memory and much garbage.
	cmd.Env = append(os.Environ(), "GOGC=400")
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("promtool %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// The modules that pin the tools, below the directory of the project.
const (
	newest = "deploy/test/tools/go.mod"
	oldest = "deploy/test/tools/promtool3.0/go.mod"
)

var (
	toolsMu sync.Mutex
	tools   = map[string]string{} // by module and name
)

// tool returns the path of a binary of a module, which it builds if need be. It
// holds a lock meanwhile, because two builds of the same packages at once would do
// the work twice.
func tool(module, name string) (string, error) {
	toolsMu.Lock()
	defer toolsMu.Unlock()
	if path, ok := tools[module+name]; ok {
		return path, nil
	}
	root, err := ProjectDir()
	if err != nil {
		return "", err
	}
	modfile := filepath.Join(root, filepath.FromSlash(module))
	// A result that go test has cached is stale once a file changes that the
	// test itself looked at, which this makes one of them.
	if _, err = os.Stat(modfile); err != nil {
		return "", err
	}
	path, err := goCommand(root, "tool", "-modfile="+modfile, "-n", name)
	if err != nil {
		return "", err
	}
	tools[module+name] = path
	return path, nil
}

func goCommand(dir string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(context.Background(), "go", args...)
	cmd.Dir = dir
	// Without the service discoveries of every cloud the build is several
	// times shorter.
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -tags=remove_all_sd")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// ProjectDir returns the directory of the project, wherever in it a test runs.
func ProjectDir() (string, error) {
	return goCommand("", "list", "-m", "-f", "{{.Dir}}", "opper_exporter")
}
