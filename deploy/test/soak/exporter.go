package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

const (
	goodKey  = "soak-good-key-9f2c"
	wrongKey = "soak-wrong-key-31ab"
	// grace is longer than the exporter may take to end.
	grace = 30 * time.Second
)

// exporter is the process under test, one after the other with the same state.
type exporter struct {
	*settings
	world    *world
	promises *promises
	timeline *timeline
	log      *os.File

	mu       sync.Mutex
	cmd      *exec.Cmd
	ended    chan struct{} // closed when the process has
	expected bool          // that it ends
	life     int           // 1 for the first process
	changes  int           // of what it does: starts, kills, stops
	changed  time.Time     // when the last of these was
	paused   bool
	address  string
	line     []byte // what is not yet a whole line of the log
	lastErr  string
}

func newExporter(s *settings, w *world, p *promises, tl *timeline) (*exporter, error) {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	x := &exporter{settings: s, world: w, promises: p, timeline: tl, log: log}
	return x, x.setKey(goodKey)
}

// setKey changes the API key, as a secret that is rotated is changed.
func (x *exporter) setKey(key string) error {
	next := filepath.Join(x.dir, "key.next")
	if err := os.WriteFile(next, []byte(key+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(x.dir, "key"))
}

func (x *exporter) start() error {
	s := x.settings
	// As many requests for each trace, however short the soak is.
	rate := 10 * float64(time.Hour) / float64(s.scaled(time.Hour))
	usageInterval := max(s.scaled(time.Minute), shortestUsage)
	if x.world.usage == nil {
		usageInterval = 0
	}
	cmd := exec.CommandContext(context.Background(), x.binary, //nolint:gosec // built by us, or named by the user
		"--opper.url="+x.world.url, "--opper.api-key-file="+filepath.Join(x.dir, "key"),
		"--web.listen-address=127.0.0.1:0", "--storage.path="+filepath.Join(x.dir, "data"),
		fmt.Sprintf("--opper.max-requests-per-second=%.0f", rate),
		"--opper.timeout="+max(s.scaled(10*time.Second), time.Second).String(),
		"--collector.interval="+s.scaled(interval).String(), "--collector.settle-delay="+s.scaled(settleDelay).String(),
		"--collector.sweep-interval="+s.scaled(sweepInterval).String(), "--collector.abandon-after="+s.scaled(abandonAfter).String(),
		"--collector.usage-interval="+usageInterval.String(), "--collector.max-trace-names=500")
	cmd.Stderr = x
	cmd.Stdout = x.log
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	x.cmd, x.ended, x.expected, x.address, x.line = cmd, ended, false, "", nil
	x.life++
	x.paused = false
	x.touch()
	go func() {
		_ = cmd.Wait() // its state says the same
		x.mu.Lock()
		expected, last := x.expected, x.lastErr
		x.touch()
		x.mu.Unlock()
		close(ended)
		if !expected {
			x.promises.offend("exit", "the exporter ended by itself (%s); its last error: %s", cmd.ProcessState, last)
		}
	}()
	return nil
}

// failed finds what an error is about.
var failed = regexp.MustCompile(`level=error .*?(msg=.*)`)

// Write implements io.Writer: it takes the log.
func (x *exporter) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.line = append(x.line, b...)
	for {
		line, rest, whole := bytes.Cut(x.line, []byte("\n"))
		if !whole {
			break
		}
		x.read(string(line))
		x.line = rest
	}
	return x.log.Write(b)
}

func (x *exporter) read(line string) {
	if address, ok := exportertest.Address(line); ok {
		x.address = address
	}
	if found := failed.FindStringSubmatch(line); found != nil {
		x.lastErr = found[1]
	}
	for _, secret := range secrets {
		if strings.Contains(line, secret) {
			x.promises.offend("privacy", "the log holds %q", secret)
		}
	}
	if strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic:") {
		x.promises.offend("log", "%s", line)
	}
}

var secrets = []string{oppertest.Secret, goodKey, wrongKey}

func (x *exporter) touch() { x.changes, x.changed = x.changes+1, time.Now() }

// view is what is known of the process at one time.
type view struct {
	address string // "" while it does not listen
	life    int
	changes int // another number means that something was done to it
	changed time.Time
	paused  bool
	lastErr string
}

func (x *exporter) view() view {
	x.mu.Lock()
	defer x.mu.Unlock()
	return view{x.address, x.life, x.changes, x.changed, x.paused, x.lastErr}
}

func (x *exporter) signal(s syscall.Signal) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.touch()
	x.paused = s == syscall.SIGSTOP
	_ = x.cmd.Process.Signal(s) // an error says that it has ended, which is noticed
}

// end ends the process with a signal. It is killed if it does not end.
func (x *exporter) end(s syscall.Signal) {
	x.mu.Lock()
	x.expected, x.address = true, ""
	ended, cmd := x.ended, x.cmd
	x.mu.Unlock()
	x.signal(s)
	select {
	case <-ended:
	case <-time.After(grace):
		x.promises.offend("exit", "the exporter did not end within %s of %s", grace, s)
		x.signal(syscall.SIGKILL)
		<-ended
	}
	if s == syscall.SIGTERM && !cmd.ProcessState.Success() {
		x.promises.offend("exit", "after SIGTERM the exporter ended with %s", cmd.ProcessState)
	}
}

// revive starts the exporter again if it has ended by itself.
func (x *exporter) revive() error {
	x.mu.Lock()
	ended, expected := x.ended, x.expected
	x.mu.Unlock()
	select {
	case <-ended:
		if !expected {
			return x.start()
		}
	default:
	}
	return nil
}

// finish stops the exporter and looks at what it leaves.
func (x *exporter) finish() {
	x.end(syscall.SIGTERM)
	state, err := os.ReadFile(filepath.Join(x.dir, "data", "opper_exporter.db"))
	if err != nil {
		x.promises.offend("state", "%v", err)
	}
	for _, secret := range secrets {
		if bytes.Contains(state, []byte(secret)) {
			x.promises.offend("privacy", "the state holds %q", secret)
		}
	}
}

func (x *exporter) close() {
	x.mu.Lock()
	x.expected = true
	cmd, ended := x.cmd, x.ended
	x.mu.Unlock()
	if cmd != nil {
		if err := cmd.Process.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
			<-ended
		}
	}
	_ = x.log.Close() // nothing more is written
}
