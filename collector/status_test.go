package collector

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/status"
	"opper_exporter/collector/statuspage"
	"opper_exporter/collector/storetest"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper/oppertest"
)

// status returns that of the project, and checks that it says what the metrics say.
func (b *bench) status() status.Project {
	b.t.Helper()
	st, got := b.collector().Status()[0], b.gather()
	var last float64
	if !st.Sync.LastSuccess.IsZero() {
		last = float64(st.Sync.LastSuccess.UnixMilli()) / 1e3
	}
	if want := got["opper_exporter_last_success_timestamp_seconds{}"]; st.Sync.Up != (got["opper_up{}"] == 1) || last != want {
		b.t.Errorf("%+v, want up %v and the last success at %v", st.Sync, got["opper_up{}"], want)
	}
	traffic := values{"opper_exporter_api_received_bytes_total{}": st.Traffic.Bytes}
	for _, c := range st.Traffic.Codes {
		traffic["opper_exporter_api_requests_total{"+c.Code+"}"] = float64(c.Requests)
	}
	if want := got.of("opper_exporter_api_received_bytes_total", "opper_exporter_api_requests_total"); !reflect.DeepEqual(traffic, want) {
		b.t.Errorf("traffic %v, want %v", traffic, want)
	}
	p := st.Published
	if p == nil {
		if n := len(got.of("opper_traces_total")); n > 0 || st.Initial == nil {
			b.t.Errorf("nothing is published, but %d series are", n)
		}
		return st
	}
	published := values{
		"opper_traces_listed{}": float64(p.Listed), "opper_exporter_gaps_total{}": float64(p.Gaps), "opper_exporter_overflow_traces_total{}": float64(p.Overflow),
		"opper_exporter_traces_skipped_total{no_id}": float64(p.NoID), "opper_exporter_traces_skipped_total{vanished_open}": float64(p.VanishedOpen),
		"opper_exporter_trace_names{}": p.Distinct, "opper_exporter_trace_names_zero_pending{}": float64(p.ZeroPending),
	}
	for _, u := range p.Unmapped {
		published["opper_exporter_unmapped_status_total{"+u.Status+"}"] = float64(u.Traces)
	}
	want := got.of("opper_traces_listed", "opper_exporter_gaps_total", "opper_exporter_overflow_traces_total", "opper_exporter_traces_skipped_total",
		"opper_exporter_trace_names", "opper_exporter_trace_names_zero_pending", "opper_exporter_unmapped_status_total")
	if err := published.differs(want); err != nil {
		b.t.Errorf("published: %v", err)
	}
	if n := sum(got.of("opper_traces_open")); n != float64(p.Open) {
		b.t.Errorf("%d traces are open, want %v", p.Open, n)
	}
	for _, o := range p.Outcomes {
		var n float64
		for series, value := range got.of("opper_traces_total") {
			if strings.HasPrefix(series, "opper_traces_total{"+o.Name+",") {
				n += value
			}
		}
		if n != float64(o.Traces) {
			b.t.Errorf("%d traces of outcome %s, want %v", o.Traces, o.Name, n)
		}
	}
	return st
}

// What the status says of traces is what the metrics say, also while a sync fails and
// while zeros have not been read.
func TestStatusIsThatOfTheMetrics(t *testing.T) {
	read := false
	cfg := testConfig()
	cfg.AllRead = func(string, time.Time) bool { return read }
	cfg.Aggregate.MaxNames = 10
	b := newBench(t, oppertest.Config{}, cfg)
	if st := b.status(); st.Published != nil || !st.Sync.LastSuccess.IsZero() {
		t.Errorf("before the first sync: %+v", st)
	}
	b.opper.FillHistory(300, 8, epoch.Add(-24*time.Hour), epoch.Add(-2*time.Hour))
	b.opper.Add(b.open(1, "a"), b.open(2, "a"))
	b.sync()
	st := b.status()
	if st.Initial != nil || st.Published.Names != 9 || st.Published.Open != 2 || st.MaxNames != 10 || st.URL != b.project.cfg.UpstreamURL {
		t.Errorf("after the initial sync: %+v, %+v", st, st.Published)
	}
	tr := b.trace(3, "b")
	tr.Status = new("paused")
	b.opper.Add(tr)
	for range 2 {
		b.step(settle)
		b.sync()
		if p := b.status().Published; p.ZeroPending != 1 || p.Overflow != 0 {
			t.Errorf("before the zeros are read: %+v", p)
		}
	}
	read = true
	b.opper.Add(b.trace(4, "one too many"))
	for range 2 {
		b.step(settle)
		b.sync()
	}
	before := b.status()
	if p := before.Published; p.ZeroPending != 0 || p.Overflow != 1 || p.Names != 10 {
		t.Errorf("after they have been read: %+v", p)
	}
	b.opper.Add(b.trace(5, "b"))
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Times: -1})
	b.step(settle)
	b.project.sync(t.Context())
	if after := b.status(); after.Published != before.Published || after.Sync.Up {
		t.Errorf("a failed sync changed %+v to %+v", before, after)
	}
}

