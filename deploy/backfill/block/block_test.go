package block_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"opper_exporter/deploy/backfill/block"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/historytest"
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
		if series, samples := h.Size(from, from+length); meta.Stats.NumSeries > uint64(series) || meta.Stats.NumSamples > samples || meta.Stats.NumSamples < samples*9/10 {
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

type samples struct {
	labels     labels.Labels
	times      []int64
	floats     []float64
	histograms []*histogram.Histogram
}

// readAll returns the samples of all series.
func readAll(t testing.TB, q storage.Querier) map[string]*samples {
	t.Helper()
	all := map[string]*samples{}
	set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		s := &samples{labels: set.At().Labels()}
		all[s.labels.String()] = s
		it := set.At().Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			s.times = append(s.times, it.AtT())
			switch kind {
			case chunkenc.ValFloat:
				_, v := it.At()
				s.floats = append(s.floats, v)
			case chunkenc.ValHistogram:
				_, h := it.AtHistogram(nil)
				s.histograms = append(s.histograms, h)
			default:
				t.Fatalf("%s has a %s", s.labels, kind)
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// openDB opens a directory of blocks as a server does.
func openDB(t testing.TB, dir string) *tsdb.DB {
	t.Helper()
	o := tsdb.DefaultOptions()
	o.RetentionDuration = 0
	db, err := tsdb.Open(dir, nil, nil, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func querier(t testing.TB, db interface {
	Querier(mint, maxt int64) (storage.Querier, error)
}, mint, maxt int64,
) storage.Querier {
	t.Helper()
	q, err := db.Querier(mint, maxt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// check compares all samples with the truth.
func check(t testing.TB, w *historytest.World, all map[string]*samples, mint, maxt int64, step time.Duration) {
	t.Helper()
	scraped, err := w.Scraped(target)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(scraped) {
		t.Errorf("%d series, a scrape has %d", len(all), len(scraped))
	}
	for key, live := range scraped {
		s := all[key]
		if s == nil {
			t.Fatalf("%s is missing", key)
		}
		if err := checkSeries(w.Truth(s.labels), s, live, mint, maxt, step); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
}

func checkSeries(truth *historytest.Truth, s *samples, live historytest.Sample, mint, maxt int64, step time.Duration) error {
	if times := truth.Times(mint, maxt, step.Milliseconds()); !slices.Equal(times, s.times) {
		return fmt.Errorf("at\n%v, want\n%v", s.times, times)
	}
	for i, v := range s.floats {
		if want := truth.Float(s.times[i]); v != want {
			return fmt.Errorf("%v at %d, want %v", v, s.times[i], want)
		}
		if i > 0 && v < s.floats[i-1] {
			return fmt.Errorf("falls from %v to %v", s.floats[i-1], v)
		}
	}
	for i, h := range s.histograms {
		if err := truth.Histogram(s.times[i], h); err != nil {
			return fmt.Errorf("at %d: %w", s.times[i], err)
		}
		if h.CounterResetHint == histogram.CounterReset || h.CounterResetHint == histogram.GaugeType {
			return fmt.Errorf("at %d: counter reset hint %d", s.times[i], h.CounterResetHint)
		}
	}
	if (live.Histogram != nil) != (len(s.histograms) > 0) {
		return fmt.Errorf("%d floats and %d histograms", len(s.floats), len(s.histograms))
	}
	if live.Histogram == nil {
		if last := s.floats[len(s.floats)-1]; last != live.Float {
			return fmt.Errorf("ends with %v, a scrape has %v", last, live.Float)
		}
		return nil
	}
	if last := s.histograms[len(s.histograms)-1]; !last.Compact(0).Equals(live.Histogram) {
		return fmt.Errorf("ends with %v, a scrape has %v", last, live.Histogram)
	}
	return nil
}

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// All that is written is read back, is what the exporter would have exposed at each time,
// and ends with what it exposes now.
func TestBlocksHaveTheTruth(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			step := []time.Duration{time.Minute, 4 * time.Minute, 7 * time.Second}[seed%3]
			length := []int64{twoHours, 12 * twoHours}[seed%2]
			w := historytest.Random(rng, start, start.Add(time.Duration(float64(1+rng.IntN(500))*float64(step))), 1+rng.IntN(3), 1+rng.IntN(200))
			h := newHistory(t, w, step)
			if h.Clamped() > 0 {
				t.Errorf("%d clamped", h.Clamped())
			}
			dir := t.TempDir()
			mint, maxt := writeBlocks(t, dir, h, length)
			db := openDB(t, dir)
			check(t, w, readAll(t, querier(t, db, mint, maxt)), mint, maxt, step)
		})
	}
}

var _ = context.Background
