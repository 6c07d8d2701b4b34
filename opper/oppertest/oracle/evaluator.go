package oracle

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"opper_exporter/opper/oppertest"
)

// read is a Sync in microseconds.
type read struct {
	start, end int64
	sureSince  int64
	full       bool
	initial    bool
}

// evaluator applies Rules to the lives of a server.
type evaluator struct {
	Rules
	now, settle, abandon, slack int64
	success, failure            map[string]bool
	reads                       []read
	initialDone                 int64 // never if there was no initial sync
	needServed                  bool
	record                      bool
}

func newEvaluator(server oppertest.Config, r Rules) *evaluator {
	if r.Success == nil {
		r.Success = []string{"success", "ok", "completed"}
	}
	if r.Failure == nil {
		r.Failure = []string{"error", "failed", "failure"}
	}
	e := &evaluator{
		Rules:       r,
		settle:      r.Settle.Microseconds(),
		abandon:     r.Abandon.Microseconds(),
		slack:       r.Slack.Microseconds(),
		success:     set(r.Success),
		failure:     set(r.Failure),
		initialDone: never,
		needServed:  !server.NoRecord && (server.Shuffle || server.MaxOffset > 0),
		record:      !server.NoRecord,
	}
	if !r.InitialSyncDone.IsZero() {
		e.initialDone = r.InitialSyncDone.UnixMicro()
		e.reads = append(e.reads, read{r.InitialSync.UnixMicro(), e.initialDone, never, true, true})
	}
	for _, sync := range r.Syncs {
		sureSince := int64(never)
		if !sync.SureSince.IsZero() {
			sureSince = sync.SureSince.UnixMicro()
		}
		e.reads = append(e.reads, read{sync.Start.UnixMicro(), sync.End.UnixMicro(), sureSince, sync.Full, false})
	}
	// By their ends, so that a sync that ran during a long sweep comes before it.
	slices.SortStableFunc(e.reads, func(a, b read) int { return cmp.Compare(a.end, b.end) })
	return e
}

