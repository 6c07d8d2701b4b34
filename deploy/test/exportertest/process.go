package exportertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
)

const (
	// patience is far above what any awaited condition needs, however busy the
	// machine is.
	patience = 5 * time.Minute
	// minPoll is short because programs measure with it how long a start takes. What
	// takes long to come is asked for less often.
	minPoll, maxPoll = 5 * time.Millisecond, 100 * time.Millisecond
	// maxLogged is how much of its log a test that fails shows, in bytes.
	maxLogged = 20_000
)

// Process is an exporter that was started, or a command that starts one.
type Process struct {
	Cmd *exec.Cmd
	// Log is what it prints to those of its outputs that were not set.
	Log   promtest.Output
	ended chan struct{}
}

// Command returns a command that runs a binary against the Opper at url, on a free
// port and without a limit on requests.
func Command(binary, url string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{ //nolint:gosec,noctx // built by the caller; ended by Kill or Stop
		"--opper.url=" + url, "--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--opper.max-requests-per-second-total=0",
	}, args...)...)
	cmd.Env = append(os.Environ(), "OPPER_API_KEY=key")
	return cmd
}

// Start runs a command.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{Cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.Log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.Log
	}
	// A grandchild may outlive it and hold the outputs open.
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // the state of the process says the same and more
		close(p.ended)
	}()
	return p, nil
}

// MustStart runs a command, which is killed if it still runs at the end of the
// test.
func MustStart(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	promtest.DependOnSources(t)
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			text := p.Log.String()
			t.Logf("%s: %v, the end of its log:\n%s", cmd, cmd.ProcessState, text[max(0, len(text)-maxLogged):])
		}
	})
	return p
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// HasEnded reports whether the process has ended.
func (p *Process) HasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// MustRun fails the test if the process has ended.
func (p *Process) MustRun(t testing.TB) {
	t.Helper()
	if p.HasEnded() {
		t.Fatalf("%s has ended: %v", p.Cmd, p.Cmd.ProcessState)
	}
}

// Kill ends the process with SIGKILL, unless it has ended, and waits for that.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // an error says that it has ended
	<-p.ended
}

// Terminate ends the process as an operator does. It returns an error unless the
// exit status is 0.
func (p *Process) Terminate() error {
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.ended
	if !p.Cmd.ProcessState.Success() {
		return fmt.Errorf("ended with %v", p.Cmd.ProcessState)
	}
	return nil
}

// Stop fails the test if Terminate fails.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if err := p.Terminate(); err != nil {
		t.Error(err)
	}
}

var listening = regexp.MustCompile(`address=(\S+)|"address":"([^"]+)"`)

// Addresses returns the addresses in a log, of those that the exporter listens on.
func Addresses(log string) (found []string) {
	for line := range strings.Lines(log) {
		if match := listening.FindStringSubmatch(line); match != nil && strings.Contains(line, `"Listening on"`) {
			found = append(found, match[1]+match[2])
		}
	}
	return found
}

// Address returns the first of the addresses in a log, once there is one.
func Address(log string) (string, bool) {
	if found := Addresses(log); len(found) > 0 {
		return found[0], true
	}
	return "", false
}

// Address returns where the process listens, once it does.
func (p *Process) Address() (string, bool) { return Address(p.Log.String()) }

var health = regexp.MustCompile(`msg="serving health checks" address=(\S+)`)

// AwaitHealthAddress waits until the process serves health checks on a listener of
// their own, and returns the address.
func (p *Process) AwaitHealthAddress(t testing.TB) string {
	t.Helper()
	return health.FindStringSubmatch(p.AwaitLog(t, "serving health checks"))[1]
}

// Await returns nil as soon as the condition does. It returns an error when ctx is
// done, and when the process has ended.
func (p *Process) Await(ctx context.Context, condition func() error) error {
	began := time.Now()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: %v\n%s", p.Cmd, p.Cmd.ProcessState, &p.Log)
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		case <-time.After(min(max(time.Since(began)/50, minPoll), maxPoll)):
		}
	}
}

func (p *Process) mustAwait(t testing.TB, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Await(ctx, condition); err != nil {
		t.Fatal(err)
	}
}

// Listening waits until the process listens, and returns the address.
func (p *Process) Listening(ctx context.Context) (string, error) {
	var address string
	err := p.Await(ctx, func() error {
		var ok bool
		if address, ok = p.Address(); !ok {
			return errors.New("no address in the log")
		}
		return nil
	})
	return address, err
}

// Ready waits until the process is ready, and returns the address.
func (p *Process) Ready(ctx context.Context) (string, error) {
	address, err := p.Listening(ctx)
	if err != nil {
		return "", err
	}
	return address, p.Await(ctx, func() error {
		resp, err := get(ctx, http.DefaultClient, "http://"+address+"/-/ready")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		_, err = io.Copy(io.Discard, resp.Body)  // so that the connection serves again
		return err
	})
}

// AwaitListening waits until the process listens, and returns the address.
func (p *Process) AwaitListening(t testing.TB) string {
	t.Helper()
	return await(t, p.Listening)
}

// AwaitReady waits until the process is ready, and returns the address.
func (p *Process) AwaitReady(t testing.TB) string {
	t.Helper()
	return await(t, p.Ready)
}

func await(t testing.TB, f func(context.Context) (string, error)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address, err := f(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// AwaitLog waits for a line of the log that holds all texts, and returns it.
func (p *Process) AwaitLog(t testing.TB, texts ...string) (line string) {
	t.Helper()
	p.mustAwait(t, func() error {
		lines := p.Log.Lines(texts...)
		if len(lines) == 0 {
			return fmt.Errorf("no line with %q", texts)
		}
		line = lines[0]
		return nil
	})
	return line
}
