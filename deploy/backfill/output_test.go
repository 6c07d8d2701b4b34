package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A second run does not remove what the first one writes.
func TestOutputThatAnotherRunWritesTo(t *testing.T) {
	b := newBench(t, 100, 3*day)
	lock, err := createOutput(b.output)
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(b.output, stateDir)
	if err := os.Mkdir(first, 0o755); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := b.run(t.Context()); status != 1 || !strings.Contains(errs, "--output: "+b.output+" can't be locked, another run may write to it: ") {
		t.Errorf("exit status %d\n%s", status, errs)
	}
	if _, err := os.Stat(first); err != nil {
		t.Error(err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	b.mustRun()
}
