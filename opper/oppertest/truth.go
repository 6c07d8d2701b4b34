package oppertest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Sync is one look of a running exporter at the list that ended well.
type Sync struct {
	Start, End time.Time
	Full       bool // a complete walk: it also finds what slipped in behind the head
}

// Rules say how the exporter under test was set up, and when it looked.
// Something that happens at the very instant in which a sync begins or ends
// is not taken to have been seen by it: step a fake clock between the two.
type Rules struct {
	Settle, Abandon  time.Duration
	Look             time.Duration // the least time between two looks at an open trace
	Success, Failure []string      // lower-case; nil means success, ok, completed and error, failed, failure
	NoTokens         bool          // the exporter read v3

	// Baseline is when the first complete walk began, BaselineDone when it
	// ended; zero if there was none. Traces that it met are judged by their
	// own times. A server that does not record takes each trace as served all
	// the time that it was listed.
	Baseline, BaselineDone time.Time
	Syncs                  []Sync // after the baseline; leaving some out only demands less
	// Slack is how far the exporter's idea of when a row was read may be from
	// the server's: the longest sync, if it takes one time for all its rows.
	Slack time.Duration
	// Reread is how soon after a row can be read again (see Server.Heal) a sync
	// has to have read it, even if it was taken for unreadable.
	Reread time.Duration
}

// Version is what a trace may be counted as.
type Version struct {
	Name    string // "(unnamed)" if null or empty
	Outcome string // success, failure, unknown, abandoned
	Tokens  int64  // -1 if unknown
	// Micros is the duration in microseconds, 0 if it is unusable. Unusable
	// is "missing" or "negative". An abandoned trace has neither.
	Micros   int64
	Unusable string
}

// Verdict says whether a trace has to be counted by now, and as what.
type Verdict struct {
	Must     bool
	Versions []Version // any one of these, none twice; empty if it must not be counted yet
}

// Truth is the verdict on each trace that was ever listed, by id.
type Truth struct {
	Traces map[string]Verdict
}

// Counted is one trace as an exporter counted it.
type Counted struct {
	ID string
	Version
}

// Truth judges the lives of all traces so far.
//
// A trace must be counted if one sync could see its end, and another one that
// began a settle delay later could see it again; "could see" is: it stayed
// listed and unchanged throughout. The first of them must be Full if the
// trace took a place behind rows that were served already. It may be counted
// once it was served ended, and again a settle delay later; or left the list
// after it was served ended. What it may be counted as is what was served
// from the settle delay on, until it had to be counted.
// If the server shuffles, or refuses deep offsets, a trace must be counted
// only if both syncs did meet it.
func (s *Server) Truth(r Rules) Truth {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.judge(r)
	t := Truth{Traces: make(map[string]Verdict, len(s.byID))}
	for id, l := range s.byID {
		t.Traces[id] = j.verdict(l)
	}
	return t
}

const never = math.MinInt64

// look is a Sync in microseconds.
type look struct {
	start, end int64
	full       bool
	baseline   bool
}

type judge struct {
	Rules
	now, settle, abandon, slack int64
	success, failure            map[string]bool
	looks                       []look
	baselineDone                int64 // never if there was no baseline
	needServed                  bool
	record                      bool
	poisoned                    map[string]bool
	healed                      map[string]int64
}

func (s *Server) judge(r Rules) *judge {
	if r.Success == nil {
		r.Success = []string{"success", "ok", "completed"}
	}
	if r.Failure == nil {
		r.Failure = []string{"error", "failed", "failure"}
	}
	j := &judge{
		Rules:        r,
		now:          s.now(),
		settle:       r.Settle.Microseconds(),
		abandon:      r.Abandon.Microseconds(),
		slack:        r.Slack.Microseconds(),
		success:      set(r.Success),
		failure:      set(r.Failure),
		baselineDone: never,
		needServed:   !s.cfg.NoRecord && (s.cfg.Shuffle || s.cfg.MaxOffset > 0),
		record:       !s.cfg.NoRecord,
		poisoned:     s.poisoned,
		healed:       s.healed,
	}
	if !r.BaselineDone.IsZero() {
		j.baselineDone = micros(r.BaselineDone)
		j.looks = append(j.looks, look{micros(r.Baseline), j.baselineDone, true, true})
	}
	for _, sync := range r.Syncs {
		j.looks = append(j.looks, look{micros(sync.Start), micros(sync.End), sync.Full, false})
	}
	// By their ends, so that a sync that ran during a long sweep comes before it.
	slices.SortStableFunc(j.looks, func(a, b look) int { return cmp.Compare(a.end, b.end) })
	return j
}

