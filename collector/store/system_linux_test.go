package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"
)

// refused is a system call that the kernel is made to refuse.
type refused struct {
	call  uintptr
	errno syscall.Errno
	from  int64 // pwrite only: at this offset and behind it
	to    int64 // and before this one
}

// withRefused runs f while the kernel refuses a system call to it.
func withRefused(t *testing.T, r refused, f func()) {
	t.Helper()
	const (
		setNoNewPrivileges, setSeccomp, modeFilter = 38, 22, 2
		allow, refuse                              = 0x7fff0000, 0x00050000

		load    = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS
		equal   = syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K
		atLeast = syscall.BPF_JMP | syscall.BPF_JGE | syscall.BPF_K
		give    = syscall.BPF_RET | syscall.BPF_K
	)
	program := []syscall.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: equal, K: uint32(r.call), Jf: 4},
		{Code: load, K: 16 + 3*8}, // its fourth argument
		{Code: atLeast, K: uint32(r.from), Jf: 2},
		{Code: atLeast, K: uint32(r.to), Jt: 1},
		{Code: give, K: refuse | uint32(r.errno)},
		{Code: give, K: allow},
	}
	if r.to == 0 {
		program = append(program[:1], syscall.SockFilter{Code: equal, K: uint32(r.call), Jf: 1}, program[5], program[6])
	}
	filter := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := make(chan error)
	go func() {
		// The thread ends with the goroutine, and the filter with it.
		runtime.LockOSThread()
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, setNoNewPrivileges, 1, 0, 0, 0, 0)
		if errno == 0 {
			_, _, errno = syscall.RawSyscall6(syscall.SYS_PRCTL, setSeccomp, modeFilter, uintptr(unsafe.Pointer(&filter)), 0, 0, 0)
		}
		if errno != 0 {
			err <- errno
			return
		}
		f()
		err <- nil
	}()
	if err := <-err; err != nil {
		t.Fatal(err)
	}
}

// The disk is full from some page on, at any point of a commit, and has room
// again later: what was stored stays, and the next commit brings the rest.
func TestFullDisk(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	dir := t.TempDir()
	s := mustOpen(t, dir)
	var model state
	failed, untouched := 0, 0
	for i := range 60 {
		changes, fresh := randomChanges(rng, 8), i%9 == 8
		r := refused{call: syscall.SYS_PWRITE64, errno: syscall.ENOSPC, from: int64(rng.IntN(60)) * 4096, to: 1 << 31}
		switch i % 4 {
		case 1: // one of the meta pages
			r.from, r.to = 0, 2*4096
		case 2:
			r = refused{call: syscall.SYS_FTRUNCATE, errno: syscall.ENOSPC}
		}
		var err error
		withRefused(t, r, func() { err = s.Commit("p", changes, fresh) })
		if err != nil {
			failed++
			wantError(t, err, s.path, "cannot be used (", "no space left on device", "the room to write there")
			want(t, s, "p", model)
			// More has changed until there is room.
			more := randomChanges(rng, 8)
			merged := merge(model, changes, fresh)
			if rng.IntN(2) == 0 {
				mustCommit(t, s, "p", changes, fresh)
				mustCommit(t, s, "p", more, false)
				model = merge(merged, more, false)
			} else {
				mustCommit(t, s, "p", changes, fresh)
				model = merged
			}
		} else {
			untouched++
			model = merge(model, changes, fresh)
		}
		want(t, s, "p", model)
		if rng.IntN(3) == 0 {
			mustClose(t, s)
			s = mustOpen(t, dir)
			want(t, s, "p", model)
		}
	}
	if failed < 20 || untouched == 0 {
		t.Errorf("%d commits failed, %d did not", failed, untouched)
	}
}

// A disk that is full at the first start leaves nothing that would be taken for
// a damaged file.
func TestFullDiskAtFirstStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for _, r := range []refused{
		{call: syscall.SYS_PWRITE64, errno: syscall.ENOSPC},
		{call: syscall.SYS_PWRITE64, errno: syscall.ENOSPC, from: 4096, to: 1 << 31},
		{call: syscall.SYS_FTRUNCATE, errno: syscall.ENOSPC},
		{call: syscall.SYS_FDATASYNC, errno: syscall.ENOSPC},
		{call: syscall.SYS_FSYNC, errno: syscall.ENOSPC},
	} {
		var err error
		withRefused(t, r, func() { _, err = Open(dir) })
		wantError(t, err, dir, "no space left on device", "the room to write there")
	}
	mustOpen(t, dir)
}