func set(list []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

// history is a life with what follows from the rules.
type history struct {
	oppertest.Life
	initial  bool  // the initial sync may have read it
	readable int64 // no sync that began before could be sure to read it
	// erratic: it was listed again after it was delisted, or was open again
	// after its end. No promise covers these, but that they count once.
	erratic bool
}

func (e *evaluator) history(l oppertest.Life) history {
	h := history{Life: l, readable: never, erratic: l.Relisted}
	if l.Healed != 0 {
		h.readable = l.Healed + e.Reread.Microseconds()
	}
	for i := 1; i < len(h.States); i++ {
		if h.States[i-1].HasEnd && !h.States[i].HasEnd {
			h.erratic = true
		}
	}
	if !e.record {
		h.Served = []oppertest.Served{{State: 0, First: l.From, Last: e.now}}
	}
	if len(h.Served) > 0 && e.initialDone != never {
		h.initial = h.Served[0].First <= e.initialDone+e.slack
	}
	return h
}

// present returns the state in which it is or was last listed.
func (h *history) present() *oppertest.State { return &h.States[len(h.States)-1] }

// seenBy returns the state that a sync could read, if it could read one
// throughout.
func (h *history) seenBy(k read, needServed bool) (seen oppertest.State, ok bool) {
	if h.From >= k.start || h.From <= k.sureSince || k.end >= h.To || k.start < h.readable {
		return oppertest.State{}, false
	}
	if needServed && !slices.ContainsFunc(h.Served, func(r oppertest.Served) bool {
		return k.start <= r.First && r.First <= k.end || k.start <= r.Last && r.Last <= k.end
	}) {
		return oppertest.State{}, false
	}
	for _, v := range h.States {
		switch {
		case v.At < k.start:
			seen = v
		case v.At <= k.end:
			return oppertest.State{}, false
		}
	}
	return seen, true
}

func (e *evaluator) verdict(l oppertest.Life) Verdict {
	h := e.history(l)
	ended, abandoned := e.deadlines(&h)
	v := Verdict{Must: (ended != oppertest.Forever || abandoned != oppertest.Forever) && !l.Unreadable}
	firstEnd := int64(never)
	for _, r := range h.Served {
		seen := &h.States[r.State]
		var from, until int64
		if seen.HasEnd {
			// An abandoned trace is not counted again.
			if abandoned != oppertest.Forever {
				break
			}
			if firstEnd == never {
				firstEnd = r.First
			}
			from, until = e.settledFrom(&h, seen, firstEnd), ended
		} else {
			from, until = e.abandonedFrom(&h, seen), abandoned
		}
		if r.Last < from || until != oppertest.Forever && r.First > until+e.slack {
			continue
		}
		if version := e.version(seen); !slices.Contains(v.Versions, version) {
			v.Versions = append(v.Versions, version)
		}
	}
	return v
}

// settledFrom is the earliest time at which an ended version may be read to
// be counted.
func (e *evaluator) settledFrom(h *history, seen *oppertest.State, firstEnd int64) int64 {
	// What is delisted is counted as last seen, settled or not.
	if h.To != oppertest.Forever || h.erratic {
		return never
	}
	if h.initial {
		firstEnd = min(firstEnd, seen.End)
	}
	return firstEnd + e.settle - e.slack
}

// abandonedFrom is the same for an open version.
func (e *evaluator) abandonedFrom(h *history, seen *oppertest.State) int64 {
	// A trace that is listed again is as old as it was.
	if h.Relisted {
		return never
	}
	first := h.Served[0].First
	if h.initial {
		first = min(first, seen.Start) // 1970 if there is none, which is old
	}
	return first + e.abandon - e.slack
}

// deadlines returns the ends of the syncs by which the trace has to be
// counted as ended or as abandoned; oppertest.Forever if it has not, and never both.
func (e *evaluator) deadlines(h *history) (ended, abandoned int64) {
	type sight struct {
		since, own int64 // first seen in this state at the latest, and by its own time
		initial    bool
	}
	if h.erratic {
		return oppertest.Forever, oppertest.Forever
	}
	var open, end *sight
	// Open when it was first served, by a sync during which it ended.
	servedOpen := len(h.Served) > 0 && !h.States[h.Served[0].State].HasEnd
	for _, k := range e.reads {
		seen, ok := h.seenBy(k, e.needServed)
		known := open != nil || end != nil
		if !ok || !known && h.Behind && !k.full {
			continue
		}
		if !seen.HasEnd {
			if open == nil {
				open = &sight{k.end, seen.Start, k.initial}
			}
			since := open.since
			if h.initial {
				since = max(since, open.own)
			}
			// A trace that is open for long is not read by each sync.
			due := since + e.abandon + e.abandon/4
			if open.initial {
				due = open.own + e.abandon
				if !k.initial {
					due += e.abandon / 4
				}
			}
			if k.start >= due {
				return oppertest.Forever, k.end
			}
			continue
		}
		if end == nil {
			if (open != nil || servedOpen) && k.start < h.noticed(seen.At, e.abandon, e.Recheck.Microseconds()) {
				continue
			}
			end = &sight{k.end, seen.End, k.initial}
		}
		due := end.since + e.settle
		if h.initial {
			due = max(end.since, end.own) + e.settle
		}
		if end.initial {
			due = end.own + e.settle
		}
		if k.start >= due {
			return k.end, oppertest.Forever
		}
	}
	return oppertest.Forever, oppertest.Forever
}

// noticed is when at the latest a sync reads a trace again that was known to be
// open and ended at some time: an age of A makes it due every A/8 or so.
func (h *history) noticed(at, abandon, recheck int64) int64 {
	from := h.From
	if h.present().HasStart {
		from = min(from, h.present().Start)
	}
	return at + max(min(at-from, abandon)/4, recheck)
}

func (e *evaluator) version(v *oppertest.State) Version {
	w := Version{Name: label(v), Tokens: -1}
	if !e.NoTokens && v.HasTokens && v.Tokens >= 0 && v.Tokens <= 1<<53 {
		w.Tokens = v.Tokens
	}
	if !v.HasEnd {
		w.Outcome = "abandoned"
		return w
	}
	w.Outcome = "unknown"
	if v.Status != nil {
		switch status := strings.ToLower(*v.Status); {
		case e.success[status]:
			w.Outcome = "success"
		case e.failure[status]:
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

func label(v *oppertest.State) string {
	if v.Name == nil || *v.Name == "" {
		return "(unnamed)"
	}
	return *v.Name
}

// duration returns microseconds. What does not fit into a time.Duration is
// no duration.
func duration(v *oppertest.State) (int64, bool) {
	us := math.Round(v.Millis * 1000)
	if !v.HasMillis {
		if !v.HasStart || !v.HasEnd {
			return 0, false
		}
		us = float64(v.End - v.Start)
	}
	return int64(us), math.Abs(us) < math.MaxInt64/1000
}
