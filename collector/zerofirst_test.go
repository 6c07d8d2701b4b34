package collector

import (
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// benchWithScraper has counted a trace of the name known. Whether its scraper has read
// all that is exposed is up to read.
func benchWithScraper(t *testing.T, read *bool) *bench {
	t.Helper()
	cfg := testConfig()
	cfg.AllRead = func(string, time.Time) bool { return *read }
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "known"))
	b.step(time.Hour)
	b.sync()
	return b
}

// The counts of a later name are not shown while a scraper has not read its zeros, and
// for 10 minutes at most; what is known from the initial sync on is not.
func TestNewNamesAreExposedAtZeroFirst(t *testing.T) {
	read := false
	b := benchWithScraper(t, &read)
	see := func(known, read, unread, pending float64) {
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
		if n := got["opper_exporter_trace_names_zero_pending{}"]; n != pending {
			t.Errorf("%v names are zero-pending, want %v", n, pending)
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
		t.Error("a failed sync ended the wait of a name")
	}
	see(2, 2, 1, 0)
}

// A later status that maps to no outcome starts at 0, too, and is logged once.
func TestUnmappedStatusIsNamed(t *testing.T) {
	read := false
	b := benchWithScraper(t, &read)
	for i := range 2 {
		tr := b.trace(2+i, "known")
		tr.Status = new("Paused")
		b.opper.Add(tr)
	}
	b.sync()
	for _, want := range []float64{0, 2} {
		b.step(settle)
		b.sync()
		if got, ok := b.gather()["opper_exporter_unmapped_status_total{paused}"]; !ok || got != want {
			t.Errorf("%v (exposed: %t), want %v", got, ok, want)
		}
		read = true
	}
	if n := strings.Count(b.log.String(), "status=paused"); n != 1 {
		t.Errorf("%d lines name the status:\n%s", n, &b.log)
	}
}

// Lists of statuses that change apply to traces counted from then on, and what was
// unmapped stays so.
func TestMappingChangesAfterARestart(t *testing.T) {
	cfg := testConfig()
	cfg.Store = new(storetest.Memory)
	b := newBench(t, oppertest.Config{}, cfg)
	count := func(id int) {
		t.Helper()
		for i := range 2 {
			tr := b.trace(id+i, "a")
			tr.Status = new("Cancelled")
			b.opper.Add(tr)
		}
		b.sync()
		b.step(settle)
		b.sync()
	}
	count(1)
	cfg.Aggregate.Failure = append(slices.Clone(cfg.Aggregate.Failure), "cancelled")
	b.restarted(cfg)
	count(3)
	got := b.gather()
	for series, want := range map[string]float64{
		"opper_traces_total{unknown,a}": 2, "opper_traces_total{failure,a}": 2, "opper_exporter_unmapped_status_total{cancelled}": 2,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v", series, got[series], want)
		}
	}
	if p := b.status().Published; len(p.Unmapped) != 1 || !p.Unmapped[0].MapsNow {
		t.Errorf("the status page is told %+v", p.Unmapped)
	}
	if n := strings.Count(b.log.String(), "status=cancelled"); n != 1 {
		t.Errorf("%d lines name the status:\n%s", n, &b.log)
	}
}
