package main

import (
	"context"
	"fmt"
	"time"
)

// longestZero is for how long zeros are shown at most, whether they were read or not.
const longestZero = 10 * time.Minute

// checkEvery leaves the machine to the exporter meanwhile.
const checkEvery = 3 * time.Second

// finish waits, with no traffic and no trouble any more, until all that has to
// be counted is.
func (v *watcher) finish(ctx context.Context) error {
	v.promises.say("the traffic ends; now the rest must be counted")
	v.world.calm()
	sleep(ctx, v.scaled(2*time.Minute)+v.scaled(settleDelay)+2*time.Second) // until the last trace of a burst has ended and settled
	quiet := time.Now()
	scanned := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, s := range v.fullScans() {
			if s.start.After(quiet) {
				return true
			}
		}
		return false
	}
	most := longestZero + time.Minute
	if !wait(ctx, most, scanned) && ctx.Err() == nil {
		v.promises.offend("sweep", "none was finished within %s, in peace", most)
	}
	said := false
	for ends := time.Now().Add(most); v.check(true) && ctx.Err() == nil && time.Now().Before(ends); {
		v.mu.Lock()
		pending := v.last.Rest.Project("opper_exporter_trace_names_zero_pending")
		v.mu.Unlock()
		if pending > 0 && !said {
			said = true
			// A hostile client that has scraped is waited for, too.
			v.promises.say("names whose zeros not every scraper has read: %v; waiting for up to %s", pending, longestZero)
		}
		sleep(ctx, checkEvery)
	}
	v.mu.Lock()
	v.reported["final"] = true
	v.mu.Unlock()
	if v.check(true) {
		v.promises.say("something is still missing %s after the traffic has ended", time.Since(quiet).Round(time.Second))
	}
	return ctx.Err()
}

// report prints a line for a person.
func (v *watcher) report() {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.last
	if r == nil {
		return
	}
	now := v.timeline.now()
	if now == "" {
		now = "quiet"
	}
	v.promises.say("listed %d, counted %.0f of %.0f to %.0f, up %v, %.0f syncs, %.0f failed, last %s ago, gaps %v, %.0f MiB, %v goroutines, %v fds, slowest scrape %s | %s",
		v.world.opper.Len(), r.Lasting.Total("opper_traces_total", ""), v.least, v.most, r.Rest.Project("opper_up"), v.good, v.bad,
		time.Since(r.LastSuccess()).Round(time.Second), r.Lasting.Project("opper_exporter_gaps_total"),
		r.Rest["process_resident_memory_bytes{}"]/(1<<20), r.Rest["go_goroutines{}"], r.Rest["process_open_fds{}"], v.slowest.Round(time.Millisecond), now)
}

// verdict prints the figures and what is broken, and reports whether anything
// is.
func (v *watcher) verdict() (broken bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.last
	if up := r.Rest.Project("opper_up"); up != 1 {
		v.promises.offend("up", "opper_up is %v in the end", up)
	}
	if v.least < v.most/3 {
		v.promises.offend("soak", "only %.0f of up to %.0f counts are certain, which proves little", v.least, v.most)
	}
	leaks := v.leaks()
	counted := r.Lasting.Total("opper_traces_total", "")
	out := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(v.out, "%-16s %s\n", what, fmt.Sprintf(format, args...))
	}
	_, _ = fmt.Fprintln(v.out)
	out("happened", "%s", v.timeline.count())
	out("counted", "%.0f; certain are %.0f, possible %.0f; names %.0f, abandoned %.0f", counted, v.least, v.most,
		r.Rest.Project("opper_exporter_trace_names"), r.Lasting.Total("opper_traces_total", `outcome="abandoned"`))
	out("syncs", "%.0f succeeded, %.0f failed; %d processes; full scans seen: %d", v.good, v.bad, r.life, len(v.fullScans()))
	out("gaps", "%v; never counted: %v", r.Lasting.Project("opper_exporter_gaps_total"), r.Lasting.Total("opper_exporter_traces_skipped_total", ""))
	if v.world.usage != nil {
		out("cost", "%.6f USD; at present usage shows %.6f, at its highest it showed %.6f; by agent %.6f of %.0f traces, unknown of %.0f; %.0f corrections",
			r.Lasting.Total("opper_usage_cost_usd_total", ""), v.leastCost, v.mostCost, r.Lasting.Total("opper_trace_cost_usd_total", ""),
			r.Lasting.Total("opper_cost_usd_per_trace_count", ""), r.Lasting.Project("opper_exporter_trace_costs_unknown_total"), r.Lasting.Project("opper_exporter_usage_corrections_total"))
	}
	out("scrapes", "%d, slowest %s; without a timeout %d were refused", v.scrapes, v.slowest.Round(time.Millisecond), v.refused)
	out("leaks", "%s; peak memory %.0f MiB", leaks, v.peak/(1<<20))
	lines := v.promises.list()
	if len(lines) == 0 {
		out("verdict", "all promises were kept")
		return false
	}
	out("verdict", "%d lines about promises that were broken:", len(lines))
	for _, line := range lines {
		_, _ = fmt.Fprintln(v.out, "  "+line)
	}
	return true
}
