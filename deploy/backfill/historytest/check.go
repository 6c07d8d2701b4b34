package historytest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

type samples struct {
	labels     labels.Labels
	times      []int64
	floats     []float64
	histograms []*histogram.Histogram
}

// readAll returns the samples of all series.
func readAll(t testing.TB, db *tsdb.DB, mint, maxt int64) map[string]*samples {
	t.Helper()
	q, err := db.Querier(mint, maxt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
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

// OpenDB opens a directory of blocks as a server does.
func OpenDB(t testing.TB, dir string) *tsdb.DB {
	t.Helper()
	o := tsdb.DefaultOptions()
	o.RetentionDuration, o.MaxBlockDuration = 0, 9*o.MinBlockDuration
	db, err := tsdb.Open(dir, nil, nil, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Check compares all samples in [mint, maxt) with the truth, and the last of each series
// with a scrape of now.
func Check(t testing.TB, w *World, db *tsdb.DB, target map[string]string, mint, maxt int64, step time.Duration) {
	t.Helper()
	all := readAll(t, db, mint, maxt)
	scraped, err := w.Scraped(target)
	if err != nil {
		t.Fatal(err)
	}
	for key, live := range scraped {
		s, truth := all[key], w.Truth(live.Labels)
		delete(all, key)
		if s == nil {
			// There is no last end if all listed traces were abandoned.
			if len(truth.Times(mint, maxt, step.Milliseconds())) > 0 {
				t.Fatalf("%s is missing", key)
			}
			continue
		}
		if err := checkSeries(truth, s, live, mint, maxt, step); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	for key := range all {
		t.Errorf("%s is not scraped", key)
	}
}

func checkSeries(truth *Truth, s *samples, live Sample, mint, maxt int64, step time.Duration) error {
	if times := truth.Times(mint, maxt, step.Milliseconds()); !slices.Equal(times, s.times) {
		return fmt.Errorf("at\n%v, want\n%v", s.times, times)
	}
	last := len(s.times) - 1
	for i, v := range s.floats {
		// Most repeat the one before: the truth is found slowly.
		if i%8 > 0 && i < last && v == s.floats[i-1] {
			continue
		}
		if want := truth.Float(s.times[i]); v != want {
			return fmt.Errorf("%v at %d, want %v", v, s.times[i], want)
		}
		if i > 0 && v < s.floats[i-1] {
			return fmt.Errorf("falls from %v to %v", s.floats[i-1], v)
		}
	}
	for i, h := range s.histograms {
		if i%8 > 0 && i < last && h.Sum == s.histograms[i-1].Sum {
			continue
		}
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
		if s.floats[last] != live.Float {
			return fmt.Errorf("ends with %v, a scrape has %v", s.floats[last], live.Float)
		}
		return nil
	}
	if h := s.histograms[last]; !h.Compact(0).Equals(live.Histogram) {
		return fmt.Errorf("ends with %v, a scrape has %v", h, live.Histogram)
	}
	return nil
}
