package collector

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// memories is a Store of many projects, which are restored at once.
type memories struct {
	mu  sync.Mutex
	all map[string]*storetest.Memory
}

func (m *memories) of(project string) *storetest.Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[project] == nil {
		m.all[project] = new(storetest.Memory)
	}
	return m.all[project]
}

// Load implements Store.
func (m *memories) Load(project string, visit func(string, []byte) error) (bool, error) {
	return m.of(project).Load(project, visit)
}

// Projects implements Store.
func (m *memories) Projects() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.all)), nil
}

// Commit implements Store.
func (m *memories) Commit(project string, changes map[string][]byte, fresh bool) error {
	return m.of(project).Commit(project, changes, fresh)
}

// usageReloads is an organization whose projects change while calls are made.
type usageReloads struct {
	*usageOrganization
	rng     *rand.Rand
	running []string
	shown   map[[2]string]float64 // costs that each series had last, in dollars
	rises   float64               // of all series
	spent   float64               // by all calls
	told    []string              // what has happened
}

var reloadedProjects = []string{"a", "b", "c"}

func newUsageReloads(t *testing.T, troubles oppertest.UsageTroubles, seed uint64) *usageReloads {
	t.Helper()
	r := &usageReloads{rng: rand.New(rand.NewPCG(seed, 16)), shown: map[[2]string]float64{}}
	r.usageOrganization = newUsageOrganization(t, troubles, reloadedProjects...)
	r.store, r.intervals = &memories{all: map[string]*storetest.Memory{}}, map[string]time.Duration{}
	if r.running = []string{"a", "b"}; troubles.RefuseGroups != nil {
		r.running = slices.Clone(reloadedProjects) // a new one cannot be known to see what another has counted
	}
	for _, name := range reloadedProjects {
		r.intervals[name] = time.Minute
		if r.call(name, dollar, true); troubles.OrganizationWide || name != "c" {
			r.spent++ // the others are configured
		}
	}
	r.reload()
	r.pass(200)
	return r
}

func (r *usageReloads) reload() {
	slices.Sort(r.running)
	r.told = append(r.told, fmt.Sprintf("%v restarted: %v, reload: %v, off %v: %v counted, %v spent, %v", r.now().Format("02 15:04"), r.c == nil, r.running, r.intervals, r.rises, r.spent, r.shown))
	r.configure(r.running...)
	r.watch()
}

// pass lets time pass, and projects sync and read.
func (r *usageReloads) pass(minutes int) {
	for range minutes / 5 {
		r.run(1)
		r.watch()
		r.step(4 * time.Minute)
	}
}

// spend makes calls in all projects of the organization that a configured key sees.
func (r *usageReloads) spend(names []string) {
	for range 1 + r.rng.IntN(4) {
		r.call(names[r.rng.IntN(len(names))], dollar, r.rng.IntN(2) == 0)
		r.spent++
		r.pass(5 * r.rng.IntN(3))
	}
}

// watch fails if a series falls, also while its project was not configured.
func (r *usageReloads) watch() {
	r.t.Helper()
	for series, cost := range r.costs() {
		before := r.shown[series]
		if cost < before {
			r.t.Fatalf("%v fell from %v to %v\n%s", series, before, cost, strings.Join(r.told, "\n"))
		}
		r.rises += cost - before
		r.shown[series] = cost
	}
	if r.rises > r.spent {
		r.t.Fatalf("%v dollars are counted, and %v were spent: %v\n%s", r.rises, r.spent, r.shown, strings.Join(r.told, "\n"))
	}
}

// expectAll fails if not all was counted that was spent.
func (r *usageReloads) expectAll(what string) {
	r.t.Helper()
	r.pass(200)
	if r.rises != r.spent {
		r.t.Fatalf("%s: %v dollars are counted, and %v were spent: %v\n%s", what, r.rises, r.spent, r.shown, strings.Join(r.told, "\n"))
	}
}

// Whatever a reload changes of how often usage is read, or a restart meanwhile, all of it is
// counted once: also what was spent while it was switched off.
func TestReloadOfTheUsageInterval(t *testing.T) {
	for _, isOrgWide := range []bool{false, true} {
		r := newUsageReloads(t, oppertest.UsageTroubles{OrganizationWide: isOrgWide}, 1)
		for range 15 {
			r.spend(r.running)
			switch name := r.running[r.rng.IntN(2)]; r.rng.IntN(5) {
			case 0:
				r.c = nil // a restart
			case 1: // all, or others would take over what it counts
				for _, name := range r.running {
					r.intervals[name] = 0
				}
				r.reload()
				if len(r.costs()) > 0 {
					t.Errorf("costs are shown where usage is off: %v", r.costs())
				}
				r.spend(r.running)
				for _, name := range r.running {
					r.intervals[name] = time.Minute
				}
			default:
				r.intervals[name] = time.Duration(1+r.rng.IntN(3)) * time.Minute
			}
			r.reload()
			r.spend(r.running)
			r.expectAll(fmt.Sprintf("organization-wide: %v", isOrgWide))
		}
	}
}

// Projects come and go with keys that see the whole organization, so that what one counts
// another does: nothing is counted twice, and nothing falls. Once it is decided who counts
// what, nothing is lost. So it is as well if Opper tells no projects apart.
func TestReloadThatMovesUsage(t *testing.T) {
	for seed := range uint64(8) {
		troubles := oppertest.UsageTroubles{OrganizationWide: true}
		if seed%2 == 1 {
			troubles.RefuseGroups = []string{string(opper.GroupProject)}
		}
		r := newUsageReloads(t, troubles, seed)
		for range 12 {
			r.change()
			r.reload()
			r.spend(reloadedProjects)
			r.expectAll(fmt.Sprintf("seed %d", seed))
		}
	}
}

// change adds, removes or switches off a project, or restarts all.
func (r *usageReloads) change() {
	name := reloadedProjects[r.rng.IntN(len(reloadedProjects))]
	i := slices.Index(r.running, name)
	switch {
	case i < 0 && r.rng.IntN(2) == 0: // in place of another, while stopped
		r.running[r.rng.IntN(len(r.running))] = name
		r.c = nil
	case i < 0:
		r.running = append(r.running, name)
	case r.rng.IntN(3) == 0:
		r.intervals[name] = time.Minute - r.intervals[name]
	case len(r.running) > 1:
		r.running = slices.Delete(r.running, i, i+1)
	}
	if !slices.ContainsFunc(r.running, func(name string) bool { return r.intervals[name] > 0 }) {
		r.intervals[r.running[0]] = time.Minute
	}
	if r.rng.IntN(3) == 0 {
		r.c = nil
	}
}

// A project that is removed or switched off by a reload leaves what it counts to the next
// one that sees it within minutes, not with the next hour.
func TestUsageMovesAtOnce(t *testing.T) {
	r := newUsageReloads(t, oppertest.UsageTroubles{OrganizationWide: true}, 1)
	r.running = []string{"b"}
	r.reload()
	r.run(3)
	r.watch()
	r.call("a", dollar, false)
	r.spent++
	r.run(30)
	r.watch()
	if r.rises != r.spent {
		t.Errorf("%v dollars are counted, and %v were spent: %v\n%s", r.rises, r.spent, r.shown, strings.Join(r.told, "\n"))
	}
}
