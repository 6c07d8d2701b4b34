package openmetrics_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/historytest"
	"opper_exporter/deploy/backfill/openmetrics"
	"opper_exporter/deploy/test/promtest"
)

var (
	start  = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	target = map[string]string{"job": "opper", "instance": `host"1\`, "cluster.name": "two\nlines"}
)

const day = int64(24 * time.Hour / time.Millisecond)

func newHistory(t *testing.T, w *historytest.World, step time.Duration) *history.History {
	t.Helper()
	h, err := history.New(w.Projects(), history.Options{Step: step, Labels: target})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// promtool makes of the text, a file for each day, blocks with all samples.
func TestPromtoolMakesBlocks(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := historytest.Random(rand.New(rand.NewPCG(seed, 3)), start.Add(-3*time.Hour), start.Add(5*time.Hour), 2, 30)
			w.Native = seed == 1
			h := newHistory(t, w, 4*time.Minute)
			first, last, _ := h.Range()
			mint, maxt := first-first%day, last-last%day+day
			out := t.TempDir()
			r := h.NewReader()
			for from := mint; from < maxt; from += day {
				var text bytes.Buffer
				samples, err := openmetrics.Write(&text, r.Series(from, from+day))
				if err != nil {
					t.Fatal(err)
				}
				if lines := bytes.Count(text.Bytes(), []byte("\n")) - bytes.Count(text.Bytes(), []byte("\n#")) - 1; samples != uint64(lines) {
					t.Errorf("%d samples in %d lines", samples, lines)
				}
				file := filepath.Join(t.TempDir(), "day.txt")
				if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				if printed, err := promtest.Promtool(t, nil, "tsdb", "create-blocks-from", "openmetrics", file, out); err != nil {
					t.Fatalf("%v\n%s", err, printed)
				}
			}
			w.Native = false
			w.Forget()
			historytest.Check(t, w, historytest.OpenDB(t, out), target, mint, maxt, 4*time.Minute)
		})
	}
}

// The text is in the form of the specification.
func TestText(t *testing.T) {
	w := &historytest.World{Traces: []historytest.Trace{{
		Project: "a", Name: "two\nlines", End: start.Add(1500 * time.Microsecond), Listed: true,
		HasDuration: true, Duration: 1500 * time.Millisecond, HasTokens: true, Tokens: 7e7,
	}}}
	const labels = `{"cluster.name"="two\nlines",instance="host\"1\\",job="opper",outcome="success",project="a",trace_name="two\nlines"}`
	const want = `# TYPE opper_trace_last_end_timestamp_seconds gauge
opper_trace_last_end_timestamp_seconds{"cluster.name"="two\nlines",instance="host\"1\\",job="opper",project="a",trace_name="two\nlines"} 1.7723232000015e+09 1772323200.002
# TYPE opper_trace_tokens counter
opper_trace_tokens_total` + labels + ` 0 1772323140.002
opper_trace_tokens_total` + labels + ` 0 1772323200.000
opper_trace_tokens_total` + labels + ` 7e+07 1772323200.002
# TYPE opper_traces counter
opper_traces_total` + labels + ` 0 1772323140.002
opper_traces_total` + labels + ` 0 1772323200.000
opper_traces_total` + labels + ` 1 1772323200.002
# EOF
`
	success := func(yield func(history.Series) bool) {
		for s := range newHistory(t, w, time.Minute).NewReader().Series(start.Add(-time.Hour).UnixMilli(), start.UnixMilli()+1000) {
			if o := s.Labels.Get("outcome"); (o == "" || o == "success") && !yield(s) {
				return
			}
		}
	}
	var text bytes.Buffer
	samples, err := openmetrics.Write(&text, success)
	if err != nil || samples != 7 {
		t.Errorf("%d samples, error %v", samples, err)
	}
	if text.String() != want {
		t.Errorf("the text is\n%s\nwant\n%s", text.String(), want)
	}
}

// The size that is planned is that of the text.
func TestTextIsAsLargeAsPlanned(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(1, 4)), start, start.Add(30*time.Hour), 2, 20)
	h := newHistory(t, w, time.Minute)
	from, to := start.UnixMilli(), start.UnixMilli()+day
	samples, err := openmetrics.Write(io.Discard, h.NewReader().Series(from, to))
	if err != nil {
		t.Fatal(err)
	}
	if _, planned := h.Size(from, to, false); samples > planned || samples < planned*99/100 {
		t.Errorf("%d samples, planned are %d", samples, planned)
	}
}

// A disk without room is an error.
func TestFullDisk(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(1, 3)), start, start.Add(30*time.Hour), 1, 20)
	for _, length := range []int64{1000, day} { // what the buffer holds, and more
		_, err := openmetrics.Write(full{}, newHistory(t, w, time.Minute).NewReader().Series(start.UnixMilli(), start.UnixMilli()+length))
		if !errors.Is(err, errFull) {
			t.Errorf("error %v, want %v", err, errFull)
		}
	}
}

var errFull = errors.New("no space left on device")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// Bounds are written as the text format has them: for VictoriaMetrics, others would be
// series of their own beside the live ones.
func TestBoundsAreThoseOfTheTextFormat(t *testing.T) {
	w := historytest.Random(rand.New(rand.NewPCG(1, 5)), start, start.Add(time.Hour), 1, 5)
	var text bytes.Buffer
	if _, err := openmetrics.Write(&text, newHistory(t, w, time.Minute).NewReader().Series(start.UnixMilli(), start.UnixMilli()+1000)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), `le="1"`) || strings.Contains(text.String(), `.0"`) {
		t.Errorf("bounds are written otherwise:\n%.2000s", text.String())
	}
}
