package usage

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"opper_exporter/opper"
)

var (
	seed      = flag.Int64("seed", -1, "run only this schedule")
	schedules = flag.Int64("schedules", 500, "run this many random schedules")
)

// bucket is what Opper has amounts of.
type bucket struct {
	hour           int64
	project, model string
}

func compareBuckets(a, b bucket) int {
	return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.project, b.project), cmp.Compare(a.model, b.model))
}

// world is Opper's usage, and the configured projects that read it.
type world struct {
	t       *testing.T
	seed    int64
	rng     *rand.Rand
	log     []string
	shrinks bool // amounts become smaller, too
	mayAdd  bool // more projects become configured
	isAhead bool // some hours are in the future, and our clock is not
	now     time.Time
	offset  time.Duration // of our clock
	rows    map[bucket]Amounts
	owners  *Owners
	keys    []*key
	counts  map[string]*key      // by Opper project: who counted it last
	moved   map[*key]bool        // an Opper project has gone from it, or to it
	givenUp map[string]time.Time // when, of those that no project has taken over
	lacks   bool                 // some of what has moved may not be counted
}

// key is one configured project.
type key struct {
	name      string
	own       string // its Opper project, if it has one
	isOrgWide bool
	isProven  bool // own becomes known, other than by usage
	maxModels int
	maxOthers int // MaxOpperProjects

	set       *Set
	pages     Pages
	entries   map[string][]byte  // committed
	seen      map[bucket]Amounts // the highest amounts, of what is committed, by OpperProject
	unsure    map[bucket]Amounts // seen, but not committed yet
	exposed   map[cell]Amounts   // published last; nil before the first time
	isStarted bool
}

var (
	begin   = time.Date(2026, 10, 10, 12, 0, 0, 0, time.UTC)
	history = hourOf(begin) - 20*24 // in the month before
	month   = hourOf(time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC))
)

