package binary_test

import (
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

// exporter is a process of the exporter. Unless a test has checked its exit
// status, it must end with status 0 when the test ends.
type exporter struct {
	*exportertest.Process
	t       *testing.T
	urls    []string
	client  *http.Client
	checked bool // the exit status
}

func withKey() map[string]string { return map[string]string{"OPPER_API_KEY": testKey} }

// command is what starts the exporter with these variables and no others that
// it reads.
func command(t *testing.T, env map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(exportertest.CheckedBinary(t), args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OPPER_") })
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

func withDefaults(args []string, defaults ...string) []string {
	for _, d := range defaults {
		name, _, _ := strings.Cut(d, "=")
		if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") }) {
			args = append(args, d)
		}
	}
	return args
}

// launch starts the exporter with its standard error going to stderr or, if that
// is nil, to its Log.
func launch(t *testing.T, stderr *os.File, env map[string]string, args ...string) *exporter {
	t.Helper()
	cmd := command(t, env, withDefaults(args,
		"--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--opper.max-requests-per-second-total=0", "--collector.interval=25ms", "--log.level=debug",
		"--storage.path="+t.TempDir())...)
	if stderr != nil {
		cmd.Stderr = stderr
	}
	e := &exporter{
		t: t, Process: exportertest.MustStart(t, cmd),
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}},
	}
	t.Cleanup(func() {
		if !e.checked {
			e.end()
		}
		noLeak(t, "the log", e.Log.String())
		if len(e.Log.Lines("WARNING: DATA RACE")) > 0 {
			t.Error("the race detector has found a race")
		}
	})
	return e
}

// start starts the exporter and waits until it listens, on one address for each
// --web.listen-address.
func start(t *testing.T, env map[string]string, args ...string) *exporter {
	t.Helper()
	e := launch(t, nil, env, args...)
	want := max(1, len(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return !strings.HasPrefix(a, "--web.listen-address=") })))
	await(t, "the exporter listens", func() bool {
		e.MustRun(t)
		return len(exportertest.Addresses(e.Log.String())) == want
	})
	for _, address := range exportertest.Addresses(e.Log.String()) {
		e.urls = append(e.urls, "http://"+address)
	}
	return e
}

// startReady is start with the usual key, up to the end of the initial sync.
func startReady(t *testing.T, url string, args ...string) *exporter {
	t.Helper()
	e := start(t, withKey(), append(args, "--opper.url="+url)...)
	e.awaitReady()
	return e
}

// startUnlogged is startReady with a log that the test does not read.
func startUnlogged(t *testing.T, stderr *os.File, url string, args ...string) *exporter {
	t.Helper()
	address := exportertest.FreeAddress(t)
	e := launch(t, stderr, withKey(), append(args, "--opper.url="+url, "--web.listen-address="+address)...)
	e.urls = []string{"http://" + address}
	await(t, "the exporter listens", func() bool {
		e.MustRun(t)
		_, err := fetch(t, e.client, e.urls[0])
		return err == nil
	})
	e.awaitReady()
	return e
}

func (e *exporter) awaitReady() {
	e.t.Helper()
	await(e.t, "ready", func() bool { return e.get("/-/ready").code == http.StatusOK })
}

func (e *exporter) signal(s os.Signal) {
	e.t.Helper()
	if err := e.Cmd.Process.Signal(s); err != nil {
		e.t.Fatal(err)
	}
}

// end stops the exporter, which must end with status 0.
func (e *exporter) end() {
	e.t.Helper()
	_ = e.Cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	e.wantExit(0)
}

// wantExit fails the test unless the exporter ends with the status.
func (e *exporter) wantExit(status int) {
	e.t.Helper()
	e.checked = true
	await(e.t, "the process ends", e.HasEnded)
	if got := e.Cmd.ProcessState.ExitCode(); got != status {
		e.t.Errorf("%v, want status %d", e.Cmd.ProcessState, status)
	}
}

// wantFailure fails the test unless the exporter ends with status 1 and one error
// in the log, which holds the texts.
func (e *exporter) wantFailure(texts ...string) {
	e.t.Helper()
	e.wantExit(1)
	if errs := e.Log.Lines("level=error"); len(errs) != 1 || len(e.Log.Lines(append(texts, "level=error", "msg=stopped")...)) != 1 {
		e.t.Errorf("errors %q, want one with %q", errs, texts)
	}
	if !strings.HasSuffix(e.Log.String(), "\n") || len(e.Log.Lines("goroutine ")) > 0 {
		e.t.Error("the log ends in a crash")
	}
}
