package opper

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
)

// maxKeyFile bounds the size of a key file, in case it is something else.
const maxKeyFile = 4 << 10

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
	key    *string
	seen   os.FileInfo // the file that the key was read from
	shared *sharedKeys // nil if any other source may have the same key
}

// FixedKey returns a source of this key, without the white space around it. A
// key that is empty, stands in quotes or behind a name, has anything but visible
// ASCII characters inside, or is one that manages an organization, is an error.
func FixedKey(key string) (KeySource, error) {
	key, err := checkKey(key)
	if err != nil {
		return KeySource{}, err
	}
	return KeySource{&heldKey{key: &key}}, nil
}

// KeyFile returns a source that reads the key from a file, without the white
// space around it: now, again when the file changes, and after a 401. It must be
// a regular file of at most 4 kB: a pipe can't be read twice, and may block. A
// file that cannot be read, or holds what FixedKey would not take, is an error
// now, the path and a wrapped reason; later the last good key stays in use.
func KeyFile(path string) (KeySource, error) {
	held := &heldKey{path: path}
	if err := held.load(); err != nil {
		if failed, ok := errors.AsType[*os.PathError](err); ok {
			err = failed.Err
		}
		return KeySource{}, fmt.Errorf("%s: %w", path, err)
	}
	return KeySource{held}, nil
}

// String returns a placeholder.
func (KeySource) String() string { return "<key>" }

// GoString returns a placeholder.
func (KeySource) GoString() string { return "<key>" }

// MarshalText returns a placeholder.
func (KeySource) MarshalText() ([]byte, error) { return []byte("<key>"), nil }

// Sum returns a hash of the key, to find out that two are equal.
func (k KeySource) Sum() [sha256.Size]byte { return sha256.Sum256([]byte(k.current())) }

// Mark returns a few digits that tell the key with these headers, which may choose its
// project, from others; none without a key. They may be stored, as they say too little to
// find the key.
func (k KeySource) Mark(header http.Header) string {
	if k.held == nil {
		return ""
	}
	text := k.current()
	if len(header) > 0 {
		text += fmt.Sprintf("\n%q", header)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// current returns the key to use now.
func (k KeySource) current() string {
	k.held.mu.Lock()
	defer k.held.mu.Unlock()
	if info, err := os.Stat(k.held.path); err == nil && !sameFile(info, k.held.seen) {
		_ = k.held.load()
	}
	return *k.held.key
}

// renew reads the file again, whatever its times say, and returns the key to
// use now.
func (k KeySource) renew() string {
	k.held.mu.Lock()
	defer k.held.mu.Unlock()
	if k.held.path != "" {
		_ = k.held.load()
	}
	return *k.held.key
}

// load sets the key only if all goes well, so that a bad file is read
// again the next time.
func (h *heldKey) load() error {
	f, err := os.OpenFile(h.path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	// Taken before reading: a change meanwhile shows up later as a difference.
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return err
	}
	if len(content) > maxKeyFile {
		return fmt.Errorf("more than %d bytes", maxKeyFile)
	}
	key, err := checkKey(string(content))
	if err != nil {
		return err
	}
	if h.shared != nil {
		if err := h.shared.take(h, key); err != nil {
			return err
		}
	}
	h.key, h.seen = &key, info
	return nil
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// assignment is a line of a shell script, or of an env, INI or YAML file, or a header.
var assignment = regexp.MustCompile(`^((export|set)\s+)?\w+\s*[=:]\s*\S|^(Bearer|[A-Z_]+)\s`)

// wrapped is a key in JSON, in place of a placeholder, or in a list.
var wrapped = regexp.MustCompile(`^[{<[(]|[}>\]),;]$`)

func checkKey(key string) (string, error) {
	key = strings.TrimSpace(key)
	if key == "" {
		return "", errors.New("the key is empty")
	}
	if assignment.MatchString(key) {
		return "", errors.New("the key follows a name, as in OPPER_API_KEY=..., expected the key alone")
	}
	switch {
	case strings.Trim(key, "\"'`") != key:
		return "", errors.New("the key is in quotes, expected the key alone")
	case wrapped.MatchString(key):
		return "", errors.New("the key is in brackets or a list, expected the key alone")
	case strings.HasPrefix(key, "$"):
		return "", errors.New("the key is the name of a variable, expected the key alone")
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("the key contains whitespace or a character that is not visible ASCII")
	}
	if strings.HasPrefix(key, "op-mak-") {
		return "", errors.New("the key is a management key (op-mak-…), which cannot list traces: expected a project key")
	}
	return key, nil
}
