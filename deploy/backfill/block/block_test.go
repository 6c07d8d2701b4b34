package block_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"opper_exporter/collector/aggregate"
	"opper_exporter/deploy/backfill/block"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/historytest"
	"opper_exporter/deploy/backfill/plan"
	"opper_exporter/deploy/test/promtest"
)

var target = map[string]string{"job": "opper", "instance": `host"1\`}

const twoHours = int64(2 * time.Hour / time.Millisecond)

func newHistory(t testing.TB, w *historytest.World, step time.Duration) *history.History {
	t.Helper()
	h, err := history.New(w.Projects(), history.Options{Step: step, Labels: target})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// writeBlocks writes all the blocks of a history and returns where they begin and end.
func writeBlocks(t testing.TB, dir string, h *history.History, length int64) (mint, maxt int64) {
	t.Helper()
	first, last, ok := h.Range()
	if !ok {
		t.Fatal("there are no events")
	}
	mint, maxt = first-first%length, last-last%length+length
	r := h.NewReader()
	for from := mint; from < maxt; from += length {
		meta, size, err := block.Write(t.Context(), dir, from, from+length, r.Series(from, from+length))
		if err != nil {
			t.Fatal(err)
		}
		if series, samples := h.Size(from, from+length, true); meta.Stats.NumSeries > uint64(series) || meta.Stats.NumSamples > samples || meta.Stats.NumSamples < samples*9/10 {
			t.Errorf("%d series with %d samples, expected %d with %d", meta.Stats.NumSeries, meta.Stats.NumSamples, series, samples)
		}
		if meta.Stats.NumSamples == 0 {
			continue
		}
		if onDisk := sizeOf(t, filepath.Join(dir, meta.ULID.String())); size != onDisk {
			t.Errorf("%d bytes, on the disk %d", size, onDisk)
		}
	}
	return mint, maxt
}

func sizeOf(t testing.TB, dir string) (size int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// All that is written is read back, is what the exporter would have exposed at each time,
// and ends with what it exposes now.
func TestBlocksHaveTheTruth(t *testing.T) {
	for seed, c := range []struct {
		step   time.Duration
		length int64
		traces int
	}{{time.Minute, twoHours, 600}, {70 * time.Second, twoHours, 20}, {4 * time.Minute, 12 * twoHours, 100}} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(seed), 1))
			step, length := c.step, c.length
			w := historytest.Random(rng, start, start.Add(time.Duration(100+rng.IntN(150))*step), 1+seed%2, c.traces)
			h := newHistory(t, w, step)
			if h.Clamped() > 0 {
				t.Errorf("%d clamped", h.Clamped())
			}
			dir := t.TempDir()
			mint, maxt := writeBlocks(t, dir, h, length)
			historytest.Check(t, w, historytest.OpenDB(t, dir), target, mint, maxt, step)
		})
	}
}

// A block is one that Prometheus could have written.
func TestBlockIsSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := historytest.Random(rng, start.Add(-time.Hour), start.Add(30*time.Hour), 1, 200)
	// A busy hour, of which no sample is like the one before it.
	busy := historytest.Random(rng, start.Add(3*time.Hour), start.Add(4*time.Hour), 1, 1000)
	for i := range busy.Traces {
		tr := &busy.Traces[i]
		tr.Name, tr.Outcome, tr.HasDuration, tr.Duration = "busy", aggregate.Success, true, time.Duration(rng.Int64N(1e12)).Truncate(time.Microsecond)
	}
	w.Traces = append(w.Traces, busy.Traces...)
	h := newHistory(t, w, time.Minute)
	dir := t.TempDir()
	from := start.UnixMilli()
	to := from + 12*twoHours
	meta, _, err := block.Write(t.Context(), dir, from, to, h.NewReader().Series(from, to))
	if err != nil {
		t.Fatal(err)
	}
	if meta.MinTime != from || meta.MaxTime != to || meta.Compaction.Level != 1 || !slices.Equal(meta.Compaction.Sources, []ulid.ULID{meta.ULID}) || meta.Version != 1 {
		t.Errorf("meta %+v", meta)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, meta.ULID.String())
	want := []string{"chunks", "index", "meta.json", "tombstones"}
	for i := range want {
		want[i] = filepath.Join(root, want[i])
	}
	if !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	b, err := tsdb.OpenBlock(nil, root, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	stats := checkIndex(t, b)
	if stats != meta.Stats || b.Meta().Stats != stats {
		t.Errorf("stats %+v, in the file %+v, counted %+v", meta.Stats, b.Meta().Stats, stats)
	}
}

// checkIndex reads a whole block, series by series and by postings, and counts what it has.
func checkIndex(t *testing.T, b *tsdb.Block) (stats tsdb.BlockStats) {
	t.Helper()
	ir, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ir.Close() }()
	cr, err := b.Chunks()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cr.Close() }()
	var symbols []string
	for it := ir.Symbols(); it.Next(); {
		symbols = append(symbols, it.At())
	}
	used, byLabel := map[string]bool{}, map[labels.Label][]storage.SeriesRef{}
	var last labels.Labels
	for _, ref := range refs(t, ir, index.AllPostingsKey) {
		var builder labels.ScratchBuilder
		var metas []chunks.Meta
		if err := ir.Series(ref, &builder, &metas); err != nil {
			t.Fatal(err)
		}
		l := builder.Labels()
		if labels.Compare(last, l) >= 0 {
			t.Fatalf("%s after %s", l, last)
		}
		last = l
		l.Range(func(l labels.Label) {
			used[l.Name], used[l.Value] = true, true
			byLabel[l] = append(byLabel[l], ref)
		})
		stats.NumSeries++
		checkChunks(t, cr, metas, b.Meta(), &stats)
	}
	if !slices.Equal(symbols, slices.Sorted(maps.Keys(used))) {
		t.Errorf("symbols %q, want %q", symbols, slices.Sorted(maps.Keys(used)))
	}
	for l, want := range byLabel {
		if got := refs(t, ir, func() (string, string) { return l.Name, l.Value }); !slices.Equal(got, want) {
			t.Errorf("postings of %v: %d, want %d", l, got, want)
		}
		values, err := ir.SortedLabelValues(t.Context(), l.Name, nil)
		if err != nil || !slices.IsSorted(values) || !slices.Contains(values, l.Value) {
			t.Errorf("values of %s: %q without %q, error %v", l.Name, values, l.Value, err)
		}
	}
	return stats
}

func refs(t *testing.T, ir tsdb.IndexReader, of func() (string, string)) (out []storage.SeriesRef) {
	t.Helper()
	name, value := of()
	p, err := ir.Postings(t.Context(), name, value)
	if err != nil {
		t.Fatal(err)
	}
	for p.Next() {
		out = append(out, p.At())
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// checkChunks checks the chunks of a series: their times, their size, and that no histogram
// says that its counter was reset.
func checkChunks(t *testing.T, cr tsdb.ChunkReader, metas []chunks.Meta, of tsdb.BlockMeta, stats *tsdb.BlockStats) {
	t.Helper()
	for i, m := range metas {
		chunk, _, err := cr.ChunkOrIterable(m)
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(chunk.NumSamples())
		stats.NumChunks++
		stats.NumSamples += n
		maxBytes := chunkenc.MaxBytesPerXORChunk
		var times []int64
		for it := chunk.Iterator(nil); it.Next() != chunkenc.ValNone; {
			times = append(times, it.AtT())
		}
		switch h, ok := chunk.(*chunkenc.HistogramChunk); {
		case !ok:
			stats.NumFloatSamples += n
		default:
			stats.NumHistogramSamples += n
			maxBytes *= 2 // unless a sample is large
			want := chunkenc.NotCounterReset
			if i == 0 {
				want = chunkenc.UnknownCounterReset
			}
			if h.GetCounterResetHeader() != want {
				t.Errorf("chunk %d of %d has the counter reset header %x, want %x", i, len(metas), h.GetCounterResetHeader(), want)
			}
		}
		if n > 240 || i < len(metas)-1 && n < 10 || len(chunk.Bytes()) > maxBytes {
			t.Errorf("chunk %d of %d has %d samples and %d bytes", i, len(metas), n, len(chunk.Bytes()))
		}
		if m.MinTime != times[0] || m.MaxTime != times[n-1] || m.MinTime < of.MinTime || m.MaxTime >= of.MaxTime || i > 0 && m.MinTime <= metas[i-1].MaxTime {
			t.Errorf("chunk %d of %d is of %d to %d, and has %d to %d", i, len(metas), m.MinTime, m.MaxTime, times[0], times[n-1])
		}
	}
}

// The plan does not promise less than the blocks take, also where they have few samples of a
// series each.
func TestPlannedBytesAreEnough(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	w := historytest.Random(rng, start, start.Add(20*time.Hour), 1, 1500)
	h := newHistory(t, w, 4*time.Minute)
	p, err := plan.New(h, plan.Config{For: plan.Prometheus, Format: plan.Blocks, Now: start.Add(25 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	dir, reader, took := t.TempDir(), h.NewReader(), int64(0)
	for _, r := range p.Ranges {
		_, size, err := block.Write(t.Context(), dir, r.Min, r.Max, reader.Series(r.Min, r.Max))
		if err != nil {
			t.Fatal(err)
		}
		took += size
	}
	if took > int64(p.Bytes) {
		t.Errorf("%d bytes, %d were planned", took, p.Bytes)
	}
}

// A server compacts the blocks, and has the same samples after that.
func TestBlocksAreCompacted(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(2, 2)), start, start.Add(20*time.Hour), 1, 80)
	dir := t.TempDir()
	mint, maxt := writeBlocks(t, dir, newHistory(t, w, 4*time.Minute), twoHours)
	db := historytest.OpenDB(t, dir)
	before := len(db.Blocks())
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := len(db.Blocks()); after > before/2 {
		t.Errorf("%d blocks, %d before", after, before)
	}
	historytest.Check(t, w, db, target, mint, maxt, 4*time.Minute)
}

// No block is there unless it is whole and has samples.
func TestNoBlock(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(3, 2)), start, start.Add(2*time.Hour), 1, 50)
	h := newHistory(t, w, time.Minute)
	from := start.UnixMilli()
	ended, end := context.WithCancel(t.Context())
	read := 0
	series := func(yield func(history.Series) bool) {
		for s := range h.NewReader().Series(from, from+twoHours) {
			end()
			if read++; read > 1 {
				t.Errorf("%s is read after the end", s.Labels)
			}
			if !yield(s) {
				return
			}
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, dir string
		ctx       context.Context
		series    iter.Seq[history.Series]
		want      string
	}{
		{"before all samples", t.TempDir(), t.Context(), h.NewReader().Series(from-2*twoHours, from-twoHours), ""},
		{"ended", t.TempDir(), ended, series, "block from 2026-03-01T00:00:00Z: context canceled"},
		{"no directory", file, t.Context(), h.NewReader().Series(from, from+twoHours), "not a directory"},
	} {
		meta, size, err := block.Write(c.ctx, c.dir, from, from+twoHours, c.series)
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", c.what, err, c.want)
		}
		if meta.Stats.NumSamples != 0 || size != 0 {
			t.Errorf("%s: %d samples, %d bytes", c.what, meta.Stats.NumSamples, size)
		}
		if files, _ := os.ReadDir(c.dir); len(files) > 0 {
			t.Errorf("%s: it left %v", c.what, files)
		}
	}
}

// promtool has nothing to say against the blocks.
func TestPromtoolReadsBlocks(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(4, 2)), start, start.Add(10*time.Hour), 1, 150)
	dir := t.TempDir()
	writeBlocks(t, dir, newHistory(t, w, time.Minute), twoHours)
	for _, args := range [][]string{{"tsdb", "list", "-r", dir}, {"tsdb", "analyze", "--extended", dir}} {
		out, err := promtest.Promtool(t, nil, args...)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
