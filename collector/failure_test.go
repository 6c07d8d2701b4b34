package collector

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"

	"opper_exporter/collector/scrape"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

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
// found new rows, and the next one that succeeds makes good for it.
func TestFailedSyncChangesNoNumber(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.FillHistory(500, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	b.opper.Add(b.open(1, "a"))
	b.sync()
	for what, answer := range faults() {
		for _, after := range []int{0, 1} {
			before := b.gather()
			success := before["opper_exporter_last_success_timestamp_seconds{}"]
			b.step(settle)
			// More new rows than fit on a page are taken in once all of it is read;
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
	// The one that is open may be delisted: 404 is how Opper says so.
	got := b.gather()
	n := sum(got.of("opper_traces_total", "opper_traces_open", "opper_exporter_traces_skipped_total"))
	if want := float64(b.opper.Len()); n != want {
		t.Errorf("%v traces are counted, open or delisted, %v are listed\n%s", n, want, b.log.String())
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
	// It must not keep other projects from being scraped.
	if code := get(b.t, scrape.ReadyHandler(b.collector())).Code; code != http.StatusOK {
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

// Opper may take minutes not to answer. A project that waits for it keeps no other from
// being scraped, however long its interval.
func TestStalledProjectIsReady(t *testing.T) {
	cfg := testConfig()
	cfg.Interval = 20 * time.Minute
	b := newBench(t, oppertest.Config{}, cfg)
	b.step(time.Hour)
	b.project.metrics.stall.begin()
	if b.collector().IsReady("") {
		t.Error("ready at the start of the initial sync")
	}
	b.step(minStall)
	if !b.collector().IsReady("") {
		t.Error("not ready while the initial sync makes no progress")
	}
}

// A header that chooses another project is as another key: an empty list is not what
// became of the one that is known.
func TestHeaderOfAnotherProjectEmptiesNothing(t *testing.T) {
	for name, header := range map[string]http.Header{"the same": {"X-Opper-Project": {"a"}}, "another": {"X-Opper-Project": {"b"}}} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Store, cfg.Opper.Header = new(storetest.Memory), http.Header{"X-Opper-Project": {"a"}}
			var err error
			if cfg.Opper.Key, err = opper.FixedKey(apiKey); err != nil {
				t.Fatal(err)
			}
			b := newBench(t, oppertest.Config{}, cfg)
			b.opper.FillHistory(500, 5, epoch.Add(-24*time.Hour), epoch.Add(-time.Minute))
			b.sync()
			b.opper.Fail(oppertest.Fault{Answer: oppertest.OtherProject(oppertest.New(oppertest.Config{Seed: 9, Now: b.now})), Times: -1})
			cfg.Opper.Header = header
			b.restarted(cfg)
			listed := b.project.ledger.Listed()
			b.project.sync(t.Context()) // an empty list is doubted at first
			b.step(2 * time.Minute)
			if b.project.sync(t.Context()) != (name == "the same") || name == "another" && b.project.ledger.Listed() != listed {
				t.Errorf("the log says\n%s", b.log.String())
			}
		})
	}
}

// A key that comes to belong to another project counts none of its traces.
func TestKeyOfAnotherProjectCountsNothing(t *testing.T) {
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

func TestEmptyListIsAValidAnswer(t *testing.T) {
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
func TestScrapesSeeWholeSyncs(t *testing.T) {
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
					t.Errorf("%v traces: a part of the initial sync", n)
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
func TestPrivateContentIsNotExposed(t *testing.T) {
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
