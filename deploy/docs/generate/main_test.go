package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the documentation says of flags and metrics is what the program says.
func TestDocumentationIsGenerated(t *testing.T) {
	dir := ".."
	// Reading them keeps go test from taking a cached result when the program has
	// changed.
	readSources(t, filepath.Join("..", "..", ".."))
	generated, err := generate(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range generated {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the program says: run go run ./deploy/docs/generate\n%s", name, firstDifference(got, want))
		}
	}
}

func TestFillRefusesWhatDoesNotFit(t *testing.T) {
	for name, content := range map[string]string{
		"unknown block": begin + "other -->\n" + end,
		"no end":        begin + "flags -->\n",
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := fill([]byte(content), map[string]string{"flags": "x\n"}); err == nil {
				t.Errorf("no error, but %q", out)
			}
		})
	}
}

// firstDifference returns the first line in which two texts differ.
func firstDifference(got, want []byte) string {
	lines := strings.Split(string(got), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(lines) || lines[i] != line {
			return "want " + line
		}
	}
	return ""
}

func readSources(t *testing.T, root string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "*/*.go", "*/*/*.go"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}
