package oppertest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Call is one call of a model. Without a Trace it is in usage only.
type Call struct {
	Time    time.Time // decides its hour
	Model   *string   // nil is null
	Project string    // uuid of its Opper project; "" is null
	Trace   string    // "" is null
	Amounts           // Calls is ignored
	// Shown is since when it is in usage. Zero is its time plus the roll-up, or now if
	// that is later.
	Shown time.Time
	// Adjustment makes it no call, but a change of the cost and the tokens of its hour.
	Adjustment bool
}

// Amounts are what usage sums up.
type Amounts struct {
	Cost                      int64 // 10⁻⁹ US dollars; may be negative
	Calls                     int64
	InputTokens, OutputTokens int64 // null in an answer if 0
}

func (a *Amounts) add(b Amounts, sign int64) {
	a.Cost += sign * b.Cost
	a.Calls += sign * b.Calls
	a.InputTokens += sign * b.InputTokens
	a.OutputTokens += sign * b.OutputTokens
}

// raise makes each amount at least as high as in b.
func (a *Amounts) raise(b Amounts) {
	*a = Amounts{max(a.Cost, b.Cost), max(a.Calls, b.Calls), max(a.InputTokens, b.InputTokens), max(a.OutputTokens, b.OutputTokens)}
}

// UsageConfig is fixed for the life of a Usage.
type UsageConfig struct {
	Seed int64
	Now  func() time.Time // nil means time.Now
	// Keep is how long calls are told apart by trace. 0 keeps all, which takes memory
	// for each call.
	Keep time.Duration
}

// UsageTroubles are what is wrong with usage and budgets. Ratios run from 0 to 1 and
// go by the seed. The zero value is a friendly Opper, whose keys see their own project.
type UsageTroubles struct {
	// These decide, when a call is added, what becomes of it.

	RollUp       time.Duration // a call shows this long after it was made,
	RollUpSpread time.Duration // and up to this much later
	// Corrections is the ratio of calls that later cost less, or are withdrawn: within
	// CorrectWithin (0 means an hour) after they showed. Half of them are as before
	// within the same time again.
	Corrections   float64
	CorrectWithin time.Duration
	Nulls         float64 // ratio of calls whose model is null; the same of those whose project is

	// These are about answers.

	OrganizationWide bool
	RefuseGroups     []string // groups that are refused with 422
	NoGroups         []string // groups that are ignored: the rows are not told apart by them, and have no key of them
	NullsAbsent      bool     // a null group has no key, in half of the rows
	Underscores      bool     // project_uuid and project_name are the keys of those groups
	Duplicates       float64  // ratio of keys that stand in two or three rows, which add up
	Shuffle          bool     // rows in another order on every request
	Shapes           bool     // numbers and times in every shape
	Unreadable       float64  // ratio of rows whose cost is no number, others in each minute, but for the first
	UnknownFields    bool     // rows and budgets have fields that nobody knows, with a Secret
	MaxRows          int      // more rows are cut off; 0 means none are
	Wrapped          bool     // an object with the rows as data, and meta.total_count
	Status           int      // refuses all usage; 0 means that it works
	Errors           float64  // ratio of requests of usage and budgets that end in a 5xx
	Stale            float64  // ratio of answers of usage that show what showed a while before
	StaleBy          time.Duration
	Latency          time.Duration
	BudgetStatus     int     // refuses all budgets; 0 means that they work
	BudgetGaps       float64 // ratio at which each part of a budget is missing
}

// Usage is the usage of an Opper organization, which its projects share. It may be
// used by many goroutines.
type Usage struct {
	cfg UsageConfig

	mu       sync.Mutex
	troubles UsageTroubles
	seq      uint64
	hours    map[int64][]entry // by seconds since 1970
	order    []int64           // of the hours
	interned map[string]*string
	names    map[string]string
	budgets  map[string]Budget
}

// entry is a call, or the sum of some.
type entry struct {
	at, shown      int64 // seconds and microseconds since 1970
	seq            uint64
	owner          *string // the project whose key sees it, even if its own is null
	project, model *string // nil is null
	trace          string
	amounts        Amounts
	correction     *correction
}

// correction takes something from an entry for some time.
type correction struct {
	from, to int64 // microseconds since 1970; Forever is for ever
	less     Amounts
}

// NewUsage makes the usage of an organization that has used nothing.
func NewUsage(cfg UsageConfig) *Usage {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Usage{cfg: cfg, hours: map[int64][]entry{}, interned: map[string]*string{}, names: map[string]string{}, budgets: map[string]Budget{}}
}

// SetTroubles replaces the troubles.
func (u *Usage) SetTroubles(t UsageTroubles) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.troubles = t
}

