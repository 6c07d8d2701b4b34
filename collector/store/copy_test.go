package store

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A copy holds what was committed last, whatever is committed meanwhile, and can
// be used as a state.
func TestCopiesAreCommits(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	rng := rand.New(rand.NewPCG(31, 1))
	models := []state{nil}
	var mu sync.Mutex // models
	var commits sync.WaitGroup
	commits.Go(func() {
		for i := range 60 {
			changes := randomChanges(rng, 40)
			mu.Lock()
			models = append(models, merge(models[len(models)-1], changes, i%9 == 8))
			mu.Unlock()
			if err := s.Commit("p", changes, i%9 == 8); err != nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		mu.Lock()
		minimum := len(models) - 2 // the last one may be on its way
		mu.Unlock()
		file, err := s.OpenCopy()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(file)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, fileName), string(content))
		copied := mustOpen(t, dir)
		got, err := load(copied, "p")
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		held := -1
		for i, model := range models {
			if equal(got, model) {
				held = i
			}
		}
		mu.Unlock()
		if held < minimum {
			t.Fatalf("the copy holds commit %d, want %d or later", held, minimum)
		}
		more := randomChanges(rand.New(rand.NewPCG(32, 1)), 3)
		mustCommit(t, copied, "p", more, false)
		want(t, copied, "p", merge(got, more, false))
	}
	commits.Wait()
	if left, err := filepath.Glob(s.path + ".*"); len(left) > 0 || err != nil {
		t.Errorf("left %v, %v", left, err)
	}
}

// A copy of a file that was damaged or lost is an error, and leaves nothing.
func TestCopyOfLostFile(t *testing.T) {
	for text, lose := range map[string]func(path string) error{
		"was removed while it was in use": os.Remove,
		"is damaged (": func(path string) error {
			return patch(path, int64(lastPage(t, path))*4096+40, []byte("damage"))
		},
	} {
		t.Run(text, func(t *testing.T) {
			s, _, _ := newInUse(t)
			if err := lose(s.path); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "copy")
			wantBroken(t, s, s.Copy(path), text)
			if _, err := os.Lstat(path); err == nil {
				t.Error("there is a file")
			}
		})
	}
}

func TestCopyReplacesNothing(t *testing.T) {
	s, _, _ := newInUse(t)
	path := filepath.Join(t.TempDir(), "copy")
	writeFile(t, path, "precious")
	if err := s.Copy(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	if got := mustRead(t, path); string(got) != "precious" {
		t.Errorf("the file holds %q", got)
	}
	if err := s.Verify(); err != nil {
		t.Errorf("then %v", err)
	}
}

// The part of a copy that a killed process left is replaced.
func TestOpenCopyAfterSIGKILL(t *testing.T) {
	s, _, _ := newInUse(t)
	writeFile(t, s.path+".snapshot", "half a copy")
	file, err := s.OpenCopy()
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}
