package collector

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// FuzzRestoreState restores a project from arbitrary documents and aggregates,
// which are either refused or can be shown, in memory that is bounded by what is
// stored.
func FuzzRestoreState(f *testing.F) {
	stored := func(bounds []float64) map[string][]byte {
		stored := new(storetest.Memory)
		cfg := testConfig()
		cfg.Store, cfg.Aggregate.DurationBuckets = stored, bounds
		b := newBench(f, oppertest.Config{}, cfg)
		b.opper.FillHistory(300, 3, epoch.Add(-day), epoch.Add(-day/2))
		b.sync()
		return stored.Entries
	}
	now := func() time.Time { return epoch }
	st := stored(testConfig().Aggregate.DurationBuckets)
	const project, distinct, name = partAggregates + "project", partAggregates + "distinct", partAggregates + "name/"
	for _, other := range []map[string][]byte{st, stored([]float64{1})} { // the latter has too few buckets
		for key, body := range other {
			if strings.HasPrefix(key, name) {
				f.Add(st[docIdentity], st[docSyncer], st[project], st[distinct], body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, identity, syncer, counters, names, aggregate []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cfg := testConfig()
		cfg.now, cfg.Logger = now, log.NewLogfmtLogger(io.Discard)
		cfg.Store = &storetest.Memory{Entries: map[string][]byte{
			docIdentity: identity, docSyncer: syncer, project: counters, distinct: names, name + "a": aggregate,
		}}
		p, err := cfg.project(newInstrumentation(cfg.Name, cfg.NativeHistograms))
		if err != nil {
			return
		}
		p.aggregates.EndInitialSync(now())
		p.publish()
		metrics := make(chan prometheus.Metric)
		go func() {
			p.Collect(metrics)
			close(metrics)
		}()
		for m := range metrics {
			var out dto.Metric
			_ = m.Write(&out) // may be refused, as may a sample
		}
		runtime.ReadMemStats(&after)
		size := len(slices.Concat(identity, syncer, counters, names, aggregate))
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(4<<20+1000*size) {
			t.Errorf("%d bytes are allocated for a state of %d", used, size)
		}
	})
}
