package collector

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// usageOrganization is an Opper with several projects, whose usage is read with their keys.
type usageOrganization struct {
	*clock
	t     testing.TB
	usage *oppertest.Usage
	lists oppertest.Projects
	http  *httptest.Server
	log   promtest.Output
	c     *Collector

	settings  string // of the projects
	store     Store  // nil keeps nothing
	intervals map[string]time.Duration
}

// uuidOf and keyOf are those of a project of an organization, by its name.
func uuidOf(name string) string { return "uuid-of-" + name }
func keyOf(name string) string  { return "the-key-of-" + name }

func newUsageOrganization(t testing.TB, troubles oppertest.UsageTroubles, names ...string) *usageOrganization {
	t.Helper()
	o := &usageOrganization{clock: new(clock), t: t, lists: oppertest.Projects{}}
	o.us.Store(epoch.UnixMicro())
	o.usage = oppertest.NewUsage(oppertest.UsageConfig{Now: o.now})
	o.usage.SetTroubles(troubles)
	for _, name := range names {
		o.lists[keyOf(name)] = oppertest.New(oppertest.Config{Now: o.now, Key: keyOf(name), Usage: o.usage, Project: uuidOf(name)})
	}
	o.http = httptest.NewServer(o.lists)
	t.Cleanup(o.http.Close)
	return o
}

// configure makes these the configured projects.
func (o *usageOrganization) configure(names ...string) {
	o.t.Helper()
	var projects []config.Project
	for _, name := range names {
		key, err := opper.FixedKey(keyOf(name))
		if err != nil {
			o.t.Fatal(err)
		}
		cfg := usageConfig().Project
		cfg.Name, cfg.Opper, cfg.UpstreamURL, cfg.MaxModels = name, opper.Options{URL: o.http.URL, Key: key}, o.http.URL, 50
		if interval, ok := o.intervals[name]; ok {
			cfg.UsageInterval, cfg.Aggregate.Costs = interval, interval > 0
		}
		cfg.Digest = fmt.Sprint(name, o.settings, cfg.UsageInterval)
		projects = append(projects, cfg)
	}
	var err error
	if o.c == nil {
		o.c, err = New(projects, Deps{Logger: log.NewLogfmtLogger(&o.log), Clock: followingClock(o.now), Store: o.store})
	} else {
		err = o.c.Apply(projects)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// run lets all projects sync and read usage each minute for a while.
func (o *usageOrganization) run(minutes int) {
	for range minutes {
		for _, p := range o.c.all() {
			if p.sync(o.t.Context()); p.usage.isOn() {
				p.countUsage(p.usage.request(p.aggregates.WaitingSince()).read(o.t.Context(), p.usage.source()))
			}
		}
		o.step(time.Minute)
	}
}

// call makes a call in a project, with a trace that is listed if it is to be.
func (o *usageOrganization) call(name string, cost int64, listed bool) {
	id := ""
	if list := o.lists[keyOf(name)]; listed {
		id = fmt.Sprintf("%s-%d", name, list.Len())
		list.Add(oppertest.Trace{ID: id, Name: &name, Status: new("success"), Start: new(o.now()), End: new(o.now())})
	}
	o.usage.Add(oppertest.Call{Time: o.now(), Model: new("m"), Project: uuidOf(name), Trace: id, Amounts: oppertest.Amounts{Cost: cost}})
}

// costs returns the cost by project and by Opper project.
func (o *usageOrganization) costs() map[[2]string]float64 {
	o.t.Helper()
	costs := map[[2]string]float64{}
	families, err := o.c.Gatherer("").Gather()
	if err != nil {
		o.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "opper_usage_cost_usd_total" {
				costs[[2]string{labelOf(m, "project"), labelOf(m, "opper_project")}] += m.GetCounter().GetValue()
			}
		}
	}
	return costs
}

func (o *usageOrganization) expect(want map[[2]string]float64) {
	o.t.Helper()
	if got := o.costs(); fmt.Sprint(got) != fmt.Sprint(want) {
		o.t.Errorf("costs are %v, want %v\n%s", got, want, o.log.String())
	}
}

const dollar = 1_000_000_000

// Keys that see their own project count that, and say nothing of Opper's projects.
func TestKeysOfTheirOwnProject(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{}, "a", "b")
	o.configure("a", "b")
	o.call("a", dollar, true)
	o.call("b", 2*dollar, false)
	o.run(3)
	o.expect(map[[2]string]float64{{"a", ""}: 1, {"b", ""}: 2})
	o.call("a", dollar, false)
	o.run(2)
	o.expect(map[[2]string]float64{{"a", ""}: 2, {"b", ""}: 2})
}

