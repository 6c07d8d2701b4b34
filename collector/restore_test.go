package collector

import (
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/store"
	"opper_exporter/opper/oppertest"
)

// loaded is a Store that holds what it is given, and keeps nothing.
type loaded struct{ state store.State }

func (l loaded) Load(string) (store.State, bool, error) { return l.state, true, nil }
func (l loaded) Commit(string, store.State, bool) error { return nil }

// FuzzRestoreState restores a project from arbitrary documents and aggregates,
// which are either refused or can be shown, in memory that is bounded by what is
// stored.
func FuzzRestoreState(f *testing.F) {
	stored := func(bounds []float64) store.State {
		kept := newMemory()
		cfg := testConfig()
		cfg.Store, cfg.Aggregate.DurationBuckets = kept, bounds
		b := newBench(f, oppertest.Config{}, cfg)
		b.opper.FillHistory(300, 3, epoch.Add(-day), epoch.Add(-day/2))
		b.sync()
		st, _, err := kept.Load("")
		if err != nil {
			f.Fatal(err)
		}
		return st
	}
	now := func() time.Time { return epoch }
	st := stored(testConfig().Aggregate.DurationBuckets)
	for _, other := range []store.State{st, stored([]float64{1})} { // the latter has too few buckets
		for _, name := range other.Names {
			f.Add(st.Docs[docIdentity], st.Docs[docWalk], st.Docs[docProject], st.Docs[docMet], name)
		}
	}
	f.Fuzz(func(t *testing.T, id, walked, project, met, name []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cfg := testConfig()
		cfg.now, cfg.Logger = now, log.NewLogfmtLogger(io.Discard)
		cfg.Store = loaded{store.State{
			Names: map[string][]byte{"name": name},
			Docs:  map[string][]byte{docIdentity: id, docWalk: walked, docProject: project, docMet: met},
		}}
		p, err := cfg.project(newInstrumentation(cfg.Name, cfg.NativeHistograms))
		if err != nil {
			return
		}
		p.aggregates.EndInitialSync(now())
		p.publish()
		metrics := make(chan prometheus.Metric)
		go func() {
			p.collect(metrics)
			close(metrics)
		}()
		for m := range metrics {
			var out dto.Metric
			_ = m.Write(&out) // may be refused, as may a sample
		}
		runtime.ReadMemStats(&after)
		size := len(slices.Concat(id, walked, project, met, name))
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(4<<20+1000*size) {
			t.Errorf("%d bytes are allocated for a state of %d", used, size)
		}
	})
}
