package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// What an output directory holds.
const (
	stateDir       = "state"
	scratchDir     = "scratch" // a copy of the state, while it is read
	blocksDir      = "blocks"
	openMetricsDir = "openmetrics"
	unfinishedFile = "unfinished" // there until all is whole, and locked while a run writes
)

// createOutput makes the output directory and locks it. What an earlier run has left there
// unfinished is removed; anything else is refused, and so is what another run writes to.
func createOutput(dir string) (lock fileutil.Releaser, err error) {
	if data, err := dataDirectory(dir); err != nil || data != "" {
		return nil, cmp.Or(err, fmt.Errorf("%s is in the data directory %s of a server: expected a directory beside it", dir, data))
	}
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case len(entries) > 0 && !isUnfinished(dir):
		return nil, fmt.Errorf("%s is not empty: expected a new directory", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server may run as another user
		return nil, err
	}
	if lock, _, err = fileutil.Flock(filepath.Join(dir, unfinishedFile)); err != nil {
		return nil, fmt.Errorf("%s can't be locked, another run may write to it: %w", dir, err)
	}
	for _, name := range []string{scratchDir, stateDir, blocksDir, openMetricsDir} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return nil, errors.Join(err, lock.Release())
		}
	}
	return lock, nil
}

// dataDirectory returns the data directory of a server that a path is in, if it is in one.
func dataDirectory(path string) (string, error) {
	path, err := filepath.Abs(path)
	for inner := ""; err == nil && path != inner; path, inner = filepath.Dir(path), path {
		if target, err := filepath.EvalSymlinks(path); err == nil { // the last ones do not exist yet
			path = target
		}
		if isDataDirectory(path) {
			return path, nil
		}
	}
	return "", err
}

// isDataDirectory reports whether a server has written into a directory: a head, a log, a
// lock or a block.
func isDataDirectory(dir string) bool {
	for _, pattern := range []string{"chunks_head", "wal", "queries.active", strings.Repeat("?", len(ulid.ULID{}.String())) + "/meta.json"} {
		if found, _ := fs.Glob(os.DirFS(dir), pattern); len(found) > 0 { // no pattern is malformed
			return true
		}
	}
	return false
}

func isUnfinished(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, unfinishedFile))
	return err == nil
}

// finishOutput takes in that all in the output directory is whole.
func finishOutput(dir string, lock fileutil.Releaser) error {
	// Windows removes no file that is open.
	return cmp.Or(syncDir(dir), lock.Release(), os.Remove(filepath.Join(dir, unfinishedFile)), syncDir(dir))
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