func TestStatusOfSyncs(t *testing.T) {
	store := &commits{Memory: new(storetest.Memory)}
	cfg := testConfig()
	cfg.Store = store
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "a"))
	b.sync()
	success := b.now()
	if st := b.status(); st.Sync.LastError != "" || !st.Sync.FailingSince.IsZero() || st.Sync.LastSuccess.After(success) {
		t.Errorf("after a sync: %+v", st.Sync)
	}

	b.opper.Fail(oppertest.Fault{Answer: oppertest.HTML, Times: -1})
	b.step(time.Minute)
	began := b.now()
	b.project.sync(t.Context())
	b.step(time.Minute)
	b.project.sync(t.Context())
	st := b.status().Sync
	if !st.FailingSince.Equal(began) || !st.FailedAt.Equal(b.now()) || !strings.Contains(st.LastError, "HTML page") || st.LastSuccess.After(success) {
		t.Errorf("while syncs fail: %+v", st)
	}

	b.opper.Clear()
	b.sync()
	if st := b.status().Sync; !st.FailingSince.IsZero() || !strings.Contains(st.LastError, "HTML page") || !st.LastSuccess.After(success) {
		t.Errorf("after a sync that succeeded: %+v", st)
	}

	// What is not on disk is not published, so that is a failure, too.
	store.refused = errors.New("no space left on device")
	success = b.now()
	b.step(time.Minute)
	b.project.sync(t.Context())
	if st := b.status().Sync; !st.FailingSince.Equal(b.now()) || !strings.Contains(st.LastError, "no space left on device") || st.LastSuccess.After(success) {
		t.Errorf("after a commit that failed: %+v", st)
	}
	store.refused = nil
	b.sync()
	if st := b.status().Sync; !st.FailingSince.IsZero() {
		t.Errorf("after a commit that succeeded: %+v", st)
	}

	b.project.metrics.stall.begin()
	b.step(time.Hour)
	if st := b.status().Sync; st.Unanswered != time.Hour || st.Up {
		t.Errorf("without an answer: %+v", st)
	}
}

func TestStatusOfTheInitialSync(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	if st := b.status().Initial; st.Total != 0 || st.Left(b.now()) != 0 {
		t.Errorf("before the first answer: %+v", st)
	}
	// It continues one of an earlier process, which tells nothing about the speed.
	b.project.progress(syncer.Part{Read: 1000, Total: 10_000})
	if got := b.status().Initial.Left(b.now()); got != 0 {
		t.Errorf("%v left after the first answer", got)
	}
	b.step(10 * time.Second)
	b.project.progress(syncer.Part{Read: 2000, Total: 10_000})
	if st := b.status().Initial; st.Read != 2000 || st.Total != 10_000 || st.Left(b.now()) != 80*time.Second {
		t.Errorf("%+v, %v left, want 80 s", st, st.Left(b.now()))
	}
	b.project.activity.synced(0, errors.New("it fails"))
	b.project.progress(syncer.Part{Read: 10_000, Total: 10_000})
	if st := b.status(); st.Initial.Left(b.now()) != 0 || !st.Sync.FailingSince.IsZero() {
		t.Errorf("at its end: %+v", st)
	}
}

// The rates are those of the last minutes.
func TestStatusOfTraffic(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	for range 60 {
		b.sync()
		b.step(20 * time.Second)
	}
	st := b.status().Traffic
	if st.Recent.Over < recentTraffic || st.Recent.Over > recentTraffic+2*trafficStep || len(b.project.activity.readings) > int(recentTraffic/trafficStep)+2 {
		t.Errorf("rates over %v from %d readings", st.Recent.Over, len(b.project.activity.readings))
	}
	// After the last sync, time has passed once more.
	if syncs := uint64(st.Recent.Over/(20*time.Second)) - 1; st.Recent.Requests != syncs || st.Requests() <= syncs {
		t.Errorf("%d requests in %d idle syncs of one each, %d in all", st.Recent.Requests, syncs, st.Requests())
	}
}

func TestStatusHasTheLastFailures(t *testing.T) {
	b := newBench(t, oppertest.Config{}, testConfig())
	b.opper.Add(b.open(1, "slow"))
	b.step(abandon)
	for i := range 30 {
		tr := b.trace(10+i, fmt.Sprint("agent ", i))
		tr.Status = new("error")
		b.opper.Add(tr)
		b.step(time.Second)
	}
	b.sync()
	b.step(settle)
	b.sync()
	got := b.status().Published.Failures
	if len(got) != 20 || got[0].Name != "agent 29" || got[19].Name != "agent 10" || got[0].ID != b.trace(39, "").ID || got[0].Duration != time.Second || got[0].Tokens != 100 || got[0].Outcome != "failure" {
		t.Errorf("%d failures: %+v", len(got), got)
	}
	if slices.ContainsFunc(got, func(f status.Failure) bool { return f.Name == "slow" }) {
		t.Error("an older one is among them")
	}
}

// Whatever Opper answers, the page holds nothing of it.
func TestStatusPageIsPrivate(t *testing.T) {
	for what, answer := range faults() {
		b := newBench(t, oppertest.Config{BodyBytes: 200}, testConfig())
		b.opper.FillHistory(20, 3, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
		page := func() string {
			w := httptest.NewRecorder()
			statuspage.New(statuspage.Config{TelemetryPath: "/metrics"}, b.collector().Status).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			return w.Body.String()
		}
		b.opper.Fail(oppertest.Fault{Answer: answer, Times: -1})
		b.project.sync(t.Context())
		text := page()
		if !strings.Contains(text, "Failing") {
			t.Errorf("%s: the page does not say so", what)
		}
		b.opper.Clear()
		b.sync()
		text += page()
		for _, private := range []string{oppertest.Secret, oppertest.ErrorMessage, apiKey} {
			if strings.Contains(text, private) {
				t.Errorf("%s: the page has %q", what, private)
			}
		}
	}
}

// The page can be asked for at any time.
func TestStatusWhileSyncing(t *testing.T) {
	cfg := testConfig()
	cfg.Interval = time.Millisecond
	b := newBench(t, oppertest.Config{NoRecord: true}, cfg)
	b.opper.FillHistory(1000, 10, epoch.Add(-24*time.Hour), epoch.Add(-time.Hour))
	b.start()
	for b.begins.Load() < 20 || !b.project.snapshots.isPublished() {
		b.collector().Status()
	}
}