// SetProjectName sets the name of an Opper project, which is otherwise "project "
// and its uuid.
func (u *Usage) SetProjectName(uuid, name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.names[uuid] = name
}

// Add adds calls, which may lie in the future: they show when their time has come.
func (u *Usage) Add(calls ...Call) { u.addAt(u.cfg.Now(), calls) }

func (u *Usage) addAt(now time.Time, calls []Call) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range calls {
		u.add(c, micros(now))
	}
}

func (u *Usage) add(c Call, now int64) {
	u.seq++
	rng := rand.New(rand.NewPCG(uint64(u.cfg.Seed), u.seq))
	e := entry{
		at: c.Time.Unix(), seq: u.seq, owner: u.intern(c.Project), project: u.intern(c.Project), trace: c.Trace, amounts: c.Amounts,
		shown: max(micros(c.Time.Add(u.troubles.RollUp)), now) + upTo(rng, u.troubles.RollUpSpread),
	}
	if !c.Shown.IsZero() {
		e.shown = micros(c.Shown)
	}
	e.amounts.Calls = 1
	if c.Adjustment {
		e.amounts.Calls = 0
	}
	if c.Model != nil && rng.Float64() >= u.troubles.Nulls {
		e.model = u.intern(*c.Model)
	}
	if c.Project == "" || rng.Float64() < u.troubles.Nulls {
		e.project = nil
	}
	if rng.Float64() < u.troubles.Corrections {
		within := u.troubles.CorrectWithin
		if within == 0 {
			within = time.Hour
		}
		cut := &correction{from: e.shown + upTo(rng, within), to: Forever, less: e.amounts}
		if rng.IntN(2) == 0 {
			cut.less = Amounts{Cost: e.amounts.Cost / 3, OutputTokens: e.amounts.OutputTokens / 2}
		}
		if rng.IntN(2) == 0 {
			cut.to = cut.from + upTo(rng, within)
		}
		e.correction = cut
	}
	hour := e.at - e.at%3600
	if i, ok := slices.BinarySearch(u.order, hour); !ok {
		u.order = slices.Insert(u.order, i, hour)
		if u.cfg.Keep > 0 {
			u.sumUp(now)
		}
	}
	u.hours[hour] = append(u.hours[hour], e)
}

// upTo is some microseconds, at most a duration.
func upTo(rng *rand.Rand, d time.Duration) int64 { return rng.Int64N(d.Microseconds() + 1) }

func (u *Usage) intern(s string) *string {
	p, ok := u.interned[s]
	if !ok {
		p = &s
		u.interned[s] = p
	}
	return p
}

// visible returns what shows of an entry at a time.
func (e *entry) visible(now int64) (Amounts, bool) {
	if now < e.shown {
		return Amounts{}, false
	}
	a := e.amounts
	if c := e.correction; c != nil && now >= c.from && now < c.to {
		a.add(c.less, -1)
		return a, a != Amounts{}
	}
	return a, true
}

// isFinal says that nothing will become of an entry any more.
func (e *entry) isFinal(now int64) bool {
	c := e.correction
	return now >= e.shown && (c == nil || now >= c.from && (now >= c.to || c.to == Forever))
}

// sumUp sums up the calls of each old hour.
func (u *Usage) sumUp(now int64) {
	type key struct{ owner, project, model *string }
	for hour, entries := range u.hours {
		if fromMicros(now).Unix()-hour-3600 < int64(u.cfg.Keep.Seconds()) {
			continue
		}
		sums := map[key]int{}
		var kept []entry
		for _, e := range entries {
			k := key{e.owner, e.project, e.model}
			i, ok := sums[k]
			switch a, isVisible := e.visible(now); {
			case !e.isFinal(now):
				kept = append(kept, e)
			case !isVisible:
			case ok:
				kept[i].amounts.add(a, 1)
			default:
				e.amounts, e.trace, e.correction = a, "", nil
				sums[k] = len(kept)
				kept = append(kept, e)
			}
		}
		u.hours[hour] = slices.Clip(kept)
	}
}

// each calls visit with what shows at some time of what lies between two others, hour
// by hour. The caller holds the lock.
func (u *Usage) each(at time.Time, from, to int64, visit func(e *entry, a Amounts)) {
	now := micros(at)
	first, _ := slices.BinarySearch(u.order, from-from%3600)
	for _, hour := range u.order[first:] {
		if hour >= to {
			return
		}
		entries := u.hours[hour]
		for i := range entries {
			e := &entries[i]
			if e.at < from || e.at >= to {
				continue
			}
			if a, ok := e.visible(now); ok {
				visit(e, a)
			}
		}
	}
}
