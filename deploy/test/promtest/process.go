package promtest

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Output is what a process or a logger has written so far. It may be read while
// it is written.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String returns all that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Lines returns the lines that contain all texts.
func (o *Output) Lines(texts ...string) []string { return o.LinesSince(0, texts...) }

// LinesSince returns the lines that contain all texts, from an offset on.
func (o *Output) LinesSince(from int, texts ...string) (found []string) {
	for line := range strings.Lines(o.String()[from:]) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			found = append(found, line)
		}
	}
	return found
}

// DependOnSources makes a test depend on all files of the project. A test that
// only runs what it builds needs it: go test takes a cached result for good
// while nothing has changed that the test imports or looks at.
func DependOnSources(t testing.TB) {
	t.Helper()
	if err := lookAtSources(); err != nil {
		t.Fatal(err)
	}
}

// lookAtSources does it once: go test takes down what the process looks at.
var lookAtSources = sync.OnceValue(func() error {
	dir, err := ProjectDir()
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir && d.Name()[0] == '.' {
			return fs.SkipDir
		}
		return err
	})
})
