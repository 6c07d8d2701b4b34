package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

const (
	testKey = "op-test-KEY-51c7e0"
	// patience is how long the program may run. One that ends as it must takes far
	// less.
	patience = 2 * time.Minute
)

// noOpper returns the URL of an Opper that must not be asked.
func noOpper(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request for %s", r.URL)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A configuration that cannot be used ends the program with one line, before it
// has done anything.
func TestInvalidConfigurationEndsWithOneLine(t *testing.T) {
	t.Parallel()
	url := noOpper(t)
	dir := t.TempDir()
	webConfig := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(webConfig, []byte("basic_auth: {}\nother: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "data")
	for name, c := range map[string]struct{ arg, want string }{
		"of one flag":             {"--collector.interval=soon", "--collector.interval: "},
		"of two flags":            {"--collector.failure-status=Success", "--collector.failure-status: "},
		"path of two lines":       {"--opper.api-key-file=" + filepath.Join(dir, "two\nlines"), "--opper.api-key-file: "},
		"expression of two lines": {"--collector.trace-name-include=a\n[", "--collector.trace-name-include: "},
		"YAML":                    {"--web.config.file=" + webConfig, "--web.config.file: "},
		"secret in the URL":       {"--opper.url=https://me:" + testKey + "@api.opper.ai", "--opper.url: "},
		"unknown flag":            {"--opper.api-key=" + testKey, "--opper.api-key"},
		"no such file":            {"--opper.api-key-file=" + filepath.Join(dir, "none"), "--opper.api-key-file: "},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{c.arg, "--web.listen-address=127.0.0.1:0", "--storage.path=" + state}
			if !strings.HasPrefix(c.arg, "--opper.url=") {
				args = append(args, "--opper.url="+url)
			}
			// What starts by mistake must end.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var stdout, stderr promtest.Output
			status := run(ctx, args, func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }, &stdout, &stderr)
			text := stderr.String()
			if status != 2 || stdout.String() != "" || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") || !strings.HasPrefix(text, "opper_exporter: error: ") || !strings.Contains(text, c.want) {
				t.Errorf("status %d, stdout %q, stderr %q, want 2 and one line with %q", status, &stdout, text, c.want)
			}
			if strings.Contains(text, testKey) {
				t.Errorf("the key is in %q", text)
			}
		})
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state was written: %v", err)
	}
}

func TestAddressInUseEndsTheProgram(t *testing.T) {
	t.Parallel()
	url := noOpper(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := exportertest.FreeAddress(t)
	for _, args := range [][]string{
		{"--web.listen-address=" + taken.Addr().String()},
		{"--web.listen-address=" + free, "--web.listen-address=" + taken.Addr().String()},
		{"--web.listen-address=" + free, "--web.health-listen-address=" + taken.Addr().String()},
	} {
		flag, _, _ := strings.Cut(args[len(args)-1], "=")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var log promtest.Output
		getenv := func(string) string { return testKey }
		status := run(ctx, append(args, "--opper.url="+url, "--storage.path="+t.TempDir()), getenv, io.Discard, &log)
		cancel()
		if status != 1 || len(log.Lines("level=error")) != 1 || len(log.Lines("level=error", flag+": ", taken.Addr().String())) != 1 {
			t.Errorf("status %d, log:\n%s", status, &log)
		}
		if c, err := net.Dial("tcp", free); err == nil {
			_ = c.Close()
			t.Error("the other address is served")
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, texts := range map[string][]string{
		"--help":    {"usage: opper_exporter", "--opper.api-key-file", "--web.listen-address", "OPPER_API_KEY", "Commands:", "check ", "state copy "},
		"-h":        {"usage: opper_exporter"},
		"--version": {"opper_exporter, version", "go1."},
		"help":      {"usage: opper_exporter", "Commands:"},
	} {
		var stdout, stderr promtest.Output
		status := run(t.Context(), []string{arg}, func(string) string { return "" }, &stdout, &stderr)
		if status != 0 || stderr.String() != "" {
			t.Errorf("%s: status %d, stderr %q", arg, status, &stderr)
		}
		for _, text := range texts {
			if strings.Count(stdout.String(), text) == 0 {
				t.Errorf("%s: no %q in %s", arg, text, &stdout)
			}
		}
		if n := strings.Count(stdout.String(), "usage: "); n > 1 {
			t.Errorf("%s: printed %d times", arg, n)
		}
	}
}

// A check ends with 0 if all is well, 1 if there is a problem and 2 if it cannot be
// made, and writes no state.
func TestExitStatusOfCheck(t *testing.T) {
	t.Parallel()
	opper := oppertest.New(oppertest.Config{Key: testKey})
	now := time.Now()
	opper.Add(oppertest.Trace{ID: "a", Name: new("agent"), Status: new("success"), Start: &now, End: &now})
	server := httptest.NewServer(opper)
	defer server.Close()
	state := filepath.Join(t.TempDir(), "data")
	for name, c := range map[string]struct {
		args           []string
		key            string
		status         int
		stdout, stderr string
	}{
		"healthy":         {[]string{"check"}, testKey, 0, "No problem found.", ""},
		"as JSON":         {[]string{"check", "--json"}, testKey, 0, `"healthy": true`, ""},
		"wrong key":       {[]string{"check"}, "wrong", 1, "Opper refuses the key (401)", "opper_exporter: error: check found a problem\n"},
		"as JSON, wrong":  {[]string{"--json", "check"}, testKey, 2, "", "opper_exporter: error: unknown long flag '--json'"},
		"wrong flag":      {[]string{"check", "--collector.interval=soon"}, testKey, 2, "", "opper_exporter: error: --collector.interval: "},
		"management key":  {[]string{"check"}, "op-mak-" + testKey, 2, "", "opper_exporter: error: OPPER_API_KEY: the key is a management key (op-mak-…), which cannot list traces: expected a project key\n"},
		"no key":          {[]string{"check"}, "", 2, "", "opper_exporter: error: no API key"},
		"unknown command": {[]string{"chekc"}, testKey, 2, "", "opper_exporter: error: expected command but got \"chekc\", did you mean 'check'?\n"},
	} {
		var stdout, stderr promtest.Output
		getenv := func(name string) string { return map[string]string{"OPPER_API_KEY": c.key}[name] }
		status := run(t.Context(), append(c.args, "--opper.url="+server.URL, "--storage.path="+state), getenv, &stdout, &stderr)
		if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.HasPrefix(stderr.String(), c.stderr) || c.stderr == "" && stderr.String() != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", name, status, &stdout, &stderr)
		}
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state was written: %v", err)
	}
}

// A server that ignores its context delays the end by no more than the timeout.
func TestShutdownTimeout(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	serving, never := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- supervise(ctx, func(context.Context) error {
			close(serving)
			<-never
			return nil
		})
	}()
	<-serving
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "shutdown not finished within 8s") {
		t.Errorf("%v", err)
	}
	close(never)
}

// A second signal ends a shutdown that hangs, before its timeout.
func TestSecondSignalEndsTheShutdown(t *testing.T) {
	serving, stopping, never := make(chan struct{}), make(chan struct{}), make(chan struct{})
	defer close(never)
	ended := make(chan error, 1)
	go func() {
		ended <- supervise(t.Context(), func(ctx context.Context) error {
			close(serving)
			<-ctx.Done()
			close(stopping)
			<-never
			return nil
		})
	}()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	<-serving
	if err := self.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-stopping
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != `signal "terminated" during the shutdown` {
		t.Errorf("%v", err)
	}
}