// A key that sees the whole organization, alone: each Opper project in a label value.
func TestOrganizationWideKey(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true}, "a", "b")
	o.configure("a")
	o.call("a", dollar, false)
	o.call("b", 2*dollar, false)
	o.run(3)
	o.expect(map[[2]string]float64{{"a", uuidOf("a")}: 1, {"a", uuidOf("b")}: 2})
}

// Usage that is read before it can be known which Opper project is the key's own is not
// published under the labels of another: that would be so for good.
func TestOrganizationWideKeyAwaitsProof(t *testing.T) {
	proven := map[[2]string]float64{{"a", ""}: 1, {"a", uuidOf("b")}: 2}
	unproven := map[[2]string]float64{{"a", uuidOf("a")}: 1, {"a", uuidOf("b")}: 2}
	none := map[[2]string]float64{}
	for _, c := range []struct {
		what             string
		isListed, isRead func(minute int) bool // the list, and usage by trace
		refuses          []string              // groups of usage
		early, later     map[[2]string]float64 // costs after 3 minutes, and after 22
	}{
		{"all is read", always, always, nil, proven, proven},
		{"the list is read later", after(5), always, nil, none, proven},
		{"usage by trace is read later", always, after(14), nil, none, proven},
		{"both are", after(5), after(3), nil, none, proven},
		{"usage by trace is not read", always, after(100), nil, none, unproven},
		{"it is refused", always, always, []string{"trace_uuid"}, unproven, unproven},
	} {
		o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true, RefuseGroups: c.refuses}, "a", "b")
		o.configure("a")
		o.run(2) // without any usage
		o.call("a", dollar, true)
		o.call("b", 2*dollar, false)
		p := o.c.all()[0]
		if !c.isListed(0) {
			o.c = nil // which has not read the list
			o.configure("a")
			p = o.c.all()[0]
		}
		for minute := range 20 {
			if c.isListed(minute) {
				p.sync(t.Context())
			}
			a := p.usage.request(p.aggregates.WaitingSince()).read(t.Context(), p.usage.source())
			if a.asked[byTrace] && !c.isRead(minute) {
				a.traces, a.errs[byTrace] = nil, &opper.Error{Status: 503}
			}
			p.countUsage(a)
			if minute == 2 {
				t.Log(c.what) // as what follows does not say it
				o.expect(c.early)
			}
			o.step(time.Minute)
		}
		o.run(2)
		o.expect(c.later)
	}
}

// Two keys that both see the whole organization: the traces of each prove which usage is
// its own, and nothing is counted for both.
func TestTwoKeysOfOneOrganization(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true}, "a", "b", "c")
	o.configure("a", "b")
	o.call("b", 2*dollar, false)
	o.call("c", 4*dollar, false) // of a project that is not configured
	o.run(2)
	o.expect(map[[2]string]float64{})
	o.call("a", dollar, true)
	o.call("b", 2*dollar, true)
	o.run(40)
	o.expect(map[[2]string]float64{{"a", ""}: 1, {"b", ""}: 4, {"a", uuidOf("c")}: 4})
	o.call("a", dollar, false)
	o.call("b", dollar, true)
	o.call("c", dollar, false)
	o.run(2)
	o.expect(map[[2]string]float64{{"a", ""}: 2, {"b", ""}: 5, {"a", uuidOf("c")}: 5})
}

// A key in its initial sync reads no usage: what it will prove to be its own, no other
// key counts meanwhile.
func TestTwoKeysOfOneOrganizationDuringAnInitialSync(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true}, "a", "b")
	o.configure("a", "b")
	o.call("a", dollar, true)
	o.call("b", 2*dollar, true)
	a := o.c.all()[0]
	for range 180 {
		a.sync(t.Context())
		a.countUsage(a.usage.request(a.aggregates.WaitingSince()).read(t.Context(), a.usage.source()))
		o.step(time.Minute)
	}
	o.expect(map[[2]string]float64{})
	o.run(2)
	o.expect(map[[2]string]float64{{"a", ""}: 1, {"b", ""}: 2})
}

