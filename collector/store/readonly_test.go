package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestOpenReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := OpenReadOnly(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	if err := s.Commit("p", map[string][]byte{"key": []byte("body")}, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if found, err := r.Load("p", func(key string, body []byte) error { got += key + string(body); return nil }); !found || err != nil || got != "keybody" {
		t.Errorf("got %q, %t, %v", got, found, err)
	}
	if err := r.CopyTo(filepath.Join(dir, "copy")); err != nil {
		t.Errorf("copy: %v", err)
	}
	if err := r.Commit("p", map[string][]byte{"key": []byte("other")}, false); err == nil {
		t.Error("a commit succeeded")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	another := filepath.Join(dir, "another name")
	if err := os.Rename(filepath.Join(dir, "copy", fileName), another); err != nil {
		t.Fatal(err)
	}
	copied, err := OpenFileReadOnly(another)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := copied.Load("p", func(string, []byte) error { return nil }); !found || err != nil {
		t.Errorf("the copy: %t, %v", found, err)
	}
	if err := copied.Close(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(dir, fileName)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty file: %v", err)
	}
}
