package collector

import (
	"bytes"
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"opper_exporter/collector/config"
	"opper_exporter/collector/usage"
	"opper_exporter/opper"
)

// change is what Apply does to the projects.
type change struct {
	next                    []*project // by name
	added, changed, removed []*project
	replaced                []*project // by those of changed
}

// Apply makes these the projects, or returns an error and changes nothing. Those
// that have not changed keep running. One with other settings stops, and continues from
// its state as after a restart. One that is missing stops; its state stays on disk.
func (c *Collector) Apply(projects []config.Project) (err error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	ch, err := c.plan(projects)
	defer func() {
		if err != nil {
			closeClients(ch.added, ch.changed)
		}
	}()
	if err != nil {
		return err
	}
	if len(ch.added)+len(ch.changed)+len(ch.removed) == 0 {
		return nil
	}
	// Those that are restored continue to count what they have counted, and those that
	// are removed count until they have stopped.
	before, err := c.removedBefore(ch.next)
	if err != nil {
		return err
	}
	c.deps.owners.SetProjects(slices.Concat(before, namesOf(c.all()), namesOf(ch.next)))
	defer func() { c.shareUsage() }()
	left, err := c.restoreUsage(before)
	if err != nil {
		return err
	}
	if err := each(ch.added, (*project).restore); err != nil {
		return err
	}
	stopAll(ch.replaced)
	if err := each(ch.changed, (*project).restore); err != nil {
		c.startAll(ch.replaced)
		return err
	}
	opened := slices.Concat(ch.added, ch.changed)
	_ = each(opened, func(p *project) error { p.expose(); return nil })
	c.projects.Store(&ch.next)
	keepKeysApart(ch.next)
	stopAll(ch.removed)
	for _, p := range slices.Concat(ch.removed, opened) {
		if !p.usage.isOn() || slices.Contains(ch.removed, p) {
			left = append(left, p.usage.set)
		}
	}
	for _, set := range left {
		set.HandOver()
	}
	c.shareUsage()
	c.startAll(opened)
	closeClients(ch.replaced, ch.removed)
	if c.start != nil {
		level.Info(c.deps.Logger).Log("msg", "projects changed", "projects", len(ch.next), "added", names(ch.added), "changed", names(ch.changed), "removed", names(ch.removed))
	}
	return nil
}

// keepKeysApart lets no two projects come to read the same list by a key file that
// changes: their traces would be counted twice.
func keepKeysApart(projects []*project) {
	lists := map[string][]opper.KeySource{}
	for _, p := range projects {
		if key := p.cfg.Opper.Key; key != (opper.KeySource{}) {
			lists[p.cfg.List()] = append(lists[p.cfg.List()], key)
		}
	}
	for _, keys := range lists {
		opper.KeepApart(keys)
	}
}

// shareUsage makes each Opper project one whose usage one of the projects counts.
func (c *Collector) shareUsage() {
	isOff := func(p *project) bool { return !p.usage.isOn() }
	c.deps.owners.SetProjects(namesOf(slices.DeleteFunc(slices.Clone(c.all()), isOff)))
}

// removedBefore returns the names of the projects that are stored and not configured when
// the Collector is made.
func (c *Collector) removedBefore(next []*project) ([]string, error) {
	if c.deps.Store == nil || len(c.all()) > 0 || !slices.ContainsFunc(next, func(p *project) bool { return p.usage.isOn() }) {
		return nil, nil
	}
	names, err := c.deps.Store.Projects()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	configured := namesOf(next)
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(configured, name) }), nil
}

// restoreUsage restores the usage of projects that are not configured any more: others must
// not count it again.
func (c *Collector) restoreUsage(names []string) (sets []*usage.Set, err error) {
	for _, name := range names {
		entries := map[string][]byte{}
		_, err := c.deps.Store.Load(name, func(key string, body []byte) error {
			if key, ok := strings.CutPrefix(key, partUsage); ok {
				entries[key] = bytes.Clone(body)
			}
			return nil
		})
		if err != nil {
			return nil, stateError(name, err)
		}
		set, err := usage.Restore(usage.Config{Project: name, Owners: c.deps.owners}, entries)
		if err != nil {
			return nil, stateError(name, fmt.Errorf("usage: %w", err))
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// plan makes the projects that are new or have other settings, and checks all that
// can be checked without their state.
func (c *Collector) plan(projects []config.Project) (ch change, err error) {
	missing := map[string]*project{}
	for _, p := range c.all() {
		missing[p.cfg.Name] = p
	}
	projects = slices.SortedFunc(slices.Values(projects), func(a, b config.Project) int { return cmp.Compare(a.Name, b.Name) })
	for i, cfg := range projects {
		if i > 0 && cfg.Name == projects[i-1].Name {
			return ch, fmt.Errorf("there are two projects with the name %q", cfg.Name)
		}
		p := missing[cfg.Name]
		delete(missing, cfg.Name)
		if p != nil && p.cfg.Digest == cfg.Digest {
			ch.next = append(ch.next, p)
			continue
		}
		opened, err := openProject(cfg, c.deps, p)
		if err != nil {
			return ch, err
		}
		ch.next = append(ch.next, opened)
		if p == nil {
			ch.added = append(ch.added, opened)
		} else {
			ch.changed, ch.replaced = append(ch.changed, opened), append(ch.replaced, p)
		}
	}
	for _, p := range c.all() {
		if missing[p.cfg.Name] != nil {
			ch.removed = append(ch.removed, p)
		}
	}
	return ch, nil
}

// each calls f for each project, for some at once.
func each(projects []*project, f func(*project) error) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range projects {
		g.Go(func() error { return f(p) })
	}
	return g.Wait()
}

// stopAll returns when none of the projects runs.
func stopAll(projects []*project) {
	var wg sync.WaitGroup
	for _, p := range projects {
		wg.Go(p.stop)
	}
	wg.Wait()
}

// startAll runs projects, if Run runs.
func (c *Collector) startAll(projects []*project) {
	if c.start == nil {
		return
	}
	for _, p := range projects {
		c.start(p)
	}
}

func closeClients(lists ...[]*project) {
	for _, p := range slices.Concat(lists...) {
		if p.client != nil {
			p.client.Close()
		}
	}
}

func namesOf(projects []*project) []string {
	names := make([]string, len(projects))
	for i, p := range projects {
		names[i] = p.cfg.Name
	}
	return names
}

// names lists the names of projects for the log.
func names(projects []*project) string {
	var list []string
	for _, p := range projects[:min(len(projects), maxNamesLogged)] {
		list = append(list, p.cfg.Name)
	}
	if more := len(projects) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}
