package store

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// residentKB returns how much of a mapped file is in memory.
func residentKB(t *testing.T, path string) (kB int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(maps), path)
	_, rest, hasSize := strings.Cut(rest, "\nRss:")
	if !found || !hasSize {
		t.Fatalf("%s is not mapped", path)
	}
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB
}

// The state of many projects is on disk, not in memory.
func TestPagesDoNotStayInMemory(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // nothing is committed after what is checked
	body := bytes.Repeat([]byte("x"), 1000)
	for i := range 3 {
		changes := map[string][]byte{}
		for j := range 300 {
			changes[fmt.Sprint(i, "-", j)] = body
		}
		if err := s.Commit("project", changes, false); err != nil {
			t.Fatal(err)
		}
		if kB := residentKB(t, s.Path()); kB > 0 {
			t.Errorf("%d kB stay in memory after a commit", kB)
		}
	}
	entries := 0
	if _, err := s.Load("project", func(_ string, got []byte) error {
		if !bytes.Equal(got, body) {
			t.Error("another body")
		}
		entries++
		return nil
	}); err != nil || entries != 900 {
		t.Fatalf("%d entries, error %v", entries, err)
	}
	if kB := residentKB(t, s.Path()); kB > 0 {
		t.Errorf("%d kB stay in memory after a load", kB)
	}
}
