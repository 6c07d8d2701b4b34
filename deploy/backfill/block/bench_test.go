package block_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/backfill/block"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/historytest"
)

// month is 30 days of 200 names with 1000 traces each.
func month() *historytest.World {
	rng := rand.New(rand.NewPCG(1, 1))
	w := &historytest.World{Classic: true, Native: true}
	for i := range 200_000 {
		t := historytest.Trace{Project: "default", Name: fmt.Sprintf("agent-%d", i%200), Listed: true, HasDuration: true, HasTokens: true}
		t.End = start.Add(time.Duration(rng.Int64N(int64(30 * 24 * time.Hour))))
		t.Duration = time.Duration(math.Exp(rng.NormFloat64()+2) * float64(time.Second))
		t.Tokens = int64(math.Exp(rng.NormFloat64() + 7))
		if rng.IntN(10) == 0 {
			t.Outcome = aggregate.Failure
		}
		w.Traces = append(w.Traces, t)
	}
	return w
}

// One iteration writes 30 days of 200 names at 60 s: run it with -benchtime 1x.
func BenchmarkMonth(b *testing.B) {
	w := month()
	for _, writers := range []int{1, 2} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			h := newHistory(b, w, time.Minute)
			var samples, size, blocks int64
			resetPeak()
			cpu := cpuTime()
			for b.Loop() {
				samples, size, blocks = writeMonth(b, h, writers)
			}
			n := float64(b.N)
			b.ReportMetric(float64(samples), "samples")
			b.ReportMetric(float64(samples)*n/b.Elapsed().Seconds(), "samples/s")
			b.ReportMetric(float64(samples)*n/(cpuTime()-cpu).Seconds(), "samples/cpu-s")
			b.ReportMetric(float64(size)/float64(samples), "bytes/sample")
			b.ReportMetric(float64(blocks), "blocks")
			b.ReportMetric(peak(b), "peak-MiB")
		})
	}
}

// writeMonth writes blocks of two hours, as the program does.
func writeMonth(b *testing.B, h *history.History, writers int) (samples, size, blocks int64) {
	b.Helper()
	dir := b.TempDir()
	first, last, _ := h.Range()
	var totals [3]atomic.Int64
	g, ctx := errgroup.WithContext(b.Context())
	for i := range writers {
		g.Go(func() error {
			r := h.NewReader()
			for mint := first - first%twoHours + int64(i)*twoHours; mint <= last; mint += int64(writers) * twoHours {
				meta, size, err := block.Write(ctx, dir, mint, mint+twoHours, r.Series(mint, mint+twoHours))
				if err != nil {
					return err
				}
				totals[0].Add(int64(meta.Stats.NumSamples))
				totals[1].Add(size)
				totals[2].Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
	return totals[0].Load(), totals[1].Load(), totals[2].Load()
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resetPeak makes the peak of the resident memory that of now.
func resetPeak() {
	runtime.GC()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peak returns the peak of the resident memory, 0 where the system does not say.
func peak(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.Atoi(kib)
	if err != nil {
		b.Fatal(err)
	}
	return float64(n) / 1024
}
