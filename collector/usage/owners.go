package usage

import (
	"sync"
	"time"
)

const (
	// undecidedFor is how long an Opper project that several configured projects see, or
	// may see, waits for a proof whose it is.
	undecidedFor = 15 * time.Minute
	// awaitedFor is how long it waits while any of them may still prove that it is its own:
	// an initial sync can take hours.
	awaitedFor = 24 * time.Hour
)

// Owners decides for all configured projects of the process which of them counts an
// Opper project, as the keys of several may show the same usage. A claim is for good:
// the project that made it first keeps it until it is not configured any more. It is safe for
// concurrent use.
type Owners struct {
	mu        sync.Mutex
	isAwaited map[string]bool      // configured projects, and whether they may still prove their own
	awaited   int                  // number of those that may
	claims    map[string]claim     // by Opper project
	seen      map[string]*sighting // Opper projects without a claim
	sums      map[string]*sum      // by configured project
	// handovers are what has been counted of Opper projects that have been handed over.
	handovers map[string]*handover
}

type claim struct {
	project   string
	isDurable bool   // others may rely on it
	seen      reach  // of what is claimed
	isGuess   bool   // nothing showed that the Opper project is the configured one
	isProven  bool   // the Opper project is the configured one
	wantedBy  string // another one that has proven that it is that; empty if there is none
}

// reach is how far usage has been seen.
type reach struct{ hour, calls int64 }

func (r reach) isBehind(o reach) bool {
	return r.hour < o.hour || r.hour == o.hour && r.calls < o.calls
}

// verdict is for the project of the claim.
func (c claim) verdict() verdict {
	if c.isGuess {
		return guessedMine
	}
	return mine
}

type sighting struct {
	first   string // of the configured projects that have seen it, by name; empty if that one is gone
	several bool
	since   time.Time
	waited  bool // for what configured projects may prove
}

type verdict int

const (
	undecided verdict = iota
	mine
	guessedMine
	notMine
)

// NewOwners returns the Owners of these configured projects.
func NewOwners(projects ...string) *Owners {
	o := &Owners{claims: map[string]claim{}, seen: map[string]*sighting{}, sums: map[string]*sum{}, handovers: map[string]*handover{}}
	o.SetProjects(projects)
	return o
}

// SetProjects sets the names of the configured projects whose usage is read. It is
// called before their Sets are made, and after those that are gone have ended: their
// Opper projects are then free.
func (o *Owners) SetProjects(names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.isAwaited
	o.isAwaited, o.awaited = make(map[string]bool, len(names)), 0
	for _, name := range names {
		isAwaited, isKnown := before[name]
		if o.isAwaited[name] = isAwaited || !isKnown; o.isAwaited[name] {
			o.awaited++
		}
	}
	for id, c := range o.claims {
		if _, ok := o.isAwaited[c.project]; !ok {
			delete(o.claims, id)
		} else if _, ok := o.isAwaited[c.wantedBy]; !ok {
			c.wantedBy = ""
			o.claims[id] = c
		}
	}
	for name := range o.sums {
		if _, ok := o.isAwaited[name]; !ok {
			delete(o.sums, name)
		}
	}
	for _, s := range o.seen {
		if _, ok := o.isAwaited[s.first]; !ok {
			s.first = ""
		}
	}
}

// isFree reports whether no other project has claimed an Opper project.
func (o *Owners) isFree(project, id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	c, isClaimed := o.claims[id]
	return !isClaimed || c.project == project && c.wantedBy == ""
}

// endAwait says that others need not wait any more for what a project proves.
func (o *Owners) endAwait(project string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.isAwaited[project] {
		o.isAwaited[project] = false
		o.awaited--
	}
}

