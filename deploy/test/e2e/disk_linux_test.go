package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"opper_exporter/deploy/test/exportertest"
)

// limitFiles sets to how many bytes a running process may write a file, which
// needs no rights and no disk of a known size. Beyond, writing fails as on a
// full disk.
func limitFiles(t *testing.T, p *exportertest.Process, n uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: n, Max: math.MaxUint64}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(p.Cmd.Process.Pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

// smallDisk returns the root of a file system of 8 MiB, which needs no rights
// where users may have namespaces, as in most places. Else it is nil. It lasts as
// long as it is open.
func smallDisk(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", `mount -t tmpfs -o size=8m none "$0" && echo mounted && read -r _`, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Log("a namespace is needed: ", err)
		return nil
	}
	defer func() {
		_ = in.Close() // ends it
		_ = cmd.Wait() // with an error, as there was no line to read
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Log("the right to mount is needed: ", err)
		return nil
	}
	disk, err := os.Open(fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() }) // nothing is written through it
	return disk
}

// fillDisk writes a file until a disk is full, and returns its path.
func fillDisk(t *testing.T, disk *os.File) string {
	t.Helper()
	path := fmt.Sprintf("/proc/self/fd/%d/ballast", disk.Fd())
	if err := os.WriteFile(path, make([]byte, 16<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want a full disk", err)
	}
	return path
}

// While nothing can be stored, nothing new is shown. When it can be again, all
// is there, once.
func TestCountsSurviveAFullDisk(t *testing.T) {
	t.Parallel()
	t.Run("limit of a file", func(t *testing.T) {
		t.Parallel()
		stored := "--storage.path=" + t.TempDir()
		fullDisk(t, func(url string, args ...string) *exec.Cmd {
			return command(t, url, append(args, stored)...)
		}, "file too large", func(p *exportertest.Process) { limitFiles(t, p, 0) }, func(p *exportertest.Process) { limitFiles(t, p, math.MaxUint64) })
	})
	t.Run("small disk", func(t *testing.T) {
		t.Parallel()
		disk, ballast := smallDisk(t), ""
		if disk == nil {
			return // the limit of a file shows the same, but for the reason
		}
		fullDisk(t, func(url string, args ...string) *exec.Cmd {
			cmd := command(t, url, append(args, "--storage.path=/proc/self/fd/3")...)
			cmd.ExtraFiles = []*os.File{disk}
			return cmd
		}, "no space left on device", func(*exportertest.Process) { ballast = fillDisk(t, disk) }, func(*exportertest.Process) {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func fullDisk(t *testing.T, command func(url string, args ...string) *exec.Cmd, reason string, fill, room func(*exportertest.Process)) {
	t.Helper()
	s := history(300, 10)
	url := opper(t, s)
	p := exportertest.MustStart(t, command(url, fast, noSettle))
	address := p.AwaitReady(t)
	was := exportertest.MustScrape(t, address)

	fill(p)
	for i := range 130 {
		tr := ended("later")
		tr.ID = fmt.Sprint(tr.ID, i)
		s.Add(tr)
	}
	r := until(t, address, "opper_exporter_state_commits_total", `result="error"`, 3)
	same(t, was, r)
	p.AwaitLog(t, "level=error", "commit failed", database, reason)
	synced := "opper_exporter_last_success_timestamp_seconds"
	if again := until(t, address, "opper_exporter_state_commits_total", `result="error"`, 5); again.Rest.Total(synced, "") != r.Rest.Total(synced, "") {
		t.Error("what is shown syncEnds newer than it is")
	}

	if n := strings.Count(p.Log.String(), "commit failed"); n != 1 {
		t.Errorf("the full disk is logged %d times", n)
	}

	room(p)
	r = until(t, address, "opper_traces_total", `trace_name="later"`, 1)
	if n := r.Lasting.Total("opper_traces_total", ""); n != 430 {
		t.Errorf("%v traces are counted, want 430", n)
	}
	p.AwaitLog(t, "level=info", "commits succeed again")
	p.Stop(t)
	p = exportertest.MustStart(t, command(url, oneSync))
	same(t, r, exportertest.MustScrape(t, p.AwaitListening(t)))
}
