package promtest

import (
	"bytes"
	"io/fs"
	"path/filepath"
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

// DependOnSources makes a test depend on all files of the project. A test that
// only runs what it builds needs it: go test takes a cached result for good
// while nothing has changed that the test imports or looks at.
func DependOnSources(t testing.TB) {
	t.Helper()
	dir, err := projectDir()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir && d.Name()[0] == '.' {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
