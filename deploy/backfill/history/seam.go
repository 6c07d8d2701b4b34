package history

import (
	"iter"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// History is immutable, so that several can read it at once.
type History struct{}

// New returns the history of projects.
func New(projects []Project, o Options) (*History, error) { return nil, nil }

// Range returns the time of the first sample and that of the latest event, in milliseconds
// since the epoch; not ok if there is no event.
func (h *History) Range() (first, last int64, ok bool) { return 0, 0, false }

// Clamped returns how many of the series ...
func (h *History) Clamped() int { return 0 }

// Size returns how many series and samples there are in [mint, maxt).
func (h *History) Size(mint, maxt int64) (series int, samples uint64) { return 0, 0 }

// NewReader returns a Reader of all.
func (h *History) NewReader() *Reader { return nil }

// Reader reads a History in the order of time.
type Reader struct{}

// Series yields the series that have samples in [mint, maxt), in the order of their labels.
func (r *Reader) Series(mint, maxt int64) iter.Seq[Series] { return nil }

// Series is a series in a range of time.
type Series struct {
	Labels labels.Labels
	Native bool
}

// Floats yields the samples of a series that is not native.
func (s *Series) Floats() iter.Seq2[int64, float64] { return nil }

// Histograms yields those of a native series. The histogram is overwritten by the next.
func (s *Series) Histograms() iter.Seq2[int64, *histogram.Histogram] { return nil }

var _ = time.Second
