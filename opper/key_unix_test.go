//go:build unix

package opper

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Reading a pipe that nobody writes to would block every request.
func TestPipeIsReadOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(path, []byte("from-pipe\n"), 0o600) }()
	source, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got, again := source.current(), source.renew(); got != "from-pipe" || again != got {
		t.Errorf("got %q and %q, want what the pipe gave", got, again)
	}
}
