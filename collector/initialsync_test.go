package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/storetest"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

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

// commits counts what a store is given, and may refuse it.
type commits struct {
	*storetest.Memory
	n       int
	refused error
}

func (c *commits) Commit(project string, changes map[string][]byte, fresh bool) error {
	c.n++
	if c.refused != nil {
		return c.refused
	}
	return c.Memory.Commit(project, changes, fresh)
}

// An initial sync is committed in parts, by time and by rows, unless the state
// is of another upstream: that stays until the initial sync is complete.
func TestInitialSyncIsStoredInParts(t *testing.T) {
	stored := &commits{Memory: new(storetest.Memory)}
	cfg := testConfig()
	cfg.Store = stored
	b := newBench(t, oppertest.Config{}, cfg)
	for _, c := range []struct {
		read    int
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
		b.project.progress(syncer.Part{Read: c.read, Total: 10 * progressRows})
		if stored.n != c.commits {
			t.Errorf("%d commits after %d rows, want %d", stored.n, c.read, c.commits)
		}
	}

	cfg.UpstreamURL = "another upstream"
	again := newBench(t, oppertest.Config{}, cfg)
	again.step(progressInterval)
	again.project.progress(syncer.Part{Read: progressRows, Total: 10 * progressRows})
	if stored.n != 4 {
		t.Error("an initial sync replaced the state of another upstream before it was complete")
	}
}

// Abandoned traces have no order on disk, so a part of the initial sync holds few of
// them. A store that is full is not tried again with each page.
func TestInitialSyncStoresFewAbandonedTraces(t *testing.T) {
	stored := &commits{Memory: new(storetest.Memory)}
	cfg := testConfig()
	cfg.Store = stored
	b := newBench(t, oppertest.Config{}, cfg)
	var rows []ledger.Row
	read := func(n int, want int) {
		t.Helper()
		for range n {
			rows = append(rows, ledger.Row{ID: ledger.KeyOf(fmt.Sprint(len(rows))), Name: "agent", Start: b.now().Add(-2 * cfg.AbandonAfter)})
		}
		b.project.ledger.Observe(ledger.Run{Rows: rows, AtStart: true, When: ledger.When{Asked: b.now(), Read: b.now()}}, new(ledger.Events))
		b.project.progress(syncer.Part{})
		if stored.n != want {
			t.Errorf("%d commits after %d abandoned traces, want %d", stored.n, len(rows), want)
		}
	}
	read(progressEntries-1, 0)
	read(1, 1)
	read(progressEntries-1, 1)
	stored.refused = errors.New("no space left on device")
	read(1, 2)
	read(100, 2)
	stored.refused = errors.New("truncate: no space left on device")
	read(progressEntries-100, 3)
	stored.refused = nil
	read(progressEntries, 4)
	read(progressEntries, 5)
	if n := strings.Count(b.log.String(), "level=error"); n != 1 {
		t.Errorf("a full disk is logged %d times:\n%s", n, b.log.String())
	}
	if n := strings.Count(b.log.String(), "commits succeed again"); n != 1 {
		t.Errorf("room on the disk is logged %d times", n)
	}
}

// After an initial sync that failed, opper_up is 0 until one succeeds, however much of it
// is read meanwhile.
func TestInitialSyncIsUpOnceItSucceeds(t *testing.T) {
	cfg := testConfig()
	cfg.Concurrency = 1
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.FillHistory(1000, 3, epoch.Add(-2*time.Hour), epoch.Add(-time.Hour))
	up := func() float64 { return b.gather()["opper_up{}"] }
	var during []float64 // as each page is asked for
	inner := b.project.source
	b.project.source = func(p opper.Priority, at time.Time) syncer.Source {
		return observedSource{inner(p, at), func() { during = append(during, up()) }}
	}
	b.opper.Fail(oppertest.Fault{After: 4, Times: -1, Answer: oppertest.Respond(http.StatusForbidden, "application/json", "{}")})
	b.project.sync(t.Context())
	if len(during) < 5 || during[4] != 1 || up() != 0 {
		t.Errorf("up is %v in the first initial sync, and %v once it has failed", during, up())
	}
	b.opper.Clear()
	during = nil
	b.project.sync(t.Context())
	if len(during) < 5 || slices.Max(during) != 0 || up() != 1 {
		t.Errorf("up is %v in the second one, and %v after it", during, up())
	}
}

// observedSource calls a function before each page.
type observedSource struct {
	syncer.Source
	before func()
}

func (s observedSource) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	s.before()
	return s.Source.List(ctx, offset, limit)
}
