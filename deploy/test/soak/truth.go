package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper/oppertest/oracle"
)

// The default buckets.
var (
	durationBounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	tokenBounds    = []float64{16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}
)

// rounding is what floats may lose in the sums of seconds.
const rounding = 1e-9

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
		InitialSync: v.baseline, InitialSyncDone: ends[0],
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
		if slices.ContainsFunc(blind, func(b span) bool { return s.Start.Before(b.end) && s.End.After(b.start) }) {
			return
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

// blind returns the times in which the exporter has said that it could not read
// some rows: until a full scan has read them.
func (v *watcher) blind(full []span) (out []span) {
	for _, g := range v.gaps {
		b := span{g.start, time.Now()}
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
// are shown at 0 must be right as well. It reports whether something is missing.
func (v *watcher) check(final bool) (missing bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last == nil || len(v.syncs) == 0 {
		return true
	}
	// Asked after the scrape: what the truth allows only grows.
	least, most := bounds(oracle.NewTruth(v.world.opper, v.rules(false)))
	// Only a sync that looked can have given a trace up.
	_, more := bounds(oracle.NewTruth(v.world.opper, v.rules(true)))
	for key, high := range more {
		most[key] = max(most[key], high)
	}
	v.least, v.most = least.total("opper_traces_total", ""), most.total("opper_traces_total", "")
	wrong := false
	for _, only := range []string{"opper_traces_total{", "opper_"} {
		for key, is := range v.last.lasting {
			if high := most[key]; strings.HasPrefix(key, only) && !strings.HasPrefix(key, "opper_exporter_") && is > high+high*rounding {
				wrong = true
				v.tell("too much", key, "%v, and may be at most %v", is, high)
			}
		}
		for key, low := range least {
			is, ok := v.last.lasting[key]
			if !strings.HasPrefix(key, only) || ok && is >= low-low*rounding || !final && v.zero(key) {
				continue
			}
			wrong, missing = true, true
			if !final || v.told["final"] {
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
	if !v.told[kind+thing] {
		v.told[kind+thing] = true
		v.promises.offend(kind, "%s: %s", thing, fmt.Sprintf(format, args...))
	}
}

// zero reports whether all counts of the name in a key are shown as 0, perhaps
// because its zeros have not been read yet.
func (v *watcher) zero(key string) bool {
	_, name, _ := strings.Cut(key, "trace_name=")
	name, _, _ = strings.Cut(name, `",le=`)
	return v.last.lasting.total("opper_traces_total", "trace_name="+strings.TrimSuffix(name, "}")) == 0
}

// bounds returns between which values the series of the traces must be. They are
// the same where a trace may have been counted as one thing only.
func bounds(truth oracle.Truth) (least, most series) {
	least, most = series{}, series{}
	for _, verdict := range truth.Traces {
		low, high, in := series{}, series{}, map[string]int{}
		for _, v := range verdict.Versions {
			for key, add := range worth(v) {
				if in[key]++; in[key] == 1 {
					low[key] = add
				}
				low[key], high[key] = min(low[key], add), max(high[key], add)
			}
		}
		for key, n := range in {
			if verdict.Must && n == len(verdict.Versions) {
				least[key] += low[key]
			}
			most[key] += high[key]
		}
	}
	return least, most
}

// worth returns what one trace adds to the series.
func worth(v oracle.Version) series {
	name := v.Name
	if name != aggregate.Unnamed { // there is no real name like it
		name = aggregate.Label(name)
	}
	add := series{}
	outcome := fmt.Sprintf(`outcome=%q,project="default",trace_name=%q`, v.Outcome, name)
	histogram := func(metric, labels string, value float64, bounds []float64) {
		add[metric+"_count{"+labels+"}"], add[metric+"_sum{"+labels+"}"] = 1, value
		for _, b := range bounds {
			if value <= b {
				add[fmt.Sprintf(`%s_bucket{%s,le="%v"}`, metric, labels, b)] = 1
			}
		}
	}
	add["opper_traces_total{"+outcome+"}"] = 1
	if v.Tokens >= 0 {
		add["opper_trace_tokens_total{"+outcome+"}"] = float64(v.Tokens)
		histogram("opper_tokens_per_trace", fmt.Sprintf(`project="default",trace_name=%q`, name), float64(v.Tokens), tokenBounds)
	}
	if v.Unusable == "" && v.Outcome != "abandoned" {
		histogram("opper_trace_duration_seconds", outcome, float64(v.Micros)/1e6, durationBounds)
	}
	return add
}
