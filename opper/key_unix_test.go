//go:build unix

package opper

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A pipe without a writer would block the start, or every request.
func TestKeyFileIsNoPipe(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, os.DevNull, "/dev/zero"} {
		if _, err := KeyFile(path); err == nil || err.Error() != path+": not a regular file" {
			t.Errorf("got %v, want that %s is not a regular file", err, path)
		}
	}
	path := filepath.Join(dir, "key")
	writeKey(t, path, "key\n", time.Unix(1, 0))
	source, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(pipe, path); err != nil {
		t.Fatal(err)
	}
	if got, again := source.current(), source.renew(); got != "key" || again != got {
		t.Errorf("got %q and %q, want the last good key", got, again)
	}
	writer, err := os.OpenFile(path, os.O_RDWR, 0) // holds the pipe open, and writes nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	if got, again := source.current(), source.renew(); got != "key" || again != got {
		t.Errorf("got %q and %q, want the last good key", got, again)
	}
}