// Where nothing proves whose the usage is, the first project that sees it counts it, in
// the name of the Opper project.
func TestTwoKeysOfOneOrganizationWithoutTraces(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true}, "a", "b")
	o.configure("a", "b")
	o.call("a", dollar, false)
	o.call("b", 2*dollar, false)
	o.run(10)
	o.expect(map[[2]string]float64{})
	if st := o.c.Status()[0].Usage; !st.IsUndecided {
		t.Errorf("the status does not say that it is undecided: %+v", st)
	}
	o.run(10)
	if st := o.c.Status()[0].Usage; st.IsUndecided {
		t.Errorf("the status says that it is undecided: %+v", st)
	}
	o.expect(map[[2]string]float64{{"a", uuidOf("a")}: 1, {"a", uuidOf("b")}: 2})
}

// A project that is added while another counts all of the organization counts its own
// from then on.
func TestProjectAddedToAnOrganization(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{OrganizationWide: true}, "a", "b", "c")
	o.configure("a")
	o.call("a", dollar, true)
	o.call("b", 2*dollar, true)
	o.call("c", 4*dollar, true)
	o.run(3)
	o.configure("a", "b")
	for range 20 {
		o.call("b", dollar, true)
		o.run(1)
	}
	o.run(3)
	costs := o.costs()
	if moved := costs[[2]string{"b", ""}]; moved < 15 || moved+costs[[2]string{"a", uuidOf("b")}] != 22 {
		t.Errorf("costs are %v, want most of b's 22 dollars at b, and the rest at a", costs)
	}
}

// Two keys that both see the whole organization, of which Opper tells no projects apart:
// one of them counts all. What it has counted so is not counted again when Opper does.
func TestTwoKeysOfOneOrganizationWithoutOpperProjects(t *testing.T) {
	const project = string(opper.GroupProject)
	for _, c := range []struct {
		what     string
		troubles oppertest.UsageTroubles
	}{
		{"refused", oppertest.UsageTroubles{OrganizationWide: true, RefuseGroups: []string{project}}},
		{"ignored", oppertest.UsageTroubles{OrganizationWide: true, NoGroups: []string{project}}},
		{"null", oppertest.UsageTroubles{OrganizationWide: true, Nulls: 1}},
	} {
		for _, isListed := range []bool{false, true} {
			t.Log(c.what, isListed) // as what follows does not say it
			o := newUsageOrganization(t, c.troubles, "a", "b")
			o.configure("a", "b")
			o.call("a", dollar, isListed)
			o.call("b", 2*dollar, isListed)
			o.run(90)
			o.expect(map[[2]string]float64{{"a", ""}: 3})
			if n := strings.Count(o.log.String(), `level=warn project=b msg="usage is that of another project, which counts it" counted_by=a`); n != 1 {
				t.Errorf("%d warnings: %s", n, o.log.String())
			}
			if c.what == "null" { // the calls stay so
				continue
			}
			o.usage.SetTroubles(oppertest.UsageTroubles{OrganizationWide: true})
			o.run(60)
			o.call("a", dollar, true)
			o.call("b", 2*dollar, true)
			o.run(60)
			var sum float64
			for _, cost := range o.costs() {
				sum += cost
			}
			if sum != 6 {
				t.Errorf("costs are %v, want 6 in all", o.costs())
			}
		}
	}
}

// Keys that see their own usage each count it, if Opper tells no projects apart either.
func TestKeysOfTheirOwnProjectWithoutOpperProjects(t *testing.T) {
	o := newUsageOrganization(t, oppertest.UsageTroubles{RefuseGroups: []string{string(opper.GroupProject)}}, "a", "b")
	o.configure("a", "b")
	o.call("a", dollar, true)
	o.call("b", 2*dollar, false)
	o.run(90)
	o.expect(map[[2]string]float64{{"a", ""}: 1, {"b", ""}: 2})
}

func always(int) bool { return true }

func after(minutes int) func(int) bool { return func(minute int) bool { return minute >= minutes } }
