// Package aggregate counts traces by trace name: the counters and histograms of a
// project. All sums are integers.
package aggregate

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"opper_exporter/collector/ledger"
)

// maxTraceID is how long an identifier fits beside the label name into the 128
// characters that OpenMetrics allows for an exemplar's labels.
const maxTraceID = 128 - len("trace_id")

// Config says how traces are counted.
type Config struct {
	Success, Failure []string       // statuses, in lower case
	Include, Exclude *regexp.Regexp // of names; nil includes all and excludes none
	Rewrites         []Rewrite      // of what is included, each of what the one before has made
	MaxNames         int            // how many names have aggregates of their own
	NameExpiry       time.Duration  // of a name without a trace; 0 is never
	DurationBuckets  []float64      // seconds, rising
	TokenBuckets     []float64      // rising
	Partial          bool           // the initial sync counts only some of the traces that it sees
	Costs            bool           // counted traces wait for their cost
	// Wall converts a time at which traces are counted to wall-clock time, as that of
	// their starts and of usage is; nil if it is one.
	Wall func(time.Time) time.Time `json:"-"`
}

// Set is what has been counted of one project. It is not safe for concurrent
// use.
type Set struct {
	cfg         Config
	names       map[string]*Aggregate // by label
	distinct    distinct
	initialSync bool
	deferred    *deferred // traces of further names in the initial sync
	// dropped holds labels without an aggregate: nil, since the last commit, or what has
	// expired since the last time that all was published.
	dropped  map[string]*Aggregate
	resolved map[string]*resolved // by raw name

	// Since is when counting started from zero.
	Since time.Time
	// Renewed says that the series had other values before Since, so that none
	// may have been created earlier.
	Renewed bool
	// Counters of the project, for traces of any name.
	Gaps, NoID, VanishedOpen, LateEnds uint64
	Overflow, NoDuration, BadDuration  uint64
	Expired                            uint64           // names
	OfExpired                          [outcomes]uint64 // traces of these names, by outcome
	unmapped                           []*Unmapped      // in the order in which they were first seen
	failures                           failures
	CostsUnknown                       uint64 // counted traces without a final cost that wait no longer
	waiting                            waiting
}

// New returns an empty Set. Until EndInitialSync, no name overflows.
func New(cfg Config, since time.Time) *Set {
	return &Set{cfg: cfg, names: map[string]*Aggregate{}, initialSync: true, deferred: newDeferred(cfg.MaxNames), dropped: map[string]*Aggregate{}, resolved: map[string]*resolved{}, Since: since}
}

// All returns the aggregates of each name, sorted by label.
func (s *Set) All() []*Aggregate {
	return slices.SortedFunc(maps.Values(s.names), func(a, b *Aggregate) int { return cmp.Compare(a.Label, b.Label) })
}

// Distinct returns how many names were seen, from 10 000 on as an estimate.
func (s *Set) Distinct() float64 { return s.distinct.count() }

// Apply counts what a sync found at now, of the clock that measures how long traces wait
// for their cost. Names that are new since the initial sync were created at before, and
// start zero-first.
func (s *Set) Apply(ev ledger.Events, before, now time.Time) {
	s.Gaps += ev.Gaps
	s.NoID += ev.NoID
	for i := range ev.FirstSeen {
		r := &ev.FirstSeen[i]
		born := r.Start
		if s.cfg.Partial {
			born = time.Time{} // it may be none of those that are counted
		}
		n, label := s.name(r.Name, before)
		if n != nil {
			n.list(r)
		}
		switch {
		case !s.initialSync || label == "":
		case n == nil:
			s.deferred.observe(label, born)
		default:
			n.seen++
			n.Changes++
			n.startBy(born)
		}
	}
	for _, r := range ev.Vanished {
		if s.IsIncluded(r.Name) {
			s.VanishedOpen++
		}
		if n := s.names[s.resolve(r.Name).label]; n != nil {
			n.idleSince = time.Time{} // it was open until now
			n.Changes++
		}
	}
	for _, r := range ev.LateEnds {
		if s.IsIncluded(r.Name) {
			s.LateEnds++
		}
	}
	for i := range ev.Counted {
		s.count(&ev.Counted[i], before, now)
	}
}

// Ensure gives a name an aggregate, created at before: a trace that was first seen
// under another name has this one by now.
func (s *Set) Ensure(raw string, before time.Time) { _, _ = s.name(raw, before) }

// FreePlaces returns how many more names can have an aggregate of their own.
func (s *Set) FreePlaces() int { return max(s.cfg.MaxNames-s.places(), 0) }

// Unplaced returns the label of a name that is counted and has no aggregate of
// its own.
func (s *Set) Unplaced(raw string) (label string, ok bool) {
	r := s.resolve(raw)
	return r.label, r.wanted && s.names[r.label] == nil
}

// IsIncluded reports whether traces of a name are counted.
func (s *Set) IsIncluded(raw string) bool { return s.resolve(raw).wanted }

// Find returns the aggregate in which a name is or would be counted, or nil if
// there is none yet.
func (s *Set) Find(raw string) *Aggregate {
	if n := s.names[s.resolve(raw).label]; n != nil {
		return n
	}
	return s.names[Other]
}

