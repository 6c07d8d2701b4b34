package collector

import (
	"testing"
	"time"

	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// heldCommits is a Store whose commits hang while they are held.
type heldCommits struct {
	*storetest.Memory
	held             bool
	reached, release chan struct{}
}

func (s *heldCommits) Commit(project string, changes map[string][]byte, fresh bool) error {
	if s.held {
		s.reached <- struct{}{}
		<-s.release
	}
	return s.Memory.Commit(project, changes, fresh)
}

// While the commit of usage hangs, nothing is synced, and opper_up tells of it.
func TestCommitOfUsageHangs(t *testing.T) {
	store := &heldCommits{Memory: new(storetest.Memory), reached: make(chan struct{}), release: make(chan struct{})}
	cfg := usageConfig()
	cfg.Store = store
	u := newUsageBench(t, cfg, oppertest.UsageTroubles{})
	u.sync()
	u.call("m", "", oppertest.Amounts{Cost: dollar})
	store.held = true
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		u.read()
	}()
	<-store.reached
	u.step(minStall)
	u.expect(values{"opper_up{}": 0})
	close(store.release)
	<-ended
	u.expect(values{"opper_usage_cost_usd_total{m,}": 1})
	u.step(time.Minute)
	u.expect(values{"opper_up{}": 0}) // until a sync succeeds
	store.held = false
	u.sync()
}
