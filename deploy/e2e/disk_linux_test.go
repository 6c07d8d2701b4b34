package e2e_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"opper_exporter/opper/oppertest"
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

	limitFiles(t, p, math.MaxUint64)
	r = until(t, address, "opper_traces_total", `trace_name="later"`, 1)
	if n := r.lasting.total("opper_traces_total", ""); n != 430 {
		t.Errorf("%v traces are counted, want 430", n)
	}
	p.stop(t)
	p = start(t, command(url, stored, unhurry))
	same(t, r, mustScrape(t, p.listening(t)))
}

// BenchmarkStart measures a start that finds the state of a million listed
// traces: until it is ready, and how large its memory and its file are. It does
// not measure the first walk that made the state.
func BenchmarkStart(b *testing.B) {
	const traces = 1_000_000
	s := oppertest.New(oppertest.Config{Seed: 1, NoRecord: true})
	s.FillHistory(traces, 40, time.Now().Add(-20*24*time.Hour), time.Now().Add(-time.Hour))
	url, dir := opper(b, s), b.TempDir()
	p := start(b, command(url, "--storage.path="+dir, unhurry, "--opper.concurrency=8"))
	// Longer than a condition is usually awaited.
	for !strings.Contains(p.log.String(), "first walk finished") {
		p.running(b)
		<-time.After(time.Second)
	}
	p.stop(b)

	var resident float64
	for b.Loop() {
		p := start(b, command(url, "--storage.path="+dir, unhurry))
		p.ready(b)
		b.StopTimer()
		resident = memory(b, p)
		p.stop(b)
		b.StartTimer()
	}
	info, err := os.Stat(filepath.Join(dir, database))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(resident/traces, "anon-B/trace")
	b.ReportMetric(float64(info.Sys().(*syscall.Stat_t).Blocks*512)/traces, "disk-B/trace")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/start")
}

// memory returns the bytes of memory that a process does not share with a file.
func memory(b *testing.B, p *process) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib * 1024
}
