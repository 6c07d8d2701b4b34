package collector

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

const nameExpiry = 10 * day

// restarted is the exporter after a restart with other settings.
func (b *bench) restarted(cfg setup) {
	b.t.Helper()
	cfg.now, cfg.Logger, cfg.source = b.now, b.project.logger, b.project.source
	b.project = newTestProject(b.t, cfg, newInstrumentation(cfg.Name, cfg.NativeHistograms))
}

// seriesOf returns how many series there are of a name.
func (v values) seriesOf(name string) (n int) {
	for key := range v {
		if _, labels, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{"); labels == name || strings.HasSuffix(labels, ","+name) {
			n++
		}
	}
	return n
}

// created returns when the counters of a name began.
func (b *bench) created(name string) time.Time {
	b.t.Helper()
	for _, n := range b.project.aggregates.All() {
		if n.Label == name {
			return n.Created
		}
	}
	b.t.Fatalf("no aggregate of %s", name)
	return time.Time{}
}

// succeeded fails the test unless the status page shows this number of successful traces.
func (b *bench) succeeded(want uint64) {
	b.t.Helper()
	if got := b.project.status().Published.Outcomes[aggregate.Success].Traces; got != want {
		b.t.Errorf("the status shows %d traces that succeeded, want %d", got, want)
	}
}

// All series of a name end in one snapshot, in the transaction of a sync, and begin
// at 0, later, when the name returns.
func TestNameExpiresAndReturns(t *testing.T) {
	read, stored := true, &failingMemory{}
	cfg := testConfig()
	cfg.AllRead = func(string, time.Time) bool { return read }
	cfg.Aggregate.NameExpiry, cfg.Store = nameExpiry, stored
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "retired"), b.trace(2, "used"), b.open(3, "waiting"))
	b.step(settle)
	b.sync()
	all := b.gather().seriesOf("retired")
	began := b.created("retired")
	if all < 4+4+3 {
		t.Fatalf("%d series", all)
	}
	b.step(2 * nameExpiry) // the trace is listed all the time
	b.sync()
	b.opper.Delete(b.trace(1, "").ID)
	b.restarted(cfg)
	b.sync()
	b.step(nameExpiry - time.Minute)
	b.opper.Add(b.trace(4, "used"), b.open(5, "waiting"))
	b.sync()
	b.step(settle)
	b.sync()
	if n := b.gather().seriesOf("retired"); n != all {
		t.Fatalf("%d of %d series before the expiry", n, all)
	}

	b.step(time.Minute)
	stored.fails = true
	b.project.sync(t.Context())
	stored.fails = false
	if n := b.gather().seriesOf("retired"); n != all {
		t.Errorf("%d of %d series, though the expiry is not durable", n, all)
	}
	b.succeeded(3)
	b.sync()
	expired := b.now()
	got := b.gather()
	if n := got.seriesOf("retired"); n != 0 {
		t.Errorf("%d series are left", n)
	}
	if n := len(b.project.snapshots.names); n != 2 {
		t.Errorf("the metrics of %d names are in memory", n)
	}
	for key, want := range map[string]float64{
		"opper_exporter_trace_names_expired_total{}": 1, "opper_exporter_trace_names{}": 2,
		"opper_traces_total{success,used}": 2, "opper_traces_open{waiting}": 1,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	b.succeeded(3)
	if !strings.Contains(b.log.String(), `msg="trace names expired" count=1 trace_names=retired`) {
		t.Errorf("no line of the log:\n%s", &b.log)
	}

	b.restarted(cfg)
	b.sync()
	if n := b.gather().seriesOf("retired"); n != 0 {
		t.Errorf("%d series after a restart", n)
	}
	b.succeeded(3)
	read = false
	b.opper.Add(b.trace(6, "retired"), b.trace(7, "retired"))
	b.sync()
	b.step(settle)
	for _, want := range []float64{0, 2} {
		b.sync()
		if n, ok := b.gather()["opper_traces_total{success,retired}"]; !ok || n != want {
			t.Errorf("%v after the return (exposed: %t), want %v", n, ok, want)
		}
		read = true
	}
	b.succeeded(5)
	if again := b.created("retired"); again.Before(expired.Add(-time.Minute)) || !again.After(began) {
		t.Errorf("created at %v, want no earlier than %v", again, expired)
	}
}

// failingMemory is a store whose commits may fail.
type failingMemory struct {
	storetest.Memory
	fails bool
}

func (m *failingMemory) Commit(project string, changes map[string][]byte, fresh bool) error {
	if m.fails {
		return errors.New("no space left on device")
	}
	return m.Memory.Commit(project, changes, fresh)
}

// A name that is excluded at a restart leaves with the first sync, and its place is
// free for one that overflowed.
func TestExcludedNameLeaves(t *testing.T) {
	cfg := testConfig()
	cfg.Store, cfg.Aggregate.MaxNames = new(storetest.Memory), 1
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "test"), b.trace(2, "test"), b.trace(3, "agent"))
	b.step(settle)
	b.sync()
	cfg.Aggregate.Exclude = regexp.MustCompile("^test$")
	b.restarted(cfg)
	b.sync()
	if n := b.gather().seriesOf("test"); n != 0 {
		t.Errorf("%d series are left", n)
	}
	if !strings.Contains(b.log.String(), `msg="excluded trace names removed" count=1 trace_names=test`) {
		t.Errorf("no line of the log:\n%s", &b.log)
	}
	b.opper.Add(b.trace(4, "agent"))
	b.sync()
	b.step(settle)
	b.sync()
	b.sync()
	if err := b.gather().of("opper_traces_total", "opper_exporter_trace_names_expired_total").differs(values{
		"opper_traces_total{success,agent}": 1, "opper_traces_total{success,(other)}": 1,
	}); err != nil {
		t.Error(err)
	}
}

// What an earlier process exposed after its last sync that is stored is not known,
// so a name that is seen after a restart began no earlier than the process.
func TestNameSeenAfterRestartIsNoOlderThanProcess(t *testing.T) {
	cfg := testConfig()
	cfg.Store = new(storetest.Memory)
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(b.trace(1, "before"))
	b.step(settle)
	b.sync()
	b.step(time.Hour)
	began := b.now()
	b.restarted(cfg)
	b.opper.Add(b.trace(2, "after"))
	b.sync()
	b.step(settle)
	b.sync()
	if created := b.created("after"); created.Before(began) {
		t.Errorf("created at %v, before the process at %v", created, began)
	}
}