func set(list []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

// story is a life as the judge reads it.
type story struct {
	*life
	versions []version // oldest first
	runs     []run
	met      bool  // the baseline may have met it
	readable int64 // no sync that began before could be sure to read it
	// erratic: it came back after it had left the list, or was open again
	// after its end. No promise covers these, but that they count once.
	erratic bool
}

func (j *judge) story(l *life) story {
	st := story{life: l, readable: never}
	if at, ok := j.healed[l.id]; ok {
		st.readable = at + j.Reread.Microseconds()
	}
	if l.past != nil {
		st.versions = append(st.versions, l.past.versions...)
		st.runs = l.past.runs
		st.erratic = l.past.relisted
	}
	st.versions = append(st.versions, l.version)
	for i := 1; i < len(st.versions); i++ {
		if st.versions[i-1].ended() && !st.versions[i].ended() {
			st.erratic = true
		}
	}
	if !j.record {
		st.runs = []run{{0, l.from, j.now}}
	}
	if len(st.runs) > 0 && j.baselineDone != never {
		st.met = st.runs[0].first <= j.baselineDone+j.slack
	}
	return st
}

// seenBy returns the version that a look could see, if it could see one
// throughout.
func (st *story) seenBy(k look, needServed bool) (seen version, ok bool) {
	if st.from >= k.start || k.end >= st.to || k.start < st.readable {
		return version{}, false
	}
	if needServed && !slices.ContainsFunc(st.runs, func(r run) bool {
		return k.start <= r.first && r.first <= k.end || k.start <= r.last && r.last <= k.end
	}) {
		return version{}, false
	}
	for _, v := range st.versions {
		switch {
		case v.at < k.start:
			seen = v
		case v.at <= k.end:
			return version{}, false
		}
	}
	return seen, true
}

func (j *judge) verdict(l *life) Verdict {
	st := j.story(l)
	ended, abandoned := j.deadlines(&st)
	v := Verdict{Must: (ended != forever || abandoned != forever) && !j.poisoned[l.id]}
	firstEnd := int64(never)
	for _, r := range st.runs {
		seen := &st.versions[r.version]
		var from, until int64
		if seen.ended() {
			// Who knows it as abandoned does not count it again.
			if abandoned != forever {
				break
			}
			if firstEnd == never {
				firstEnd = r.first
			}
			from, until = j.settledFrom(&st, seen, firstEnd), ended
		} else {
			from, until = j.abandonedFrom(&st, seen), abandoned
		}
		if r.last < from || until != forever && r.first > until+j.slack {
			continue
		}
		if version := j.version(seen); !slices.Contains(v.Versions, version) {
			v.Versions = append(v.Versions, version)
		}
	}
	return v
}

// settledFrom is the earliest time at which an ended version may be read to
// be counted.
func (j *judge) settledFrom(st *story, seen *version, firstEnd int64) int64 {
	// What has gone is counted as it was last seen, settled or not.
	if !st.listed() || st.erratic {
		return never
	}
	if st.met {
		firstEnd = min(firstEnd, seen.end)
	}
	return firstEnd + j.settle - j.slack
}

// abandonedFrom is the same for an open version.
func (j *judge) abandonedFrom(st *story, seen *version) int64 {
	// What has come back is as old as it was.
	if st.past.relisted {
		return never
	}
	first := st.runs[0].first
	if st.met {
		first = min(first, seen.start) // 1970 if there is none, which is old
	}
	return first + j.abandon - j.slack
}

// deadlines returns the ends of the syncs by which the trace has to be
// counted as ended or as abandoned; forever if it has not, and never both.
func (j *judge) deadlines(st *story) (ended, abandoned int64) {
	type sight struct {
		since, own int64 // first seen in this state at the latest, and by its own time
		baseline   bool
	}
	if st.erratic {
		return forever, forever
	}
	var open, end *sight
	// Open when it was first served, by a look that its end came into.
	servedOpen := len(st.runs) > 0 && !st.versions[st.runs[0].version].ended()
	for _, k := range j.looks {
		seen, ok := st.seenBy(k, j.needServed)
		known := open != nil || end != nil
		if !ok || !known && st.behind && !k.full {
			continue
		}
		if !seen.ended() {
			if open == nil {
				open = &sight{k.end, seen.start, k.baseline}
			}
			since := open.since
			if st.met {
				since = max(since, open.own)
			}
			// A trace that is open for long is not due at each sync.
			due := since + j.abandon + j.abandon/4
			if open.baseline {
				due = open.own + j.abandon
				if !k.baseline {
					due += j.abandon / 4
				}
			}
			if k.start >= due {
				return forever, k.end
			}
			continue
		}
		if end == nil {
			if (open != nil || servedOpen) && k.start < st.noticed(seen.at, j.abandon, j.Look.Microseconds()) {
				continue
			}
			end = &sight{k.end, seen.end, k.baseline}
		}
		due := end.since + j.settle
		if st.met {
			due = max(end.since, end.own) + j.settle
		}
		if end.baseline {
			due = end.own + j.settle
		}
		if k.start >= due {
			return k.end, forever
		}
	}
	return forever, forever
}

// noticed is when a sync at the latest looks again at a trace that was known
// to be open and ended at some time: an age of A makes it due every A/8 or so.
func (st *story) noticed(at, abandon, look int64) int64 {
	from := st.from
	if st.has&hasStart != 0 {
		from = min(from, st.start)
	}
	return at + max(min(at-from, abandon)/4, look)
}

func (j *judge) version(v *version) Version {
	w := Version{Name: label(v), Tokens: -1}
	if !j.NoTokens && v.has&hasTokens != 0 && v.tokens >= 0 && v.tokens <= 1<<53 {
		w.Tokens = v.tokens
	}
	if !v.ended() {
		w.Outcome = "abandoned"
		return w
	}
	w.Outcome = "unknown"
	if v.status != nil {
		switch status := strings.ToLower(*v.status); {
		case j.success[status]:
			w.Outcome = "success"
		case j.failure[status]:
			w.Outcome = "failure"
		}
	}
	us, ok := duration(v)
	switch {
	case !ok:
		w.Unusable = "missing"
	case us < 0:
		w.Unusable = "negative"
	default:
		w.Micros = us
	}
	return w
}

func label(v *version) string {
	if v.name == nil || *v.name == "" {
		return "(unnamed)"
	}
	return *v.name
}

// duration returns microseconds. What does not fit into a time.Duration is
// no duration.
func duration(v *version) (int64, bool) {
	us := math.Round(v.ms * 1000)
	if v.has&hasMS == 0 {
		if v.has&hasStart == 0 || v.has&hasEnd == 0 {
			return 0, false
		}
		us = float64(v.end - v.start)
	}
	return int64(us), math.Abs(us) < math.MaxInt64/1000
}

// Check compares what an exporter has counted so far: every trace at most
// once, all that must be and none that must not be there, each as a version
// that it may be counted as. The error tells the first ten offences.
func (t Truth) Check(counted []Counted) error {
	var wrong []error
	offend := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	seen := make(map[string]bool, len(counted))
	for _, c := range counted {
		v, listed := t.Traces[c.ID]
		if c.Name == "" {
			c.Name = "(unnamed)"
		}
		switch {
		case seen[c.ID]:
			offend("trace %s is counted twice", c.ID)
		case !listed:
			offend("trace %s is counted, but was never listed", c.ID)
		case v.Must && len(v.Versions) == 0:
			offend("trace %s is counted as %+v, but was not read again after it settled", c.ID, c.Version)
		case len(v.Versions) == 0:
			offend("trace %s is counted as %+v, but must not be yet", c.ID, c.Version)
		case !slices.Contains(v.Versions, c.Version):
			offend("trace %s is counted as %+v, but may only be one of %+v", c.ID, c.Version, v.Versions)
		}
		seen[c.ID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(t.Traces)) {
		if v := t.Traces[id]; v.Must && !seen[id] {
			offend("trace %s is not counted, but must be as one of %+v", id, v.Versions)
		}
	}
	if n := len(wrong); n > 10 {
		wrong = append(wrong[:10:10], fmt.Errorf("and %d more", n-10))
	}
	return errors.Join(wrong...)
}

// Key is what sums are kept by.
type Key struct{ Name, Outcome string }

// Sum is over the traces of one Key.
type Sum struct {
	Traces    int64
	Tokens    int64
	Durations int64 // traces with a usable duration
	Micros    int64 // sum of these
}

// TokenSum is over the traces of one name whose tokens are known.
type TokenSum struct{ Traces, Tokens int64 }

// Sums are exact sums over counted traces. Names and outcomes without a
// trace are left out.
type Sums struct {
	By                map[Key]Sum
	Tokens            map[string]TokenSum // by name
	Missing, Negative int64               // traces with an unusable duration
}

// Sums adds up what has to be counted. It fails if that is not certain: a
// trace may, but need not be counted, or as more than one thing.
func (t Truth) Sums() (Sums, error) {
	var all []Version
	for id, v := range t.Traces {
		switch {
		case v.Must && len(v.Versions) == 1:
			all = append(all, v.Versions[0])
		case v.Must || len(v.Versions) > 0:
			return Sums{}, fmt.Errorf("no certain sum: trace %s has the verdict %+v", id, v)
		}
	}
	return sum(slices.Values(all)), nil
}

// SumOf adds up what an exporter has counted, to be compared with Truth.Sums.
func SumOf(counted []Counted) Sums {
	return sum(func(yield func(Version) bool) {
		for _, c := range counted {
			if c.Name == "" {
				c.Name = "(unnamed)"
			}
			if !yield(c.Version) {
				return
			}
		}
	})
}

func sum(versions func(func(Version) bool)) Sums {
	s := Sums{By: map[Key]Sum{}, Tokens: map[string]TokenSum{}}
	for v := range versions {
		key := Key{v.Name, v.Outcome}
		b := s.By[key]
		b.Traces++
		if v.Tokens >= 0 {
			b.Tokens += v.Tokens
			t := s.Tokens[v.Name]
			s.Tokens[v.Name] = TokenSum{t.Traces + 1, t.Tokens + v.Tokens}
		}
		switch {
		case v.Unusable == "missing":
			s.Missing++
		case v.Unusable == "negative":
			s.Negative++
		case v.Outcome != "abandoned":
			b.Durations++
			b.Micros += v.Micros
		}
		s.By[key] = b
	}
	return s
}
