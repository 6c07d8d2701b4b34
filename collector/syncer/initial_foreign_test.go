package syncer

import (
	"errors"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
)

// The key comes to belong to another project in the middle of the first initial sync:
// nothing of that is taken in, neither at once nor after a restart.
func TestForeignListInInitialSync(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(800)
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(1000, 3, b.now().Add(-2*time.Hour), b.now())
	b.opper.Fail(oppertest.Fault{After: 3, Times: -1, Answer: oppertest.OtherProject(other)})
	for i := range 4 {
		b.step(settle + time.Second)
		if err := b.sync(); !errors.Is(err, ErrForeign) {
			t.Errorf("error %v", err)
		}
		for _, theirs := range other.Snapshot() {
			if b.ledger.HasSeen(ledger.KeyOf(theirs.ID)) {
				t.Fatalf("sync %d: a row of another list is taken in", i)
			}
		}
		state, err := b.syncer.State()
		if err != nil {
			t.Fatal(err)
		}
		b.syncer = New(b.syncer.cfg, b.ledger)
		if err := b.syncer.Restore(state); err != nil {
			t.Fatal(err)
		}
	}
	b.opper.Clear()
	b.mustSync()
	b.quiet()
	b.check()
}
