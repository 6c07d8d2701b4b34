package collector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"opper_exporter/collector/store"
	"opper_exporter/collector/storetest"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper/oppertest"
)

// brokenStore is a Store that breaks at a commit.
type brokenStore struct {
	*storetest.Memory
	commits int // until it does
}

func (s *brokenStore) Commit(project string, changes map[string][]byte, fresh bool) error {
	if s.commits--; s.commits < 0 {
		return fmt.Errorf("the disk failed: %w", store.ErrBroken)
	}
	return s.Memory.Commit(project, changes, fresh)
}

// A store that breaks ends Run, in the initial sync as well as later, and
// nothing is published that it does not hold.
func TestBrokenStoreEndsRun(t *testing.T) {
	for _, commits := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(commits), func(t *testing.T) {
			cfg := testConfig()
			cfg.Interval = 1
			cfg.Store = &brokenStore{new(storetest.Memory), commits}
			b := newBench(t, oppertest.Config{}, cfg)
			b.opper.Add(oppertest.Sample())
			if err := b.collector().Run(context.Background()); !errors.Is(err, store.ErrBroken) {
				t.Errorf("Run ends with %v", err)
			}
			select {
			case <-b.project.snapshots.ready:
				if commits == 0 {
					t.Error("something is published")
				}
			default:
				if commits > 0 {
					t.Error("nothing is published")
				}
			}
			if log := b.log.String(); strings.Contains(log, "level=error") {
				t.Errorf("logged before the end of the process: %s", log)
			}
		})
	}
}

// An initial sync that would take for ever ends with the store that takes its
// parts.
func TestBrokenStoreEndsTheInitialSync(t *testing.T) {
	cfg := testConfig()
	cfg.Interval = 1
	cfg.Store = &brokenStore{new(storetest.Memory), 0}
	b := newBench(t, oppertest.Config{}, cfg)
	b.opper.Add(oppertest.Sample())
	hang := make(chan struct{})
	defer close(hang)
	b.opper.OnRequest(func(oppertest.Request) {
		b.project.progress(syncer.Part{Read: progressRows, Total: 10 * progressRows})
		<-hang
	})
	if err := b.collector().Run(context.Background()); !errors.Is(err, store.ErrBroken) {
		t.Errorf("Run ends with %v", err)
	}
}
