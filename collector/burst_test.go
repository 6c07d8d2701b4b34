package collector

import (
	"fmt"
	"testing"
	"time"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// A burst that one sync does not take in is read at once, however long the interval is.
func TestBurstIsReadWithoutWaiting(t *testing.T) {
	const before, burst = 30, 400
	for name, read := range map[string]func(*bench){
		"run": (*bench).start,
		"once": func(b *bench) {
			if err := b.project.readOnce(b.t.Context()); err != nil {
				b.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Interval, cfg.maxTaken = time.Hour, 50
			b := newBench(t, oppertest.Config{}, cfg)
			for i := range before {
				b.opper.Add(b.trace(i, "agent"))
			}
			b.sync()
			for i := range burst {
				b.opper.Add(b.open(before+i, "agent"))
			}
			read(b)
			promtest.Eventually(t, func() error {
				if n := b.gather()["opper_traces_open{agent}"]; n != burst {
					return fmt.Errorf("%v traces are open, want %d", n, burst)
				}
				return nil
			})
		})
	}
}