// A commit whose bytes could not be made durable has failed, and until they are
// the state before is in force.
func TestCommitSyncs(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	rng := rand.New(rand.NewPCG(12, 1))
	first, second := randomChanges(rng, 5), randomChanges(rng, 5)
	mustCommit(t, s, "p", first, false)
	var err error
	withRefused(t, refused{call: syscall.SYS_FDATASYNC, errno: syscall.EIO}, func() { err = s.Commit("p", second, false) })
	wantError(t, err, s.path, "cannot be used (input/output error)")
	want(t, s, "p", merge(nil, first, false))

	// What another process would find after a crash now.
	copied, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, fileName), string(copied))
	want(t, mustOpen(t, dir), "p", merge(nil, first, false))

	mustCommit(t, s, "p", second, false)
	want(t, s, "p", merge(merge(nil, first, false), second, false))
}

// again returns this test as a command of its own, in which childDir returns dir.
func again(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), "STORE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// started starts a process whose standard input stays open, and returns what it prints.
func started(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(out)
}

func childDir() string { return os.Getenv("STORE_TEST_DIR") }

func isFresh(i int) bool { return i%17 == 16 }

// A process killed in the middle of commits leaves the last one that returned,
// or the one under way.
func TestCommitsSurviveSIGKILL(t *testing.T) {
	if dir := childDir(); dir != "" {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		first, err := strconv.Atoi(os.Getenv("STORE_TEST_FIRST"))
		if err != nil {
			t.Fatal(err)
		}
		// Made in advance, so that most of the time is spent in commits.
		steps := make([]state, 60)
		for i := range steps {
			steps[i] = step(first + i)
		}
		for i, changes := range steps {
			if err := s.Commit("p", changes, isFresh(first+i)); err != nil {
				t.Fatal(err)
			}
			fmt.Println("committed", first+i)
		}
		// However late the parent is to kill it, it is there. Without its parent it
		// ends.
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(14, 1))
	var model state
	next, inFlight := 0, 0
	for range 25 {
		cmd := again(t, dir)
		cmd.Env = append(cmd.Env, fmt.Sprint("STORE_TEST_FIRST=", next))
		lines := started(t, cmd)
		killAt := next + rng.IntN(20)
		for lines.Scan() {
			var i int
			if _, err := fmt.Sscanf(lines.Text(), "committed %d", &i); err != nil || i != next {
				continue
			}
			model = merge(model, step(i), isFresh(i))
			if next++; i == killAt {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || next <= killAt {
			t.Fatalf("the child ended by itself after %d: %v", next-1, err)
		}
		s := mustOpen(t, dir)
		got, err := load(s, "p")
		if err != nil {
			t.Fatal(err)
		}
		if !equal(got, model) {
			model = merge(model, step(next), isFresh(next))
			next++
			inFlight++
			if !equal(got, model) {
				t.Fatalf("loaded %s, which is neither commit %d nor %d", brief(got), next-2, next-1)
			}
		}
		mustClose(t, s)
	}
	t.Logf("%d commits; %d were found that had not returned", next, inFlight)
}

func TestInUseByAnotherProcess(t *testing.T) {
	if dir := childDir(); dir != "" {
		_, err := Open(dir)
		wantError(t, err, filepath.Join(dir, fileName), "is in use by another process")
		return
	}
	dir := t.TempDir()
	mustOpen(t, dir)
	if out, err := again(t, dir).Output(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A user without the right to write gets a clear error, be it the directory or the file.
func TestReadOnly(t *testing.T) {
	if dir := childDir(); dir != "" {
		_, err := Open(filepath.Join(dir, "directory", "state"))
		wantError(t, err, dir, "cannot be used (permission denied): this user needs the right")
		_, err = Open(filepath.Join(dir, "directory"))
		wantError(t, err, dir, "cannot be used (permission denied): this user needs the right")
		for _, name := range []string{"file", "secret"} {
			_, err = Open(filepath.Join(dir, name))
			wantError(t, err, filepath.Join(dir, name, fileName), "cannot be used (permission denied): this user needs the right")
		}
		return
	}
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "directory"))
	for name, perm := range map[string]os.FileMode{"file": 0o444, "secret": 0} {
		mustClose(t, mustOpen(t, filepath.Join(dir, name)))
		if err := os.Chmod(filepath.Join(dir, name, fileName), perm); err != nil {
			t.Fatal(err)
		}
	}
	for path := dir; path != "/" && path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil && !errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"directory", "file", "secret"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
				t.Error(err)
			}
		})
	}
	cmd := again(t, dir)
	if os.Getuid() == 0 { // to whom no right is denied
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		// The test binary may stand where only root may look.
		binary := filepath.Join(dir, "test")
		content, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(binary, content, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Dir = binary, dir
	}
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
