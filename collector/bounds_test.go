package collector

import (
	"fmt"
	"strings"
	"testing"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// What memory holds of a running trace does not grow with its name and its status,
// and it is counted under its own name nevertheless.
func TestLongNamesOfOpenTracesTakeNoMemory(t *testing.T) {
	const running, size = 30, 60_000
	state := new(storetest.Memory)
	cfg := testConfig()
	cfg.Store = state
	b := newBench(t, oppertest.Config{}, cfg)
	names := make([]string, running)
	for i := range names {
		names[i] = strings.Repeat("n", size) + fmt.Sprint(i)
		tr := b.open(i+1, names[i])
		tr.Status = new(strings.Repeat("s", size) + fmt.Sprint(i))
		b.opper.Add(tr)
	}
	b.sync()
	bytes := 0
	b.project.ledger.Open(func(r ledger.Row) { bytes += len(r.Name) + len(r.Status) })
	stored := 0
	for key, body := range state.Entries {
		stored += len(key) + len(body)
	}
	if bytes == 0 || stored == 0 || bytes > 300*running || stored > 2000*running {
		t.Errorf("%d traces hold %d bytes of names and statuses, and %d on disk", running, bytes, stored)
	}
	want := values{}
	for i, name := range names {
		b.finish(i + 1)
		want[fmt.Sprintf("opper_traces_total{success,%s}", aggregate.Label(name))] = 1
	}
	b.sync()
	b.step(2 * settle)
	b.sync()
	if err := b.gather().of("opper_traces_total").differs(want); err != nil {
		t.Error(err)
	}
}
