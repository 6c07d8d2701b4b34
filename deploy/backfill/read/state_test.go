package read

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector"
	"opper_exporter/collector/store"
	"opper_exporter/opper/oppertest"
)

// A trace that the initial sync of the state left out, as it had ended before, is in no
// event.
func TestStateWithALookback(t *testing.T) {
	b := newBench(t, "--collector.initial-lookback=5d")
	b.fill(1_000, 3)
	made, dir := b.read("")
	got, _ := b.read(dir)
	first := eventsOf(made.Projects[0])
	if len(first) < 100 || len(first) > 300 {
		t.Fatalf("%d events", len(first))
	}
	b.same(eventsOf(got.Projects[0]), first)
}

// Where another upstream was counted before, the series are older than the state.
func TestRenewedStateIsKnown(t *testing.T) {
	before, after := newBench(t), newBench(t)
	before.fill(100, 3)
	after.opper.Add(oppertest.Trace{ID: "another", Name: new("another"), End: new(after.began.Add(-time.Hour))})
	_, dir := before.read("")
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := collector.New(after.projects(), collector.Deps{Logger: log.NewNopLogger(), Clock: collector.NewClock(), Store: state})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmp.Or(c.ReadOnce(t.Context()), state.Close()); err != nil {
		t.Fatal(err)
	}
	if got, _ := after.read(dir); !got.Renewed || len(got.Projects[0].Events) != 1 {
		t.Errorf("renewed %t, %d events", got.Renewed, len(got.Projects[0].Events))
	}
}

// A state that counts something other than what is configured has no history here.
func TestOtherStatesAreRefused(t *testing.T) {
	b := newBench(t)
	b.fill(100, 3)
	_, dir := b.read("")
	begun := filepath.Join(t.TempDir(), "begun")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	interrupted := Config{Projects: b.projects(), Directory: begun, Logger: log.NewNopLogger(), Progress: func(int, int) {}}
	if _, err := Run(ctx, interrupted); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	used := filepath.Join(t.TempDir(), "used")
	state, err := store.Open(used)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close() //nolint:errcheck // nothing was written
	for name, c := range map[string]struct {
		state string
		args  []string
		want  string
	}{
		"none":                {filepath.Join(dir, "none"), nil, "no such file or directory"},
		"empty directory":     {t.TempDir(), nil, "there is no state in "},
		"no state at all":     {"read_test.go", nil, "is damaged"},
		"in use":              {used, nil, "is in use by another process: stop the exporter, or use a copy, as POST /-/snapshot makes"},
		"of another project":  {dir, []string{"--opper.project=checkout"}, `project "checkout": there is no state of it, only of "default"`},
		"of another upstream": {dir, []string{"--opper.name-filter=agent"}, `with the name filter "", not that of --opper.url and --opper.name-filter, `},
		"other buckets":       {dir, []string{"--collector.duration-buckets=1,2"}, "not those of --collector.duration-buckets"},
		"other token buckets": {dir, []string{"--collector.token-buckets=1,2"}, "not those of --collector.token-buckets"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), Config{Projects: b.projects(c.args...), State: c.state, Directory: t.TempDir(), Logger: log.NewNopLogger(), Progress: func(int, int) {}})
			if err == nil || !strings.HasPrefix(err.Error(), "--state: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