func (w *world) failf(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("replay with -seed %d", w.seed)
	for _, line := range w.log {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func (w *world) logf(format string, args ...any) {
	if *seed >= 0 {
		w.log = append(w.log, w.now.Format("02 15:04 ")+fmt.Sprintf(format, args...))
	}
}

func newWorld(t *testing.T, seed int64) *world {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	w := &world{t: t, seed: seed, rng: rng, now: begin.Add(time.Duration(rng.IntN(3600)) * time.Second), rows: map[bucket]Amounts{}, counts: map[string]*key{}, moved: map[*key]bool{}, givenUp: map[string]time.Time{}, shrinks: rng.IntN(2) == 0, mayAdd: true, isAhead: rng.IntN(3) == 0}
	w.rows[bucket{history, "X", "m1"}] = Amounts{1, 1, 1, 1}
	w.owners = NewOwners()
	for i, name := range []string{"a", "b", "c"}[:1+rng.IntN(3)] {
		w.add(name, []string{"X", "Y", "Z"}[i])
	}
	if rng.IntN(3) > 0 {
		w.grow(10)
	}
	return w
}

// add configures a project.
func (w *world) add(name, own string) {
	k := &key{name: name, own: own, isOrgWide: w.rng.IntN(2) == 0, isProven: w.rng.IntN(2) == 0, maxModels: 1 + w.rng.IntN(4), maxOthers: 1 + w.rng.IntN(4), seen: map[bucket]Amounts{}, unsure: map[bucket]Amounts{}}
	w.keys = append(w.keys, k)
	var names []string
	for _, k := range w.keys {
		names = append(names, k.name)
	}
	w.owners.SetProjects(names)
	k.set = New(w.config(k))
	w.logf("add %s of %s, organization-wide %v, proven %v", name, own, k.isOrgWide, k.isProven)
}

func (w *world) config(k *key) Config {
	return Config{Project: k.name, MaxModels: k.maxModels, MaxOpperProjects: k.maxOthers, Owners: w.owners}
}

// ours is the time of our clock.
func (w *world) ours() time.Time { return w.now.Add(w.offset) }

// read reads the usage of a project, and may commit and publish it. It reports whether it
// has read it.
func (w *world) read(k *key, fails, commits bool) bool {
	from, to := k.set.Window(w.ours())
	if timeOf(hourOf(from)) != from || timeOf(hourOf(to)) != to || !from.Before(to) {
		w.failf("window [%v, %v) is not one of hours", from, to)
	}
	rows, byProject, err := k.pages.ReadBy(w.t.Context(), view{w, k, fails}, opper.GroupModel, from, to)
	if err != nil {
		k.set.Failed()
		w.logf("%s fails to read from %v: %v", k.name, from, err)
		return false
	}
	own := ""
	if k.isProven {
		own = k.own
	}
	err = k.set.Apply(rows, from, byProject, Proof{Own: own}, w.ours())
	w.noteMoves(k)
	w.logf("%s reads %d rows from %v: counts %v, %v", k.name, len(rows), from, k.set.accounts, err)
	if err == nil && k.set.begun {
		present := map[bucket]Amounts{}
		for b, a := range w.rows {
			at := timeOf(b.hour)
			label, isCounted := k.set.accounts[b.project]
			if isCounted && !at.Before(from) && at.Before(to) && w.isVisible(k, b.project) {
				b.project = label
				sum := present[b]
				sum.add(a)
				present[b] = sum
			}
		}
		for b, a := range present {
			high := k.unsure[b]
			for i := range a {
				high[i] = max(high[i], a[i])
			}
			k.unsure[b] = high
		}
	}
	if commits {
		w.commit(k)
	}
	return true
}

func (*world) isVisible(k *key, project string) bool { return view{key: k}.isVisible(project) }

func (w *world) commit(k *key) {
	entries := maps.Clone(k.entries)
	if entries == nil {
		entries = map[string][]byte{}
	}
	puts := 0
	k.set.Changes(func(key string, body []byte) {
		puts++
		if entries[key] = body; body == nil {
			delete(entries, key)
		}
	})
	k.set.Committed()
	k.entries = entries
	for b, a := range k.unsure {
		high := k.seen[b]
		for i := range a {
			high[i] = max(high[i], a[i])
		}
		k.seen[b] = high
	}
	clear(k.unsure)
	k.set.Changes(func(key string, _ []byte) { w.failf("%s puts %q twice", k.name, key) })
	w.logf("%s commits %d entries", k.name, puts)
	w.publish(k)
}

// publish checks what is exposed next to what was.
func (w *world) publish(k *key) {
	exposed := map[cell]Amounts{}
	for _, m := range k.set.Models() {
		c := cell{m.OpperProject, m.Label}
		exposed[c] = m.Exposed()
		if m.Created.After(w.ours().Add(24 * 3 * 2 * time.Hour)) {
			w.failf("%s: %v was created at %v", k.name, c, m.Created)
		}
		if before, ok := k.exposed[c]; !ok && k.isStarted && exposed[c] != before {
			w.failf("%s: %v begins at %v, not 0", k.name, c, exposed[c])
		}
	}
	for c, before := range k.exposed {
		after, ok := exposed[c]
		for i := range before {
			if !ok || after[i] < before[i] {
				w.failf("%s: %v falls from %v to %v", k.name, c, before, after)
			}
		}
	}
	k.exposed, k.isStarted = exposed, k.set.begun
	for _, m := range k.set.Models() {
		if m.zeroPending && w.rng.IntN(2) == 0 {
			m.EndZero()
		}
	}
}

// restore is what a killed process does, or a reload of one project.
func (w *world) restore(k *key) {
	var err error
	if k.set, err = Restore(w.config(k), k.entries); err != nil {
		w.failf("%s: %v", k.name, err)
	}
	clear(k.unsure)
}

func (w *world) kill() {
	w.logf("kill")
	for _, at := range w.givenUp { // the next project has not read for long
		w.lacks = w.lacks || w.now.Sub(at) > 40*time.Hour
	}
	w.owners = NewOwners()
	var names []string
	for _, k := range w.keys {
		names = append(names, k.name)
	}
	w.owners.SetProjects(names)
	for _, k := range w.keys {
		w.restore(k)
	}
}

func (w *world) step() {
	k := w.keys[w.rng.IntN(len(w.keys))]
	switch p := w.rng.IntN(100); {
	case p < 45:
		w.now = w.now.Add(time.Duration(w.rng.IntN(10)) * time.Minute)
		w.grow(w.rng.IntN(3))
		w.read(k, w.rng.IntN(8) == 0, w.rng.IntN(4) > 0)
	case p < 65:
		w.now = w.now.Add(time.Duration(w.rng.IntN(180)) * time.Minute)
		w.grow(w.rng.IntN(4))
	case p < 72:
		w.shrink()
	case p < 80:
		w.kill()
	case p < 84:
		w.logf("reload %s", k.name)
		w.restore(k)
	case p < 88:
		w.offset = time.Duration(w.rng.Int64N(int64(6*24*time.Hour))) - 3*24*time.Hour
		if w.isAhead {
			w.offset = min(w.offset, 0)
		}
		w.logf("our clock is off by %v", w.offset)
	case p < 90 && w.now.Before(begin.Add(9*24*time.Hour)):
		for range 12 { // nobody reads for 5 days
			w.now = w.now.Add(10 * time.Hour)
			w.grow(1)
		}
	case p < 92 && len(w.keys) < 3 && w.mayAdd:
		w.add([]string{"d", "0"}[len(w.keys)-1], []string{"Y", "Z"}[len(w.keys)-1])
	case p < 96:
		w.commit(k)
	}
}

// settle reads until nothing changes any more.
func (w *world) settle() {
	w.offset = 0
	w.grow(3)
	for range 8 {
		w.now = w.now.Add(20 * time.Minute)
		for _, k := range w.keys {
			for !w.read(k, false, true) {
				continue // an answer may be too large
			}
		}
	}
	for _, k := range w.keys {
		for _, z := range k.set.ZeroPending() {
			z.EndZero()
		}
		w.commit(k)
		from, _ := k.set.Window(w.ours())
		w.read(k, false, false)
		k.set.Changes(func(key string, _ []byte) {
			w.failf("%s puts %q after a read from %v without changes", k.name, key, from)
		})
	}
}

// TestSchedules proves that what is counted is what Opper has had, each hour and model
// with its highest amounts, in one project: whatever grows, shrinks, stands twice, fails
// or is lost, and however often the process is killed.
func TestSchedules(t *testing.T) {
	first, end := int64(0), *schedules
	if *seed >= 0 {
		first, end = *seed, *seed+1
	}
	moved := 0
	for s := first; s < end; s++ {
		w := newWorld(t, s)
		for range 10 + w.rng.IntN(40) {
			w.step()
		}
		w.settle()
		w.check()
		w.checkMoved()
		if len(w.moved) > 0 && !w.shrinks {
			moved++
		}
	}
	if *seed < 0 && moved < 3 {
		t.Errorf("Opper projects have moved in %d schedules", moved)
	}
}
