package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

// child is the program in a process of its own.
type child struct {
	*exportertest.Process
	t *testing.T
}

// spawn starts the program with its standard error going to w, or if that is nil
// to the log of the child.
func spawn(t *testing.T, w *os.File, url string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = withDefaults(args, "--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--collector.interval=25ms",
		"--collector.settle-delay=0s", "--storage.path="+t.TempDir(), "--opper.url="+url)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "OPPER_API_KEY="+testKey)
	if w != nil {
		cmd.Stderr = w
	}
	c := &child{t: t, Process: exportertest.MustStart(t, cmd)}
	t.Cleanup(func() {
		c.Kill()
		noLeak(t, "the log", c.Log.String())
	})
	return c
}

// url returns where a child listens, once it has something to show.
func (c *child) url() string {
	c.t.Helper()
	await(c.t, "the initial sync", func() bool {
		c.MustRun(c.t)
		return len(exportertest.Addresses(c.Log.String())) > 0 && len(c.Log.Lines("initial sync complete"))+len(c.Log.Lines("state restored")) > 0
	})
	return "http://" + exportertest.Addresses(c.Log.String())[0]
}

func (c *child) awaitReady(address string) {
	c.t.Helper()
	await(c.t, "ready", func() bool {
		c.MustRun(c.t)
		p, err := fetch(c.t, http.DefaultClient, "http://"+address+"/-/ready")
		return err == nil && p.code == http.StatusOK
	})
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	if err := c.Cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// wantExit fails the test unless the child ends with the status.
func (c *child) wantExit(status int) {
	c.t.Helper()
	await(c.t, "the process ends", c.HasEnded)
	if got := c.Cmd.ProcessState.ExitCode(); got != status {
		c.t.Errorf("%v, want status %d", c.Cmd.ProcessState, status)
	}
}

// wantFailure fails the test unless the child ends with status 1 and one line
// that holds the texts.
func (c *child) wantFailure(texts ...string) {
	c.t.Helper()
	c.wantExit(1)
	if errs := c.Log.Lines("level=error"); len(errs) != 1 || len(c.Log.Lines(append(texts, "level=error", "msg=stopped")...)) != 1 {
		c.t.Errorf("errors %q, want one with %q", errs, texts)
	}
	if !strings.HasSuffix(c.Log.String(), "\n") || len(c.Log.Lines("goroutine ")) > 0 {
		c.t.Error("the log ends in a crash")
	}
}
