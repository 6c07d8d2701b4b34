package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest/oracle"
)

// inSpan is how many syncs that were shown make one that surely was complete: a
// trace may need a second one where the list moves, and the first of them may
// have begun before the span.
const inSpan = 3

// rules say what the exporter must have seen, as far as that is known from
// outside, or with doubtful what it may have seen.
func (v *watcher) rules(doubtful bool) oracle.Rules {
	ends := v.syncs
	r := oracle.Rules{
		Settle: v.scaled(settleDelay), Abandon: v.scaled(abandonAfter), Recheck: v.scaled(interval),
		InitialSync: v.begun, InitialSyncDone: ends[0],
		// The server and the exporter may round to different sides.
		Slack: time.Millisecond,
	}
	full := v.fullScans()
	blind := v.blind(full)
	add := func(s oracle.Sync) {
		if doubtful {
			r.Syncs = append(r.Syncs, s)
			return
		}
		if len(v.timeline.during(s.Start, s.End, lying)) > 0 {
			return
		}
		for _, b := range blind {
			switch {
			case !s.Start.Before(b.end) || !s.End.After(b.start):
			case s.Start.Before(b.seen):
				return
			case b.seen.After(s.SureSince):
				s.SureSince = b.seen
			}
		}
		r.Syncs = append(r.Syncs, s)
	}
	for i := inSpan; i < len(ends); i++ {
		// What is shown is cut to the millisecond.
		add(oracle.Sync{Start: ends[i-inSpan], End: ends[i].Add(time.Millisecond)})
	}
	for _, s := range full {
		add(oracle.Sync{Start: s.start, End: s.end, Full: true})
	}
	return r
}

// fullScans returns the times in which the exporter has read the whole list,
// undisturbed, and shown it.
func (v *watcher) fullScans() (out []span) {
	for _, s := range v.world.fullScans() {
		i := slices.IndexFunc(v.syncs, func(end time.Time) bool { return end.After(s.end) })
		if i < 0 || i+2 >= len(v.syncs) {
			continue
		}
		shown := v.syncs[i+2].Add(time.Millisecond)
		if len(v.timeline.during(s.start, shown, failing)) == 0 {
			out = append(out, span{s.start, shown})
		}
	}
	return out
}

// blindness is a time in which some rows may not have been read: from the sync that
// skipped them to the full scan that has read them.
type blindness struct {
	span
	seen time.Time // when the exporter had said that it skipped rows: later ones are not among them
}

func (v *watcher) blind(full []span) (out []blindness) {
	for _, g := range v.gaps {
		b := blindness{span{g.start, time.Now()}, g.end}
		for _, end := range v.syncs {
			if end.Before(g.start) {
				b.start = end
			}
		}
		for _, f := range full {
			if f.start.After(g.end) {
				b.end = f.start
				break
			}
		}
		out = append(out, b)
	}
	return out
}

// check holds the last scrape against the truth. If it is final, the names that
// are exposed at 0 must be right as well. It reports whether something is missing.
func (v *watcher) check(final bool) (missing bool) {
	v.mu.Lock()
	last := v.last
	if last == nil || len(v.syncs) == 0 {
		v.mu.Unlock()
		return true
	}
	sure, doubtful := v.rules(false), v.rules(true)
	v.mu.Unlock()
	// Asked after the scrape: what the truth allows only grows. Scrapes go on
	// meanwhile, as it takes seconds on a busy machine.
	least, most := exportertest.Bounds(oracle.NewTruth(v.world.opper, sure))
	// Only a sync that looked can have given a trace up.
	_, more := exportertest.Bounds(oracle.NewTruth(v.world.opper, doubtful))
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, high := range more {
		most[key] = max(most[key], high)
	}
	v.least, v.most = least.Total("opper_traces_total", ""), most.Total("opper_traces_total", "")
	missing = v.checkCosts(last, final)
	wrong := false
	for _, only := range []string{"opper_traces_total{", "opper_"} {
		for key, is := range last.Lasting {
			if high := most[key]; strings.HasPrefix(key, only) && !strings.HasPrefix(key, "opper_exporter_") && !isCost(key) && is > high+high*exportertest.Rounding {
				wrong = true
				v.tell("too much", key, "%v, and may be at most %v", is, high)
			}
		}
		for key, low := range least {
			is, ok := last.Lasting[key]
			if !strings.HasPrefix(key, only) || ok && is >= low-low*exportertest.Rounding || !final && last.zero(key) {
				continue
			}
			wrong, missing = true, true
			if !final || v.reported["final"] {
				v.tell("too little", key, "%v, and must be at least %v", is, low)
			}
		}
		if wrong {
			break // the rest follows from it
		}
	}
	return missing
}

// tell notes an offence of each kind once for each thing.
func (v *watcher) tell(kind, thing, format string, args ...any) {
	if !v.reported[kind+thing] {
		v.reported[kind+thing] = true
		v.promises.offend(kind, "%s: %s", thing, fmt.Sprintf(format, args...))
	}
}

// zero reports whether all counts of the name in a key are shown as 0, perhaps
// because its zeros have not been read yet.
func (r *reading) zero(key string) bool {
	_, label, _ := strings.Cut(key, "trace_name=")
	if i := strings.LastIndex(label, `,le="`); i >= 0 {
		label = label[:i]
	}
	return r.Lasting.Total("opper_traces_total", "trace_name="+strings.TrimSuffix(label, "}")+"}") == 0
}