// name returns the aggregate in which a name is counted, and its label. There is
// no label if its traces are not counted, and no aggregate if they are deferred.
func (s *Set) name(raw string, created time.Time) (*Aggregate, string) {
	r := s.resolve(raw)
	if r.name != nil || !r.wanted {
		return r.name, r.label
	}
	label := r.label
	s.distinct.add(hashOf(label))
	if s.names[label] == nil {
		switch {
		case s.initialSync && len(s.names) >= max(maxInitialNames, s.cfg.MaxNames):
			return nil, label
		case !s.initialSync && s.places() >= s.cfg.MaxNames:
			label = Other
		}
	}
	n := s.names[label]
	if n == nil {
		if n = s.revive(label); n == nil {
			n = &Aggregate{Label: label}
			if !s.initialSync {
				n.Created, n.zeroPending = created, everything
				if s.cfg.Costs {
					n.CostsCreated = created
				}
			}
		}
		s.names[label] = n
	}
	n.named(raw)
	r.name = n
	return n, label
}

// places returns how many names have an aggregate of their own.
func (s *Set) places() int {
	n := len(s.names)
	if _, ok := s.names[Other]; ok {
		n--
	}
	return n
}

func (s *Set) count(c *ledger.Counted, before, now time.Time) {
	n, label := s.name(c.Name, before)
	if label == "" {
		return
	}
	outcome := Abandoned
	if !c.Abandoned {
		outcome = s.outcome(&c.Row, before)
	}
	if outcome == Failure || outcome == Abandoned {
		s.failures.offer(s.resolve(c.Name).label, outcome, c)
	}
	s.waitForCost(n, outcome, c, now)
	// In a partial initial sync, only what is counted tells when a name began.
	var started time.Time
	if s.initialSync && s.cfg.Partial {
		started = c.Start
	}
	if n == nil {
		s.deferred.add(label, outcome, c, started)
		return
	}
	n.startBy(started)
	s.add(n, outcome, c)
}

// add counts a trace in an aggregate.
func (s *Set) add(n *Aggregate, outcome Outcome, c *ledger.Counted) {
	n.Changes++
	n.idleSince = time.Time{}
	n.list(&c.Row)
	if n.Label == Other {
		s.Overflow++
	}
	t := &n.ByOutcome[outcome]
	t.Traces++
	if c.HasTokens {
		t.Tokens = AddSaturating(t.Tokens, c.Row.Tokens)
		n.Tokens.count(s.cfg.TokenBuckets, float64(c.Row.Tokens), c.Row.Tokens, c)
	}
	if c.End.After(n.LastEnd) {
		n.LastEnd = c.End
	}
	switch {
	case c.Abandoned:
	case !c.HasDuration:
		s.NoDuration++
	case c.Duration < 0:
		s.BadDuration++
	default:
		us := c.Duration.Microseconds()
		t.Durations.count(s.cfg.DurationBuckets, float64(us)/1e6, us, c)
	}
}

// count observes a value of a trace, and offers the trace as an exemplar.
func (h *Histogram) count(bounds []float64, value float64, units int64, c *ledger.Counted) {
	i := h.observe(bounds, value, units)
	ex := NewExemplar("", value, c.End)
	if h.wants(i, ex) {
		ex.TraceID = traceID(c)
		h.offer(i, ex)
	}
}

// traceID returns the identifier of a trace for an exemplar, empty if it can't
// be in one: servers refuse a whole scrape for some control characters.
func traceID(c *ledger.Counted) string {
	id := cmp.Or(c.Ref, c.ID.String())
	if len(id) > maxTraceID || !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl) {
		return ""
	}
	return id
}

func (s *Set) outcome(r *ledger.Row, before time.Time) Outcome {
	outcome, mapped := s.cfg.Outcome(r.Status)
	if !r.HasStatus {
		return Unknown
	}
	if !mapped {
		s.countUnmapped(r.Status, before)
	}
	return outcome
}

// Outcome returns the outcome of a trace that has ended with a status, and whether
// the status is in one of the lists: as it is, or as StatusLabel shows it.
func (c *Config) Outcome(status string) (outcome Outcome, mapped bool) {
	if outcome, mapped = c.listed(strings.ToLower(status)); mapped {
		return outcome, true
	}
	return c.listed(StatusLabel(status))
}

func (c *Config) listed(status string) (outcome Outcome, mapped bool) {
	switch {
	case slices.Contains(c.Success, status):
		return Success, true
	case slices.Contains(c.Failure, status):
		return Failure, true
	}
	return Unknown, false
}

// ResetDurations restarts the duration histograms, zero-first, as no value can be
// added to those with other buckets.
func (s *Set) ResetDurations(now time.Time) {
	for _, n := range s.names {
		n.Changes++
		n.zeroPending |= durationHistograms
		n.DurationsCreated = now
		for o := range n.ByOutcome {
			n.ByOutcome[o].Durations = Histogram{}
		}
	}
}

// ResetTokens does the same to the token histograms.
func (s *Set) ResetTokens(now time.Time) {
	for _, n := range s.names {
		n.Changes++
		n.zeroPending |= tokenHistogram
		n.TokensCreated = now
		n.Tokens = Histogram{}
	}
}
