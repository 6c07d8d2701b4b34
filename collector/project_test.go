package collector

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/collector/scrape"
	"opper_exporter/opper/oppertest"
	"opper_exporter/opper/oppertest/oracle"
)

var lists = map[string]oppertest.Config{
	"newest first by arrival": {},
	"oldest first by arrival": {OldestFirst: true},
	"newest first by start":   {SortBy: oppertest.ByStart},
	"oldest first by start":   {SortBy: oppertest.ByStart, OldestFirst: true},
}

// The page that Opper documents is one trace.
func TestDocumentedPageIsOneTrace(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.Add(oppertest.Sample())
	b.sync()
	got := b.gather()
	want := values{
		"opper_traces_total{unknown,<string>}":                 1,
		"opper_trace_tokens_total{unknown,<string>}":           123,
		"opper_trace_duration_seconds_count{unknown,<string>}": 1,
		"opper_trace_duration_seconds_sum{unknown,<string>}":   0.123,
		"opper_tokens_per_trace_count{<string>}":               1,
		"opper_tokens_per_trace_sum{<string>}":                 123,
	}
	if err := got.of(sumFamilies...).differs(want); err != nil {
		t.Error(err)
	}
	also := values{
		"opper_traces_listed{}":                            1,
		"opper_exporter_trace_names{}":                     1,
		"opper_exporter_unmapped_status_total{<string>}":   1,
		"opper_trace_last_end_timestamp_seconds{<string>}": float64(time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC).Unix()),
		"opper_exporter_initial_sync_progress_ratio{}":     1,
		"opper_exporter_gaps_total{}":                      0,
	}
	for key, want := range also {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
}

// All sums over a long history are the truth, whatever the order of the list
// and whatever a sync is started by.
func TestHistoryIsCountedExactly(t *testing.T) {
	const traces = 25_037
	for name, list := range lists {
		for _, interval := range []time.Duration{0, 20 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s every %v", name, interval), func(t *testing.T) {
				cfg := testConfig()
				cfg.Interval = interval
				list.NoRecord = true
				b := newBench(t, list, cfg)
				b.opper.FillHistory(traces, 40, epoch.Add(-25*24*time.Hour), epoch.Add(-time.Hour))
				page := httptest.NewServer(scrape.SyncFirst(b.collector(), make(chan struct{}, 1), "", b.handler(false)))
				t.Cleanup(page.Close)
				b.noted(func() {
					b.start()
					if interval == 0 {
						scrapeURL(t, page.URL)
					}
					<-b.project.snapshots.ready
				})
				if interval > 0 {
					b.awaitSyncs(4)
				}
				for range 2 {
					got := scrapeURL(t, page.URL)
					b.checkSums(got)
					if n := sum(got.of("opper_traces_total")); n != traces {
						t.Errorf("%v of %d traces are counted", n, traces)
					}
					if n := got["opper_exporter_trace_names{}"]; n != 40 {
						t.Errorf("%v names", n)
					}
				}
			})
		}
	}
}

// scrapeURL reads an exposition as a server does.
func scrapeURL(t testing.TB, url string) values {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	families, err := decoded(resp.Header, resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return valuesOf(families)
}

// decoded reads an exposition as text or as delimited protobuf.
func decoded(header http.Header, body io.Reader) (families []*dto.MetricFamily, err error) {
	for decoder := expfmt.NewDecoder(body, expfmt.ResponseFormat(header)); ; {
		f := new(dto.MetricFamily)
		if err := decoder.Decode(f); errors.Is(err, io.EOF) {
			return families, nil
		} else if err != nil {
			return nil, err
		}
		families = append(families, f)
	}
}

// life is what happens to a made-up trace, and when.
type life struct {
	at time.Time
	do func()
}

// lively makes traces that appear at once or at their end, get their name,
// status and tokens late, or never end. The name of each is its id, so that the
// exposition tells how each one was counted.
func (b *bench) lively(rng *rand.Rand, n int) []life {
	var lives []life
	within := func(most time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(most))) }
	for i := range n {
		tr := b.open(i, "")
		id := tr.ID
		later := func(at time.Time, change func(*oppertest.Trace)) {
			lives = append(lives, life{at, func() { b.opper.Update(id, change) }})
		}
		arrival := b.now().Add(within(5 * time.Minute))
		ended := arrival
		tr.Name, tr.Start = new(id), new(arrival)
		end := func(tr *oppertest.Trace) {
			tr.End = new(ended)
			switch rng.IntN(8) {
			case 0: // the difference of the times
			case 1:
				tr.DurationMS = new(-5.0)
			case 2:
				tr.Start = nil
			default:
				tr.DurationMS = new(float64(rng.IntN(100_000)))
			}
			tr.Status = []*string{nil, new("success"), new("OK"), new("error"), new("who knows")}[rng.IntN(5)]
			if rng.IntN(2) == 0 {
				tr.Tokens = new(rng.Int64N(5000))
			}
		}
		kind := rng.IntN(10)
		if kind == 0 {
			// Without a start it would stand behind what has been read.
			end(&tr)
			tr.Start = new(arrival)
		}
		if kind == 1 {
			tr.Name = nil
			later(arrival.Add(time.Second+within(time.Minute)), func(tr *oppertest.Trace) { tr.Name = new(id) })
		}
		lives = append(lives, life{arrival, func() { b.opper.Add(tr) }})
		if kind > 0 && kind < 8 {
			ended = arrival.Add(time.Minute + within(3*time.Minute))
			later(ended, end)
		}
		if kind < 8 && rng.IntN(2) == 0 {
			later(ended.Add(within(20*time.Second)), func(tr *oppertest.Trace) { tr.Tokens = new(rng.Int64N(5000)) })
			later(ended.Add(within(20*time.Second)), func(tr *oppertest.Trace) { tr.Status = new("failed") })
		}
		if kind == 9 && rng.IntN(2) == 0 {
			ended = arrival.Add(abandon + abandon/2 + within(time.Minute))
			later(ended, end)
		}
	}
	slices.SortStableFunc(lives, func(x, y life) int { return x.at.Compare(y.at) })
	return lives
}

