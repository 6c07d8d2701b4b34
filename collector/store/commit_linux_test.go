package store

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// killedProjects is the number of projects that commit at the same time.
const killedProjects = 8

// projectStep returns what commit i of a project changes, the numbers of which say
// which one it is.
func projectStep(project, i int) (name string, changes state) {
	changes = step(project*1_000_000 + i)
	changes["i"] = fmt.Append(nil, i)
	return fmt.Sprint("project ", project), changes
}

// A process killed while projects share transactions leaves of each the last
// commit that returned, or the one under way.
func TestSharedCommitsSurviveSIGKILL(t *testing.T) {
	if dir := childDir(); dir != "" {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for project := range killedProjects {
			go func() {
				first := 0
				name, _ := projectStep(project, 0)
				before, err := load(s, name)
				if err != nil {
					panic(err)
				}
				if before != nil {
					_, _ = fmt.Sscan(string(before["i"]), &first)
				}
				for i := first + 1; ; i++ {
					name, changes := projectStep(project, i)
					if err := s.Commit(name, changes, false); err != nil {
						panic(err)
					}
					fmt.Println("committed", project, i)
				}
			}()
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // without its parent it ends
		return
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(15, 1))
	var models [killedProjects]state
	var last [killedProjects]int
	total, inFlight := 0, 0
	for range 10 {
		cmd := again(t, dir)
		lines := started(t, cmd)
		killAfter := 1 + rng.IntN(40)
		for lines.Scan() {
			var project, i int
			if _, err := fmt.Sscanf(lines.Text(), "committed %d %d", &project, &i); err != nil {
				continue
			}
			_, changes := projectStep(project, i)
			models[project], last[project] = merge(models[project], changes, false), i
			total++
			if killAfter--; killAfter == 0 {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || killAfter > 0 {
			t.Fatalf("the child ended by itself: %v", err)
		}
		s := mustOpen(t, dir)
		for project := range models {
			name, next := projectStep(project, last[project]+1)
			got, err := load(s, name)
			if err != nil {
				t.Fatal(err)
			}
			if !equal(got, models[project]) {
				models[project] = merge(models[project], next, false)
				last[project]++
				inFlight++
			}
			want(t, s, name, models[project])
		}
		mustClose(t, s)
	}
	t.Logf("%d commits returned; %d were found that had not", total, inFlight)
}

// A lost file fails all commits that share a transaction, and those after it.
func TestBrokenReachesAll(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	errs := together(t, s, many(20), func() {
		if err := os.Remove(s.path); err != nil {
			t.Error(err)
		}
	})
	for _, err := range errs {
		if !errors.Is(err, errs[0]) {
			t.Errorf("%v, want %v", err, errs[0])
		}
	}
	wantBroken(t, s, errs[0], "was removed while it was in use")
}

// A commit without changes looks at the file too.
func TestCommitOfNothingToLostFile(t *testing.T) {
	s, _, _ := newInUse(t)
	mustCommit(t, s, "p", nil, false)
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	wantBroken(t, s, s.Commit("p", nil, false), "was removed while it was in use")
}
