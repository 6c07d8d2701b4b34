// Package usage counts what model calls cost: for each model, the money, calls and
// tokens of all hours of Opper's usage.
//
// An hour of usage grows until it is final, so a project reads the last ones again and
// again. The Set keeps the highest amounts that it has seen of each hour, Opper project
// and model, and adds only the increase above them: reading twice counts once, and
// counters never fall. The goroutine that reads calls ReadBy for a Window; the one
// that owns the Set calls Apply, commits what Changes puts, calls Committed, and exposes
// Models. A Set has no lock, the Owners that all Sets share has one.
package usage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

// None is the label of rows without a model, and of rows without an Opper project where
// others than the project's own are known.
const None = "(none)"

const (
	// finalAfter is the number of hours after which an hour is final, by the newest one
	// seen or by our clock, whichever is earlier: rows may be in hours to come, and our
	// clock may be fast. If it is slow, hours are only kept for longer.
	finalAfter = 48
	// maxAhead is how many hours Opper's clock may be ahead of ours.
	maxAhead = 24
)

// Config says how the usage of a project is counted.
type Config struct {
	Project   string // its configured name
	MaxModels int    // how many models have counters of their own
	// MaxOpperProjects is how many other Opper projects do. Each has all models.
	MaxOpperProjects int
	// ModelExpiry is after how long without a call a model gives up its counters and its
	// place. 0 is never.
	ModelExpiry time.Duration
	// Lookback bounds what the first read counts, which is the current month if it is
	// nil. With 0, it counts nothing.
	Lookback *time.Duration
	Owners   *Owners // nil if there is no other project
}

// Amounts are the sums of usage, by the constants below.
type Amounts [4]int64

// The places in Amounts. Cost is in 10⁻⁹ US dollars.
const (
	Cost = iota
	Calls
	InputTokens
	OutputTokens
)

func amounts(u *opper.Usage) Amounts { return Amounts{u.Cost, u.Calls, u.InputTokens, u.OutputTokens} }

func (a *Amounts) add(b Amounts) {
	for i := range a {
		a[i] = aggregate.AddSaturating(a[i], b[i])
	}
}

// cell is what amounts of an hour, and counters, are of.
type cell struct {
	project string // see Model.OpperProject
	model   string // as a label
}

// mark holds the highest amounts of a cell seen in an hour. The marks of an hour are
// sorted by their cells, which all hours share: maps of a few, or cells of their own,
// would be most of the memory of a quiet project.
type mark struct {
	*cell
	high Amounts
	fell bool // some of them are smaller now
	// isIncomplete is that a row of them was unreadable when they were read last, or that
	// rows of the hour were missing.
	isIncomplete bool
}

func compareCells(a, b cell) int {
	return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.project, b.project))
}

func compareMark(m mark, c cell) int { return compareCells(*m.cell, c) }

// Model holds the counters of one model in one Opper project.
type Model struct {
	Label string
	// OpperProject is the UUID as a label, None, aggregate.Other, or empty if it is the
	// configured project itself.
	OpperProject string
	Created      time.Time // when all was 0

	counted     Amounts
	used        int64 // hour in which an increase was seen last
	zeroPending bool
	isExpired   bool // see Set.expire
}

// Exposed returns what was counted, or zeros as long as they are pending.
func (m *Model) Exposed() Amounts {
	if m.zeroPending {
		return Amounts{}
	}
	return m.counted
}

// EndZero implements aggregate.ZeroPending.
func (m *Model) EndZero() { m.zeroPending = false }

// Set is what has been counted of one project. It is not safe for concurrent use.
type Set struct {
	cfg Config

	// Corrections counts how often the amounts of a model in an hour became smaller. It
	// counts again once they have grown back.
	Corrections uint64
	// Incomplete counts how often those of a model in an hour could not be read in full. It
	// counts again once they could.
	Incomplete uint64

	begun    bool              // the first read has been counted
	border   int64             // the hours before it are final; 0 before the first read
	newest   int64             // hour seen; 0 if none
	models   map[cell]*Model   // also of aggregate.Other
	expired  Model             // see Expired
	places   map[string]bool   // labels of models that have one
	accounts map[string]string // OpperProject labels of the Opper projects that are counted here
	own      string            // Opper project that was first proven to be the configured one
	// sumID is as what the usage without any Opper project is claimed, by the name of the
	// configured project that counted it first.
	sumID string
	// others are Opper projects that other configured projects count, givenUp or not. If
	// usage without any may be the sum of all, the empty one has the name of the project
	// that counts it.
	others map[string]string
	hours  map[int64][]mark

	givenUp   map[string]*handover // of Opper projects, since the last commit
	changed   map[int64]bool       // hours, since the last commit
	put       []byte               // keyCounters, as it was put last
	stored    []byte               // and as it is committed
	fullAt    int64                // our hour in which all that is not final was read; 0 if that is due
	undecided bool                 // whose some of the last answer is
	lastRead  time.Time
}

// New returns an empty Set.
func New(cfg Config) *Set {
	if cfg.Owners == nil {
		cfg.Owners = NewOwners(cfg.Project)
	}
	return &Set{
		cfg: cfg, models: map[cell]*Model{}, places: map[string]bool{}, accounts: map[string]string{}, others: map[string]string{},
		hours: map[int64][]mark{}, changed: map[int64]bool{}, givenUp: map[string]*handover{},
	}
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func timeOf(hour int64) time.Time { return time.Unix(3600*hour, 0).UTC() }

// Window returns what to read next, from hour to hour: the present and the previous hour
// and, once an hour, all that are not final.
func (s *Set) Window(now time.Time) (from, to time.Time) {
	present, first := hourOf(now), s.border
	switch {
	case s.newest == 0:
		// Nothing has been counted yet, so what our clock said at first need not be right.
		if first = s.start(now); s.border != 0 {
			first = min(first, s.border)
		}
	case s.fullAt == present:
		first = max(first, min(present, s.newest)-1)
	}
	return timeOf(first), timeOf(max(present, s.newest) + maxAhead + 1)
}

// start returns the hour in which the first read begins.
func (s *Set) start(now time.Time) int64 {
	year, month, _ := now.UTC().Date()
	start := hourOf(time.Date(year, month, 1, 0, 0, 0, 0, time.UTC))
	if s.cfg.Lookback != nil {
		start = max(start, hourOf(now.Add(-*s.cfg.Lookback)))
	}
	return start
}

// Failed says that a read has failed, so that other projects need not wait for this one.
func (s *Set) Failed() { s.cfg.Owners.endAwait(s.cfg.Project) }

// IsUndecided reports whether it has not been decided yet whose the usage is, or some of
// it, for which a proof would help.
func (s *Set) IsUndecided() bool { return !s.begun || s.undecided }

// Models returns the counters, sorted by label, then Opper project.
func (s *Set) Models() []*Model {
	models := make([]*Model, 0, len(s.models))
	for _, c := range slices.SortedFunc(maps.Keys(s.models), compareCells) {
		if m := s.models[c]; !m.isExpired {
			models = append(models, m)
		}
	}
	return models
}

// ZeroPending returns what is exposed at 0.
func (s *Set) ZeroPending() []aggregate.ZeroPending {
	var pending []aggregate.ZeroPending
	for _, m := range s.models {
		if m.zeroPending {
			pending = append(pending, m)
		}
	}
	return pending
}
