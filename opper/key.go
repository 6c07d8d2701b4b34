package opper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// maxKeyFile bounds what is read of a key file, in case it is something else.
const maxKeyFile = 64 << 10

// KeySource is where the API key comes from: FixedKey or KeyFile. Its copies
// share the key. Printed or marshalled in any way it does not reveal it.
type KeySource struct {
	held *heldKey
}

type heldKey struct {
	path string // empty for a fixed key

	mu sync.Mutex
	// Inside unexported fields fmt cannot call String, but it follows one
	// pointer, for a wrong verb. It does not follow two.
	key  *string
	seen os.FileInfo // the file that the key was read from
}

// FixedKey returns a source of this key, without the white space around it. A
// key that is empty, or has anything but visible ASCII characters inside, is an
// error.
func FixedKey(key string) (KeySource, error) {
	key, err := checkKey(key)
	if err != nil {
		return KeySource{}, err
	}
	return KeySource{&heldKey{key: &key}}, nil
}

// KeyFile returns a source that reads the key from a file, without the white
// space around it: now, again when the file changes, and after a 401. A file
// that cannot be read, or holds what FixedKey would not take, is an error now;
// later the last good key stays in use.
func KeyFile(path string) (KeySource, error) {
	held := &heldKey{path: path}
	if err := held.load(); err != nil {
		return KeySource{}, err
	}
	return KeySource{held}, nil
}

// String returns a placeholder.
func (KeySource) String() string { return "<key>" }

// GoString returns a placeholder.
func (KeySource) GoString() string { return "<key>" }

// MarshalText returns a placeholder.
func (KeySource) MarshalText() ([]byte, error) { return []byte("<key>"), nil }

// current returns the key to use now.
func (k KeySource) current() string {
	k.held.mu.Lock()
	defer k.held.mu.Unlock()
	if info, err := k.held.stat(); err == nil && !sameFile(info, k.held.seen) {
		_ = k.held.load()
	}
	return *k.held.key
}

// renew reads the file again, whatever its times say, and returns the key to
// use now.
func (k KeySource) renew() string {
	k.held.mu.Lock()
	defer k.held.mu.Unlock()
	if _, err := k.held.stat(); err == nil {
		_ = k.held.load()
	}
	return *k.held.key
}

// stat tells whether there is a file that can be read again: reading a pipe
// twice would block.
func (h *heldKey) stat() (os.FileInfo, error) {
	info, err := os.Stat(h.path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	return info, err
}

// load sets the key only if all goes well, so that a bad file is looked at
// again the next time.
func (h *heldKey) load() error {
	f, err := os.Open(h.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	// Taken before reading: a change meanwhile shows up later as a difference.
	info, err := f.Stat()
	if err != nil {
		return err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return err
	}
	key, err := checkKey(string(content))
	if err != nil {
		return fmt.Errorf("%s: %w", h.path, err)
	}
	h.key, h.seen = &key, info
	return nil
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func checkKey(key string) (string, error) {
	key = strings.TrimSpace(key)
	if key == "" {
		return "", errors.New("the key is empty")
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("the key has a line break, a blank, or a character that is not visible ASCII inside")
	}
	return key, nil
}
