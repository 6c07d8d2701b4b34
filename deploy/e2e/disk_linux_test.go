package e2e_test

import (
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// limitFiles sets to how many bytes a running process may write a file, which
// needs no rights and no disk of a known size. Beyond, writing fails as on a
// full disk.
func limitFiles(t *testing.T, p *process, n uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: n, Max: math.MaxUint64}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(p.cmd.Process.Pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

// While nothing can be stored, nothing new is shown. When it can be again, all
// is there, once.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := history(300, 10)
	url, stored := opper(t, s), "--storage.path="+t.TempDir()
	p := start(t, command(url, stored, fast, noSettle))
	address := p.ready(t)
	was := mustScrape(t, address)

	limitFiles(t, p, 0)
	for i := range 130 {
		tr := ended("later")
		tr.ID = fmt.Sprint(tr.ID, i)
		s.Add(tr)
	}
	r := until(t, address, "opper_exporter_state_commits_total", `result="error"`, 3)
	same(t, was, r)
	p.logged(t, "level=error", "the state can't be stored, so the last numbers stay published", database)
	synced := "opper_exporter_last_success_timestamp_seconds"
	if again := until(t, address, "opper_exporter_state_commits_total", `result="error"`, 5); again.rest.total(synced, "") != r.rest.total(synced, "") {
		t.Error("what is shown looks newer than it is")
	}

	if n := strings.Count(p.log.String(), "the state can't be stored"); n != 1 {
		t.Errorf("the full disk is logged %d times", n)
	}

	limitFiles(t, p, math.MaxUint64)
	r = until(t, address, "opper_traces_total", `trace_name="later"`, 1)
	if n := r.lasting.total("opper_traces_total", ""); n != 430 {
		t.Errorf("%v traces are counted, want 430", n)
	}
	p.logged(t, "level=info", "the state can be stored again")
	p.stop(t)
	p = start(t, command(url, stored, unhurry))
	same(t, r, mustScrape(t, p.listening(t)))
}
