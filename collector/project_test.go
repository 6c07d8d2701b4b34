package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/scrape"
	"opper_exporter/collector/store"
	"opper_exporter/collector/syncer"
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
func TestSamplePage(t *testing.T) {
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
		"opper_exporter_unmapped_status_total{}":           1,
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
func TestHistory(t *testing.T) {
	const traces = 25_037
	for name, list := range lists {
		for _, interval := range []time.Duration{0, 20 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s every %v", name, interval), func(t *testing.T) {
				cfg := testConfig()
				cfg.Interval = interval
				list.NoRecord = true
				b := newBench(t, list, cfg)
				b.opper.FillHistory(traces, 40, epoch.Add(-25*24*time.Hour), epoch.Add(-time.Hour))
				page := httptest.NewServer(scrape.SyncFirst(b.collector(), b.handler(false)))
				t.Cleanup(page.Close)
				b.noted(func() {
					b.start()
					if interval == 0 {
						scrapeURL(t, page.URL)
					}
					<-b.project.ready
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
func TestLiveTraces(t *testing.T) {
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
			for b.now().Sub(epoch) < time.Minute { // so that the baseline meets some
				b.step(time.Second)
				lives = happen(lives, b.now())
			}
			b.noted(func() { b.start(); <-b.project.ready })
			for b.now().Sub(epoch) < 45*time.Minute {
				b.step(time.Duration(1+rng.IntN(25)) * time.Second)
				lives = happen(lives, b.now())
				begun := b.begins.Load()
				b.noted(func() {
					for b.begins.Load() == begun { // one may share the baseline's end
						b.collector().Refresh(t.Context())
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

func TestOpenTraces(t *testing.T) {
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

// faults are the ways in which all requests can go wrong.
func faults() map[string]oppertest.Answer {
	out := map[string]oppertest.Answer{
		"cut": oppertest.Cut, "cut body": oppertest.CutBody, "truncated": oppertest.Truncated,
		"garbage": oppertest.Garbage, "HTML": oppertest.HTML, "no list": oppertest.EmptyObject, "429": oppertest.TooMany("0"),
	}
	for _, status := range []int{400, 401, 403, 404, 422, 500, 503} {
		for shape, answer := range oppertest.Errors(status) {
			out[fmt.Sprint(status, " ", shape)] = answer
		}
	}
	return out
}

// A sync that fails changes no number, whether it fails at once or after it has
// found news, and the next one that succeeds makes good for it.
func TestFailingSync(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.FillHistory(500, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	b.opper.Add(b.open(1, "a"))
	b.sync()
	for what, answer := range faults() {
		for _, after := range []int{0, 1} {
			before := b.gather()
			success := before["opper_exporter_last_success_timestamp_seconds{}"]
			b.step(settle)
			// More news than fit on a page are taken in once all of it is read;
			// fewer are taken in before the end of the list is looked at.
			for range 110 - 100*after {
				tr := b.trace(0, what)
				tr.ID = fmt.Sprintf("%s %d %d", what, after, b.opper.Len())
				b.opper.Add(tr)
			}
			b.opper.Fail(oppertest.Fault{Answer: answer, After: after, Times: -1})
			b.project.sync(t.Context())
			got := b.gather()
			b.opper.Clear()
			if got["opper_up{}"] == 1 {
				// A later page that is refused or can't be read is no failure.
				b.step(time.Second)
				continue
			}
			if err := got.traces().differs(before.traces()); err != nil {
				t.Errorf("%s after %d: %v", what, after, err)
			}
			if got["opper_exporter_last_success_timestamp_seconds{}"] != success {
				t.Errorf("%s after %d: a new last success", what, after)
			}
			if n := got["opper_exporter_syncs_total{error}"] - before["opper_exporter_syncs_total{error}"]; n != 1 {
				t.Errorf("%s after %d: %v more failed syncs", what, after, n)
			}
			b.sync()
		}
		if !strings.Contains(b.log.String(), "sync failed") {
			t.Errorf("%s: no failure in the log", what)
		}
	}
	for range 2 {
		b.step(2 * settle)
		b.sync()
	}
	// The one that is open may be gone: 404 is how Opper says so.
	got := b.gather()
	n := sum(got.of("opper_traces_total", "opper_traces_open", "opper_exporter_traces_skipped_total"))
	if want := float64(b.opper.Len()); n != want {
		t.Errorf("%v traces are counted, open or gone, %v are listed\n%s", n, want, b.log.String())
	}
}

func TestEveryQueryFails(t *testing.T) {
	for what, answer := range faults() {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, oppertest.Config{}, testConfig())
			b.opper.FillHistory(250, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
			b.opper.Fail(oppertest.Fault{Answer: answer, Times: -1})
			b.project.sync(t.Context())
			b.checkDown(1)
			b.opper.Clear()
			b.sync()
			b.checkSums(b.gather())
		})
	}
}

// checkDown compares an exposition with that of a project that was never up.
func (b *bench) checkDown(failed float64) {
	b.t.Helper()
	got := b.gather()
	maps.DeleteFunc(got, func(series string, _ float64) bool {
		return strings.HasPrefix(series, "opper_exporter_api_") || strings.HasPrefix(series, "opper_exporter_sync_duration_seconds_bucket{")
	})
	if err := got.differs(values{
		"opper_exporter_syncs_total{error}":            failed,
		"opper_exporter_sync_duration_seconds_count{}": failed,
	}); err != nil {
		b.t.Error(err)
	}
	if up, ok := got["opper_up{}"]; !ok || up != 0 {
		b.t.Errorf("up is %v", up)
	}
	if n := len(got.of("opper_traces_total")); n != 0 {
		b.t.Errorf("%d series of traces that were never read", n)
	}
	if code := get(b.t, scrape.ReadyHandler(b.collector())).Code; code != http.StatusServiceUnavailable {
		b.t.Errorf("readiness %d", code)
	}
	if !strings.Contains(b.log.String(), "level=error project=default msg=\"sync failed\"") {
		b.t.Errorf("no failure in the log:\n%s", b.log.String())
	}
}

func TestConnectionFails(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.http.Close()
	b.project.sync(t.Context())
	b.project.sync(t.Context())
	b.checkDown(2)
}

// A key that comes to belong to another project counts none of its traces.
func TestOtherProject(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.FillHistory(500, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Minute))
	b.sync()
	before := b.gather()
	other := oppertest.New(oppertest.Config{Seed: 9, Now: b.now})
	other.FillHistory(500, 5, epoch.Add(-24*time.Hour), epoch)
	b.opper.Fail(oppertest.Fault{Answer: oppertest.OtherProject(other), Times: -1})
	b.step(settle)
	b.project.sync(t.Context())
	got := b.gather()
	if err := got.traces().differs(before.traces()); err != nil || got["opper_up{}"] != 0 {
		t.Errorf("up %v, %v", got["opper_up{}"], err)
	}
	b.opper.Clear()
	b.sync()
	if err := b.gather().traces().differs(before.traces()); err != nil {
		t.Error(err)
	}
}

func TestEmptyList(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.sync()
	got := b.gather()
	if listed, ok := got["opper_traces_listed{}"]; !ok || listed != 0 {
		t.Errorf("listed is %v", listed)
	}
	b.opper.Add(b.trace(1, "a"))
	b.step(settle)
	b.sync()
	if got, ok := b.gather()["opper_traces_total{success,a}"]; !ok || got != 0 {
		t.Errorf("a later name begins at %v", got)
	}
	b.step(settle)
	b.sync()
	if got := b.gather()["opper_traces_total{success,a}"]; got != 1 {
		t.Errorf("%v are counted", got)
	}
}

// Scrapes at any time see whole syncs, and no number that falls.
func TestScrapesDuringSyncs(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.FillHistory(300, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	traffic := oppertest.NewTraffic(b.opper, oppertest.DefaultAgents(), 1)
	traffic.Step(b.now())
	stop := make(chan struct{})
	var scrapers sync.WaitGroup
	handler := b.handler(false)
	for _, format := range []string{"protobuf", "protobuf", "text"} {
		scrapers.Go(func() {
			before := values{}
			for {
				answer := get(t, handler, "Accept", accepts[format])
				families, err := decoded(answer.Header(), answer.Body)
				if err != nil {
					t.Error(err)
					return
				}
				got := valuesOf(families)
				for key, was := range before {
					counter := strings.Contains(key, "_total{") || strings.Contains(key, "_count{") || strings.Contains(key, "_bucket{")
					if now, ok := got[key]; !ok || counter && now < was {
						t.Errorf("%s was %v and is %v (there: %v)", key, was, now, ok)
						return
					}
				}
				if n := sum(got.of("opper_traces_total")); n > 0 && n < 300 {
					t.Errorf("%v traces: a part of the baseline", n)
				}
				before = got
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 40 {
		b.sync()
		b.step(7 * time.Second)
		traffic.Step(b.now())
	}
	close(stop)
	scrapers.Wait()
	if n := sum(b.gather().of("opper_traces_total")); n < 500 {
		t.Errorf("only %v traces are counted", n)
	}
}

// Private content and the key reach neither the exposition nor the log.
func TestPrivate(t *testing.T) {
	b := newBench(t, oppertest.Config{BodyBytes: 2000}, testConfig())
	b.opper.FillHistory(300, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	b.opper.Add(b.open(1, "a"), b.trace(2, "b"))
	b.sync()
	for _, answer := range faults() {
		b.opper.Fail(oppertest.Fault{Answer: answer, Times: -1})
		b.project.sync(t.Context())
		b.opper.Clear()
	}
	b.step(settle)
	b.sync()
	handler := b.handler(false)
	seen := map[string][]byte{"log": []byte(b.log.String())}
	for _, format := range []expfmt.FormatType{expfmt.TypeTextPlain, expfmt.TypeOpenMetrics, expfmt.TypeProtoDelim} {
		accept := string(expfmt.NewFormat(format))
		w := get(t, handler, "Accept", accept)
		if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte("opper_traces_total")) {
			t.Errorf("%s: %d", accept, w.Code)
		}
		seen[accept] = w.Body.Bytes()
	}
	for where, text := range seen {
		for _, private := range []string{oppertest.Secret, apiKey} {
			if bytes.Contains(text, []byte(private)) {
				t.Errorf("%q shows in the %s", private, where)
			}
		}
	}
}

func TestLastSuccess(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	if got := b.gather()["opper_exporter_last_success_timestamp_seconds{}"]; got != 0 {
		t.Errorf("last success at %v before the first", got)
	}
	b.step(90 * time.Second)
	b.project.sync(t.Context())
	if got, want := b.gather()["opper_exporter_last_success_timestamp_seconds{}"], float64(epoch.Unix()+90); got != want {
		t.Errorf("last success at %v, want %v", got, want)
	}
}

// The counts of a later name are held while somebody has not read its zeros, and
// for 10 minutes at most; what is known from the first walk on is not.
func TestZerosFirst(t *testing.T) {
	read := false
	cfg := testConfig()
	cfg.AllRead = func(time.Time) bool { return read }
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "known"))
	b.step(time.Hour)
	b.sync()
	see := func(known, read, unread, held float64) {
		t.Helper()
		b.sync()
		got := b.gather()
		for name, want := range map[string]float64{"known": known, "read": read, "unread": unread} {
			for _, family := range []string{"opper_traces_total", "opper_trace_duration_seconds_count", "opper_tokens_per_trace_count"} {
				key := family + "{success," + name + "}"
				if family == "opper_tokens_per_trace_count" {
					key = family + "{" + name + "}"
				}
				if n := got[key]; n != want {
					t.Errorf("%v after the start: %s is %v, want %v", b.now().Sub(epoch), key, n, want)
				}
			}
		}
		if n := got["opper_exporter_trace_names_zero_pending{}"]; n != held {
			t.Errorf("%v names are held, want %v", n, held)
		}
	}
	b.opper.Add(b.trace(2, "read"), b.trace(3, "read"), b.trace(4, "known"))
	see(1, 0, 0, 1)
	b.step(settle)
	see(2, 0, 0, 1)
	read = true
	see(2, 2, 0, 0)

	read = false
	b.opper.Add(b.trace(5, "unread"))
	see(2, 2, 0, 1)
	if n := len(b.gather().of("opper_traces_total")); n != 3*4 {
		t.Errorf("%d series of traces, want those of 3 names", n)
	}
	b.step(maxZeroPending - time.Second)
	see(2, 2, 0, 1)
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Times: -1})
	b.step(2 * time.Second)
	b.project.sync(t.Context())
	b.opper.Clear()
	if n := b.gather()["opper_exporter_trace_names_zero_pending{}"]; n != 1 {
		t.Error("a failed sync released a name")
	}
	see(2, 2, 1, 0)
}

// commits counts what a store is given, and may refuse it.
type commits struct {
	*memory
	n       int
	refused error
}

func (c *commits) Commit(project string, changes store.State, fresh bool) error {
	c.n++
	if c.refused != nil {
		return c.refused
	}
	return c.memory.Commit(project, changes, fresh)
}

// A first walk is stored in parts, by time and by rows, unless what is stored
// is of another list: that stays until the walk is done.
func TestFirstWalkIsStoredInParts(t *testing.T) {
	kept := &commits{memory: newMemory()}
	cfg := testConfig()
	cfg.Store = kept
	b := newBench(t, oppertest.Config{}, cfg)
	for _, c := range []struct {
		met     int
		after   time.Duration
		commits int
	}{
		{100, 0, 0},
		{progressRows - 1, 0, 0},
		{progressRows, 0, 1},
		{progressRows + 100, 0, 1},
		{2*progressRows - 1, 0, 1},
		{2 * progressRows, 0, 2},
		{2*progressRows + 100, progressInterval - time.Second, 2},
		{2*progressRows + 200, time.Second, 3},
		{3*progressRows + 199, 0, 3},
		{3*progressRows + 200, 0, 4},
	} {
		b.step(c.after)
		b.project.progress(syncer.Part{Read: c.met, Total: 10 * progressRows})
		if kept.n != c.commits {
			t.Errorf("%d commits after %d rows, want %d", kept.n, c.met, c.commits)
		}
	}

	cfg.UpstreamURL = "another list"
	again := newBench(t, oppertest.Config{}, cfg)
	again.step(progressInterval)
	again.project.progress(syncer.Part{Read: progressRows, Total: 10 * progressRows})
	if kept.n != 4 {
		t.Error("a first walk replaced the state of another list before it was done")
	}
}

// Open traces have no order on disk, so a part of the initial sync holds few of
// them. A store that is full is not tried again with each page.
func TestInitialSyncStoresFewOpenTraces(t *testing.T) {
	kept := &commits{memory: newMemory()}
	cfg := testConfig()
	cfg.Store = kept
	b := newBench(t, oppertest.Config{}, cfg)
	var rows []ledger.Row
	read := func(n int, want int) {
		t.Helper()
		for range n {
			rows = append(rows, ledger.Row{ID: ledger.KeyOf(fmt.Sprint(len(rows))), Name: "agent", Start: b.now()})
		}
		b.project.ledger.Observe(ledger.Run{Rows: rows, AtStart: true, When: ledger.When{Asked: b.now(), Read: b.now()}}, new(ledger.Events))
		b.project.progress(syncer.Part{})
		if kept.n != want {
			t.Errorf("%d commits after %d open traces, want %d", kept.n, len(rows), want)
		}
	}
	read(progressEntries-1, 0)
	read(1, 1)
	read(progressEntries-1, 1)
	kept.refused = errors.New("no space left on device")
	read(1, 2)
	read(100, 2)
	read(progressEntries-100, 3)
	kept.refused = nil
	read(progressEntries, 4)
	read(progressEntries, 5)
	if n := strings.Count(b.log.String(), "commit failed"); n != 1 {
		t.Errorf("a full disk is logged %d times:\n%s", n, b.log.String())
	}
	if n := strings.Count(b.log.String(), "commits succeed again"); n != 1 {
		t.Errorf("room on the disk is logged %d times", n)
	}
}
