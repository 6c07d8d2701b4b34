package e2e_test

import (
	"fmt"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

// What was counted of one list is not added to what is counted of another.
func TestAnotherUpstreamRestartsCounters(t *testing.T) {
	t.Parallel()
	s := history(300, 6)
	url, stored := opper(t, s), "--storage.path="+t.TempDir()
	p := start(t, url, stored, oneSync)
	p.AwaitReady(t)
	p.Stop(t)

	other, empty := opper(t, history(120, 7)), opper(t, history(0, 7))
	for _, test := range []struct {
		url  string
		args []string
		want float64
	}{
		{other, nil, 120},
		{empty, nil, 0},
		{other, nil, 120},
		{other, []string{"--opper.name-filter=agent-03"}, 20},
	} {
		p := start(t, test.url, append(test.args, stored, oneSync)...)
		address := p.AwaitReady(t)
		p.AwaitLog(t, "level=warn", "upstream changed, counters restart from zero")
		r := exportertest.MustScrape(t, address)
		if n, of := r.Lasting.Total("opper_traces_total", ""), r.Rest.Total("opper_traces_listed", ""); n != of || (n == 0) != (test.want == 0) || n > test.want {
			t.Errorf("%v traces are counted of %v listed ones", n, of)
		}
		p.Stop(t)
	}
}

// Another address of the same list changes no number, however much is new.
func TestAnotherURLOfTheSameList(t *testing.T) {
	t.Parallel()
	s := history(300, 6)
	stored := "--storage.path=" + t.TempDir()
	p := start(t, opper(t, s), stored, oneSync, noSettle)
	was := exportertest.MustScrape(t, p.AwaitReady(t))
	p.Stop(t)

	total := was.Lasting.Total("opper_traces_total", "")
	for i := range 3 {
		for j := range 150 * i {
			s.Add(ended(fmt.Sprintf("agent %d of %d", j%3, i)))
		}
		total += float64(150 * i)
		p = start(t, opper(t, s), stored, fast, noSettle)
		address := p.AwaitReady(t)
		p.AwaitLog(t, "level=info", "upstream changed to another URL of the same list")
		if i == 0 {
			same(t, was, exportertest.MustScrape(t, address))
		}
		until(t, address, "opper_traces_total", "", total)
		r := until(t, address, "opper_exporter_syncs_total", `result="success"`, 5)
		if n := r.Lasting.Total("opper_traces_total", ""); n != total {
			t.Errorf("%v traces are counted, want %v", n, total)
		}
		p.Stop(t)
	}
}
