package collector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
)

// A snapshot of 10 names and 1 000 traces is small, as there may be a thousand of them:
// metrics of client_golang would take 230 KiB.
func TestSnapshotIsSmall(t *testing.T) {
	const maximum = 96 << 10
	rng := rand.New(rand.NewPCG(1, 1))
	cfg := testConfig().Aggregate
	s := aggregate.New(cfg, epoch)
	ev := ledger.Events{}
	for i := range 1000 {
		row := ledger.Row{
			Name: fmt.Sprint("agent-", i%10), Status: []string{"success", "success", "error", "other"}[rng.IntN(4)], HasStatus: true,
			End: epoch, Duration: time.Duration(2e9 * math.Exp(1.2*rng.NormFloat64())).Truncate(time.Microsecond), HasDuration: true,
			Tokens: int64(800 * math.Exp(rng.NormFloat64())), HasTokens: true,
		}
		ev.FirstSeen, ev.Counted = append(ev.FirstSeen, row), append(ev.Counted, ledger.Counted{Row: row})
	}
	s.Apply(ev, epoch, epoch)
	s.EndInitialSync(epoch)
	const n = 20
	var snapshots [n]snapshot
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold is let go by the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range snapshots {
		b := newSnapshots(&config.Project{Name: "p", ClassicHistograms: true, NativeHistograms: true, Aggregate: cfg})
		snapshots[i], _ = b.build(s, ledger.New(ledger.Config{}), 1000)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes for %d metrics", each, len(snapshots[0]))
	if each > maximum {
		t.Errorf("a snapshot takes %d bytes, want at most %d", each, maximum)
	}
	runtime.KeepAlive(snapshots)
	runtime.KeepAlive(s)
}

// An exemplar that a server would refuse the whole scrape for is left out.
func TestUnusableExemplarIsLeftOut(t *testing.T) {
	for id, usable := range map[string]bool{
		"": false, "\xff": false, strings.Repeat("ä", 120): true, strings.Repeat("ä", 121): false,
	} {
		ex := aggregate.NewExemplar(id, 2, epoch)
		h := &aggregate.Histogram{
			Count: 1, Classic: []uint64{0, 1}, Exemplars: []*aggregate.Exemplar{nil, &ex},
			Positive: []aggregate.Bucket{{Key: 8, Count: 1}},
		}
		m := newHistogram(traceDuration, h, &scale{bounds: []float64{1}, perOne: 1, classic: true, native: true}, nil, nil)
		var out dto.Metric
		if err := m.Write(&out); err != nil {
			t.Fatal(err)
		}
		if got := out.GetHistogram(); (len(got.GetBucket()) == 2) != usable || (len(got.GetExemplars()) == 1) != usable {
			t.Errorf("%.9q: %v", id, got)
		}
	}
}
