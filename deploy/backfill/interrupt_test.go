package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// An interrupt while the list is read leaves nothing that could be taken for a history, and
// the same command starts over.
func TestInterruptWhileReading(t *testing.T) {
	b := newBench(t, 2_000, 3*day)
	// No answer comes before the signal has taken effect, and there is only one.
	interrupt := sync.OnceFunc(func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGTERM) })
	b.opper.Fail(oppertest.Fault{Match: func(r oppertest.Request) bool { return r.Offset >= 1_000 }, Times: -1, Answer: func(w http.ResponseWriter, r *http.Request, honest []byte) {
		interrupt()
		oppertest.Hang(w, r, honest)
	}})
	status, out, errs := b.run(t.Context())
	if status != 1 || out != "" || !strings.HasSuffix(errs, program+": error: interrupted: "+b.output+" is unfinished, and the same command starts over\n") {
		t.Errorf("exit status %d, printed %q\n%s", status, out, errs)
	}
	if got := strings.Join(b.files("."), " "); got != "state unfinished" {
		t.Errorf("the output has %s", got)
	}
	b.opper.Clear()
	b.mustRun()
	if got := strings.Join(b.files("."), " "); got != "blocks state" {
		t.Errorf("the output has %s", got)
	}
	if status, _, _ := b.run(t.Context()); status != 1 {
		t.Error("a finished output was replaced")
	}
}

// One while the history is written leaves whole blocks only.
func TestInterruptWhileWriting(t *testing.T) {
	b := newBench(t, 2_000, 14*day)
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if entries, _ := os.ReadDir(filepath.Join(b.output, blocksDir)); len(entries) > 5 {
				interrupt()
				return
			}
		}
	}()
	status, _, errs := b.run(ctx, "--step=10s")
	<-done
	if status != 1 || !strings.Contains(errs, "is unfinished, and the same command starts over") {
		t.Errorf("exit status %d\n%s", status, errs)
	}
	if got := strings.Join(b.files("."), " "); got != "blocks state unfinished" {
		t.Errorf("the output has %s", got)
	}
	left := b.blocks()
	if len(left) == 0 || len(left) > 150 {
		t.Errorf("%d blocks are left", len(left))
	}
	b.mustRun()
	if n := len(b.blocks()); n < 164 || n > 169 {
		t.Errorf("%d blocks", n)
	}
}
