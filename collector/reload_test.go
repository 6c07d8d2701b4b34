package collector

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"opper_exporter/collector/config"
)

// maxRunning is how many projects of a reloading run at once, about.
const maxRunning = 6

var reloads = flag.Int("reloads", 50, "reload this many times at random")

// reloading is a fleet whose projects change at random.
type reloading struct {
	*fleet
	rng     *rand.Rand
	running map[string]config.Project
	made    int
}

// Whatever is under way while projects are added, removed, renamed and changed, no
// trace is lost or counted twice in any, and nothing is left of those that end.
func TestReloadAtAnyMoment(t *testing.T) {
	r := &reloading{fleet: newFleet(t), rng: rand.New(rand.NewPCG(15, 2)), running: map[string]config.Project{}}
	for range 3 {
		r.add(150)
	}
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	r.start(r.projects()...)
	var observing sync.WaitGroup
	stop := make(chan struct{})
	observing.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				r.observe()
			}
		}
	})
	moments := []string{"initial sync", "sync", "sweep", "commit"}
	for i := range *reloads {
		moment, project := moments[i%len(moments)], ""
		if moment == "initial sync" {
			project = r.add(250)
		}
		reached, release := r.hold(moment, project)
		if project != "" {
			r.apply(r.projects()...)
		}
		reached()
		r.reload(i%5 == 4, release)
		for name := range r.running {
			r.trace(r.opper(name, 0), r.rng.IntN(3))
		}
	}
	close(stop)
	observing.Wait()

	// In the end, all that there ever was is counted.
	names := r.names()
	for len(names) > 0 && !t.Failed() {
		some := names[:min(maxRunning, len(names))]
		names = names[len(some):]
		var projects []config.Project
		for _, name := range some {
			projects = append(projects, r.project(name))
		}
		r.apply(projects...)
		for _, name := range some {
			r.awaitAll(name)
		}
		r.observe()
	}
	r.end()
	for _, text := range []string{"level=error", "traces may", "gap"} {
		if lines := r.log.Lines(text); len(lines) > 0 {
			t.Errorf("log: %q", lines)
		}
	}
	r.await("goroutines and descriptors are gone", func() bool {
		later := r.made - 3 // Oppers, which listen
		return runtime.NumGoroutine() <= goroutines+later && openDescriptors(t) <= descriptors+later
	})
}

// openDescriptors is 0 where the system does not tell.
func openDescriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(open)
}

func (r *reloading) add(traces int) (name string) {
	r.made++
	name = fmt.Sprintf("project %d", r.made)
	r.opper(name, traces)
	r.running[name] = r.project(name)
	return name
}

// rename returns the other name of a project: it has the same Opper.
func (r *reloading) rename(name string) string {
	other, isOther := strings.CutSuffix(name, renamed)
	if !isOther {
		other += renamed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.oppers[other] = r.oppers[name]
	return other
}

func (r *reloading) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for name := range r.oppers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *reloading) projects() []config.Project {
	var all []config.Project
	for _, p := range r.running {
		all = append(all, p)
	}
	return all
}

// reload applies a random change while something is held, after one that fails if it is
// to.
func (r *reloading) reload(fails bool, release func()) {
	r.t.Helper()
	for range 1 + r.rng.IntN(2) {
		r.change()
	}
	next := r.projects()
	if fails {
		before := r.c.all()
		wrong := append(slices.Clone(next), next[0])
		if name := before[r.rng.IntN(len(before))].cfg.Name; r.rng.IntN(2) == 0 {
			r.store.unusable.Store(&name)
			wrong = []config.Project{r.project(name, func(p *config.Project) { p.Concurrency = 1 })}
		}
		if err := r.applyReleasing(wrong, release); err == nil || !slices.Equal(before, r.c.all()) {
			r.t.Fatalf("%v, and others run", err)
		}
		r.store.unusable.Store(nil)
	}
	if err := r.applyReleasing(next, release); err != nil {
		r.t.Fatalf("%v\n%s", err, r.log.String())
	}
}

// applyReleasing applies projects, and releases what is held in the middle of that: a
// project that stops finishes its commit.
func (r *reloading) applyReleasing(projects []config.Project, release func()) (err error) {
	var applying sync.WaitGroup
	done := make(chan struct{})
	applying.Go(func() {
		err = r.c.Apply(projects)
		close(done)
	})
	r.await("applying", func() bool {
		select {
		case <-done:
			return true
		default:
		}
		if r.c.applying.TryLock() {
			r.c.applying.Unlock()
			return false
		}
		return true
	})
	release()
	applying.Wait()
	return err
}

func (r *reloading) change() {
	var running []string
	for name := range r.running {
		running = append(running, name)
	}
	slices.Sort(running)
	name := running[r.rng.IntN(len(running))]
	kind := r.rng.IntN(4)
	if len(running) > maxRunning {
		kind = 1
	}
	switch kind {
	case 0:
		all := r.names()
		name = all[r.rng.IntN(len(all))]
		r.running[name] = r.project(name)
	case 1:
		if len(running) > 2 {
			delete(r.running, name)
		}
	case 2:
		delete(r.running, name)
		name = r.rename(name)
		r.running[name] = r.project(name)
	case 3:
		r.running[name] = r.project(name, r.settings())
	}
}

// settings returns a random change of settings.
func (r *reloading) settings() func(*config.Project) {
	switch r.rng.IntN(5) {
	case 0:
		return otherBuckets
	case 1:
		return settleLater
	case 2:
		return func(p *config.Project) { p.Opper.URL = strings.Replace(p.Opper.URL, "127.0.0.1", "localhost", 1) }
	case 3:
		return func(p *config.Project) { p.SweepInterval *= 2 }
	}
	interval := time.Duration(20+r.rng.IntN(50)) * time.Millisecond
	return func(p *config.Project) { p.Interval = interval }
}