// decide returns whose an Opper project is that a configured one sees: isProven by
// other means, or isAlone in the answer, or it awaitsProof. It has several ids if it is
// known by what is beside it: a claim of any of them decides, and all are claimed at once.
func (o *Owners) decide(project string, ids []string, isProven, isAlone, awaitsProof bool, now time.Time) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		switch c, ok := o.claims[id]; {
		case !ok:
		case c.project == project && c.wantedBy != "":
			return notMine
		case c.project == project:
			return c.verdict()
		case c.isDurable:
			return notMine
		default:
			return undecided
		}
	}
	isAwaited, isConfigured := o.isAwaited[project]
	if !isConfigured {
		return undecided
	}
	isOneOfSeveral := len(o.isAwaited) > 1
	areOthersAwaited := o.awaited > 1 || o.awaited == 1 && !isAwaited
	s := o.seen[ids[0]]
	if s == nil {
		s = &sighting{since: now}
		o.seen[ids[0]] = s
	}
	if s.first != "" && s.first != project {
		s.several = true
	}
	if s.first == "" || project < s.first {
		s.first = project
	}
	mustWait := o.mustWait(s, s.first == project, now)
	isGuess := isOneOfSeveral && !isProven && (!isAlone || s.several || areOthersAwaited)
	if (isGuess || awaitsProof) && mustWait {
		return undecided
	}
	c := claim{project: project, isGuess: isGuess}
	for _, id := range ids {
		delete(o.seen, id)
		o.claims[id] = c
	}
	return c.verdict()
}

// mustWait reports whether it is too early to guess whose usage is, which the first
// project by name that sees it may do before others.
func (o *Owners) mustWait(s *sighting, isFirst bool, now time.Time) bool {
	if now.Before(s.since) || s.waited && o.awaited == 0 {
		s.since = now
	}
	s.waited = len(o.isAwaited) > 1 && o.awaited > 0
	patience := undecidedFor
	switch {
	case s.waited:
		patience = awaitedFor
	case !isFirst:
		patience *= 2 // that one may not see it any more
	}
	return now.Sub(s.since) < patience
}

// keep makes claims durable, or returns false if other projects have them all. Two may
// have one in their state: while the first one was not configured, the other has taken
// over and has seen more.
func (o *Owners) keep(project string, ids []string, seen reach, isProven bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	hasClaim := false
	_, isConfigured := o.isAwaited[project]
	for _, id := range ids {
		c, isClaimed := o.claims[id]
		if isClaimed && c.project != project && !c.seen.isBehind(seen) {
			continue
		}
		if hasClaim = true; isConfigured {
			if c.project != project {
				c.wantedBy = ""
			}
			o.claims[id] = claim{project: project, isDurable: true, seen: seen, isProven: isProven, wantedBy: c.wantedBy}
			delete(o.seen, id)
			delete(o.handovers, id)
		}
	}
	return hasClaim
}

// ownerOf returns which project has claimed an Opper project.
func (o *Owners) ownerOf(id string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.claims[id].project
}

// want says that an Opper project has been proven to be this one, so that another one
// gives it up.
func (o *Owners) want(project, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, isConfigured := o.isAwaited[project]
	if c, isClaimed := o.claims[id]; isClaimed && isConfigured && c.isDurable && !c.isProven && c.project != project && c.wantedBy == "" {
		c.wantedBy = project
		o.claims[id] = c
	}
}

// isWanted reports whether another project wants what this one has claimed.
func (o *Owners) isWanted(project, id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.claims[id].project == project && o.claims[id].wantedBy != ""
}

// handOver releases claims, and keeps what has been counted of them for the next project:
// the one that wants them, or the first to claim them.
func (o *Owners) handOver(project string, ids []string, counted *handover) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		o.handovers[id] = o.handovers[id].merge(counted)
		c, isClaimed := o.claims[id]
		switch {
		case !isClaimed || c.project != project:
		case c.wantedBy != "":
			o.claims[id] = claim{project: c.wantedBy, isDurable: true, isProven: true}
		default:
			delete(o.claims, id)
		}
	}
}

// handedOver returns what has been counted of what is claimed as these, or nil if that is
// not known.
func (o *Owners) handedOver(ids ...string) *handover {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all *handover
	for _, id := range ids {
		if h := o.handovers[id]; h != nil {
			all = all.merge(h)
		}
	}
	return all
}