// countedOf reads from an exposition how each trace was counted.
func (b *bench) countedOf(v values) (out []oracle.Counted) {
	b.t.Helper()
	truth := b.truth()
	for key, n := range v.of("opper_traces_total") {
		labels := strings.Trim(strings.TrimPrefix(key, "opper_traces_total"), "{}")
		outcome, name, _ := strings.Cut(labels, ",")
		if n == 0 {
			continue
		}
		if n > 1 || name == "(unnamed)" {
			b.t.Errorf("%s is %v", key, n)
		}
		c := oracle.Counted{ID: name}
		c.Name, c.Outcome, c.Tokens = name, outcome, -1
		if v["opper_tokens_per_trace_count{"+name+"}"] > 0 {
			c.Tokens = int64(v["opper_trace_tokens_total{"+labels+"}"])
		}
		c.Micros = int64(1e6*v["opper_trace_duration_seconds_sum{"+labels+"}"] + 0.5)
		if outcome != "abandoned" && v["opper_trace_duration_seconds_count{"+labels+"}"] == 0 {
			// Only the project as a whole says why: checkSums compares that.
			for _, may := range truth.Traces[name].Versions {
				c.Unusable = may.Unusable
			}
		}
		out = append(out, c)
	}
	return out
}

// While traces arrive and change, none is counted before it has settled, or
// otherwise than it was; once things are quiet, the sums are the truth.
func TestLiveTracesAreCountedOnceSettled(t *testing.T) {
	for name, list := range lists {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Aggregate.MaxNames, cfg.Aggregate.DurationBuckets, cfg.Aggregate.TokenBuckets = 1000, []float64{1}, []float64{1000}
			b := newBench(t, list, cfg)
			rng := rand.New(rand.NewPCG(1, 1))
			n := 80
			if list.SortBy == oppertest.ByArrival {
				n = 100
			}
			lives := b.lively(rng, n)
			for b.now().Sub(epoch) < time.Minute { // so that the initial sync meets some
				b.step(time.Second)
				lives = happen(lives, b.now())
			}
			b.noted(func() { b.start(); <-b.project.snapshots.ready })
			for b.now().Sub(epoch) < 45*time.Minute {
				b.step(time.Duration(1+rng.IntN(25)) * time.Second)
				lives = happen(lives, b.now())
				begun := b.begins.Load()
				b.noted(func() {
					for b.begins.Load() == begun { // one may share the initial sync's end
						b.collector().Refresh(t.Context(), "")
					}
				})
				if err := b.truth().Check(b.countedOf(b.gather())); err != nil {
					t.Fatalf("%v after the start: %v\n%s", b.now().Sub(epoch), err, b.log.String())
				}
			}
			got := b.gather()
			b.checkSums(got)
			if counted := sum(got.of("opper_traces_total")); counted != float64(n) || len(lives) != 0 {
				t.Errorf("%v of %d traces are counted, %d changes are to come", counted, n, len(lives))
			}
			if open := sum(got.of("opper_traces_open")); open != 0 {
				t.Errorf("%v traces are open", open)
			}
			if sum(got.of("opper_exporter_durations_unusable_total")) == 0 {
				t.Error("the traces were too tame")
			}
		})
	}
}

func happen(lives []life, now time.Time) []life {
	for len(lives) > 0 && !lives[0].at.After(now) {
		lives[0].do()
		lives = lives[1:]
	}
	return lives
}

func TestOpenTracesAreShownUntilTheyEnd(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.Add(b.open(1, "a"), b.open(2, "a"), b.open(3, ""), b.trace(4, "b"))
	see := func(want values) {
		t.Helper()
		b.sync()
		if err := b.gather().of("opper_traces_open").differs(want); err != nil {
			t.Error(err)
		}
	}
	see(values{"opper_traces_open{a}": 2, "opper_traces_open{(unnamed)}": 1})
	b.step(time.Minute)
	b.finish(1)
	b.opper.Update(b.open(3, "").ID, func(tr *oppertest.Trace) { tr.Name = new("named at last") })
	b.opper.Add(b.open(5, "new"))
	see(values{"opper_traces_open{a}": 1, "opper_traces_open{named at last}": 1, "opper_traces_open{new}": 1})
	if n := len(b.gather().of("opper_traces_total")); n != 4*5 {
		t.Errorf("%d series of traces, want those of 5 names", n)
	}
	b.opper.Delete(b.open(2, "").ID)
	b.step(abandon)
	see(values{})
	b.finish(5)
	see(values{})
	if err := b.gather().of("opper_traces_total", "opper_exporter_traces_skipped_total", "opper_exporter_late_ends_total").differs(values{
		"opper_traces_total{success,a}": 1, "opper_traces_total{success,b}": 1,
		"opper_traces_total{abandoned,named at last}": 1, "opper_traces_total{abandoned,new}": 1,
		"opper_exporter_traces_skipped_total{vanished_open}": 1,
		"opper_exporter_late_ends_total{}":                   1,
	}); err != nil {
		t.Error(err)
	}
}
