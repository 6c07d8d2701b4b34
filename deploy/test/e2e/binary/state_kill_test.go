package binary_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// stored returns what `state show` says of the projects of a state.
func stored(t *testing.T, dir string) string {
	t.Helper()
	var shown struct{ Projects json.RawMessage }
	if err := json.Unmarshal([]byte(operate(t, dir, 0, "show", "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	return string(shown.Projects)
}

// killed runs a command about the state, and kills it after a while. It reports whether
// it was too late for that.
func killed(t *testing.T, after time.Duration, dir string, args ...string) (ended bool) {
	t.Helper()
	cmd := command(t, nil, append([]string{"state"}, append(args, "--storage.path="+dir)...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	defer timer.Stop()
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
		return false
	}
	if err != nil {
		t.Fatalf("state %q: %v: %s", args, err, &out)
	}
	return true
}

// A command that is killed leaves the state as it was, or as it is to be, and can be
// given again.
func TestStateCommandsAreKilled(t *testing.T) {
	t.Parallel()
	const attempts = 16
	_, url := fakeOpper(t, oppertest.Config{}, 5000)
	dir := filepath.Join(t.TempDir(), "data")
	e := startReady(t, url, "--storage.path="+dir, "--collector.settle-delay=0s")
	e.end()
	before := stored(t, dir)
	copied := func(t *testing.T) (dir2 string) {
		t.Helper()
		dir2 = filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(dir2, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		return dir2
	}
	for name, c := range map[string]struct {
		args []string
		copy bool // into a directory that is the last of the arguments
	}{
		"forget a project": {args: []string{"forget", "default"}},
		"forget a name":    {args: []string{"forget", "default", "agent-00"}},
		"rename":           {args: []string{"rename", "default", "new"}},
		"copy":             {args: []string{"copy"}, copy: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// prepare returns a state, the command for it, and where its result is.
			prepare := func() (dir, result string, args []string) {
				dir = copied(t)
				if !c.copy {
					return dir, dir, c.args
				}
				result = filepath.Join(t.TempDir(), "copy")
				return dir, result, append([]string{c.args[0]}, result)
			}
			dir, result, args := prepare()
			began := time.Now()
			operate(t, dir, 0, args...)
			earliest, latest := time.Duration(0), time.Since(began)
			after := stored(t, result)
			if c.copy != (after == before) {
				t.Fatalf("the command has left %s", after)
			}
			// Under load, a command takes another time each time: it goes on until one was
			// killed before its commit.
			kills, old := 0, 0
			for attempt := 0; attempt < attempts || old == 0; attempt++ {
				dir, result, args := prepare()
				delay := earliest + rand.N(latest-earliest+time.Millisecond)
				ended := killed(t, delay, dir, args...)
				if !ended {
					kills++
				}
				if c.copy && stored(t, dir) != before {
					t.Errorf("after %s, what was copied has changed", delay)
				}
				isOld := false
				if _, err := os.Stat(filepath.Join(result, "opper_exporter.db")); c.copy && errors.Is(err, fs.ErrNotExist) {
					isOld = true
				} else if is := stored(t, result); is != after {
					if isOld = is == before; !isOld {
						t.Errorf("killed after %s, it has left %s", delay, is)
					}
				}
				if ended && isOld {
					t.Error("it ended without an error, and has done nothing")
				}
				// The next one comes closer to the commit.
				if isOld {
					old++
					earliest = min((earliest+delay)/2, latest)
					operate(t, dir, 0, args...)
					if is := stored(t, result); is != after {
						t.Errorf("killed after %s and given again, it has left %s", delay, is)
					}
				} else {
					latest = max((latest+delay)/2, earliest)
				}
			}
			t.Logf("%d were killed, %d before the commit", kills, old)
		})
	}
}
