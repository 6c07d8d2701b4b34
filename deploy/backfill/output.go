package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// What an output directory holds.
const (
	stateDir       = "state"
	scratchDir     = "scratch" // a copy of the state, while it is read
	blocksDir      = "blocks"
	openMetricsDir = "openmetrics"
	unfinishedFile = "unfinished" // there until all is whole
)

// createOutput makes the output directory. What an earlier run has left there unfinished is
// removed; anything else is refused.
func createOutput(dir string) error {
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(entries) > 0 && !isUnfinished(dir):
		return fmt.Errorf("%s is not empty: expected a new directory", dir)
	}
	for _, name := range []string{scratchDir, stateDir, blocksDir, openMetricsDir} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server may run as another user
		return err
	}
	return os.WriteFile(filepath.Join(dir, unfinishedFile), []byte("opper_backfill failed, was interrupted, or is still running. Run it again with the same --output: it starts over.\n"), 0o600)
}

func isUnfinished(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, unfinishedFile))
	return err == nil
}

// finishOutput takes in that all in the output directory is whole.
func finishOutput(dir string) error {
	return cmp.Or(syncDir(dir), os.Remove(filepath.Join(dir, unfinishedFile)), syncDir(dir))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // which can't
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return cmp.Or(d.Sync(), d.Close())
}
