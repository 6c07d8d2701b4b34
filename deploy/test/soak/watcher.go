package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"opper_exporter/deploy/test/exportertest"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// watcher scrapes the exporter all the time, as a server does, and holds each
// scrape against the one before, whichever process gave it.
type watcher struct {
	*settings
	exporter *exporter
	world    *world
	promises *promises
	timeline *timeline
	client   *http.Client
	begun    time.Time // before the first process was started

	mu          sync.Mutex
	last        *reading    // the last one that showed traces
	syncs       []time.Time // ends of the syncs that were shown
	gaps        []span      // when opper_exporter_gaps_total rose
	scrapes     int
	refused     int // scrapes without a timeout, which are told to try again later
	slowest     time.Duration
	good, bad   float64 // syncs
	failures    float64 // since the last good one, while nothing was wrong
	samples     []sample
	peak        float64 // resident memory
	reported    map[string]bool
	least, most float64 // counts that are certain and possible, at the last check

	leastCost, mostCost float64 // US dollars that show and that were served at the highest, then
	costsComplete       bool    // no usage was missing in the end
}

type span struct{ start, end time.Time }

func newWatcher(s *settings, x *exporter, w *world, p *promises, tl *timeline) *watcher {
	return &watcher{
		settings: s, exporter: x, world: w, promises: p, timeline: tl, reported: map[string]bool{},
		// One scrape after the other may come over several connections otherwise, and
		// one that is left is waited for.
		client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}},
	}
}

// scrapeTimeout is longer than a server's usual one, as the load of the machine is in it.
// How long a scrape takes is a figure of the verdict.
const scrapeTimeout = time.Minute

// run watches until ctx ends, and closes what it returns then.
func (v *watcher) run(ctx context.Context) <-chan struct{} {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(max(v.scaled(time.Second), 250*time.Millisecond))
		defer tick.Stop()
		reported := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			v.look(ctx)
			if n%10 == 9 {
				v.otherFormats(ctx)
			}
			if time.Since(reported) >= reportEvery {
				reported = time.Now()
				v.check(false)
				v.report()
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return stopped
}

// synced returns how many syncs have been shown.
func (v *watcher) synced() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.syncs)
}

// lag returns how old the last good sync is.
func (v *watcher) lag() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.syncs) == 0 {
		return 0
	}
	return time.Since(v.syncs[len(v.syncs)-1])
}

// get reads /metrics. ok is false if nothing can be said about the answer,
// because the process was started, stopped or killed meanwhile.
func (v *watcher) get(ctx context.Context, accept string, scrape bool) (header http.Header, body []byte, before view, ok bool) {
	before = v.exporter.view()
	if before.address == "" {
		return nil, nil, before, false
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	began := time.Now()
	header, body, err := v.fetch(ctx, "http://"+before.address+"/metrics", accept, scrape)
	took := time.Since(began)
	after := v.exporter.view()
	disturbed := before.paused || before.changes != after.changes || errors.Is(context.Cause(ctx), context.Canceled)
	if err != nil {
		switch {
		case disturbed:
		case errors.Is(err, errRefused) && !scrape:
			v.mu.Lock()
			v.refused++
			v.mu.Unlock()
		default:
			v.promises.offend("scrape", "%v, after %s%s", err, took.Round(time.Millisecond), v.meanwhile())
		}
		return nil, nil, before, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.scrapes++
	if !disturbed {
		v.slowest = max(v.slowest, took)
	}
	if after.life == before.life {
		before = after // a process that was stopped has answered only now
	}
	return header, body, before, true
}

var errRefused = errors.New("503 Service Unavailable")

func (v *watcher) fetch(ctx context.Context, url, accept string, scrape bool) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "soak")
	if scrape {
		req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", fmt.Sprint(scrapeTimeout.Seconds()))
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
	case resp.StatusCode == http.StatusServiceUnavailable:
		err = fmt.Errorf("%w: %.200q", errRefused, body)
	case resp.StatusCode != http.StatusOK:
		err = fmt.Errorf("%s: %.200q", resp.Status, body)
	}
	return resp.Header, body, err
}

// meanwhile says what goes on, for a line about what is broken.
func (v *watcher) meanwhile() string {
	if now := v.timeline.now(); now != "" {
		return ", during " + now
	}
	return ""
}

func (v *watcher) look(ctx context.Context) {
	header, body, process, ok := v.get(ctx, string(expfmt.NewFormat(expfmt.TypeProtoDelim)), true)
	if !ok {
		return
	}
	v.private(body)
	parsed, err := exportertest.Parse(header, body)
	if err != nil {
		v.promises.offend("exposition", "%v", err)
		return
	}
	r := &reading{Reading: parsed, at: time.Now(), life: process.life}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last == nil && len(r.Lasting) == 0 {
		return // the initial sync is not finished
	}
	if v.last != nil {
		v.compare(v.last, r)
		v.health(v.last, r, process)
	}
	if sync := r.LastSuccess(); len(v.syncs) == 0 || sync.After(v.syncs[len(v.syncs)-1]) {
		v.syncs = append(v.syncs, sync)
	} else if sync.Before(v.syncs[len(v.syncs)-1]) {
		v.promises.offend("last success", "it was at %s, and is now at %s", v.syncs[len(v.syncs)-1], sync)
	}
	v.sample(r)
	v.last = r
}

// otherFormats reads what the other formats say, whatever it is.
func (v *watcher) otherFormats(ctx context.Context) {
	if _, body, _, ok := v.get(ctx, "application/openmetrics-text;version=1.0.0", false); ok {
		v.private(body)
		if !bytes.HasSuffix(body, []byte("\n# EOF\n")) {
			v.promises.offend("exposition", "the OpenMetrics text has no end: ...%.100q", body[max(0, len(body)-100):])
		}
	}
	if _, body, _, ok := v.get(ctx, "text/plain", false); ok {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		if _, err := parser.TextToMetricFamilies(bytes.NewReader(body)); err != nil {
			v.promises.offend("exposition", "text: %v", err)
		}
	}
}

func (v *watcher) private(body []byte) {
	for _, secret := range secrets {
		if bytes.Contains(body, []byte(secret)) {
			v.promises.offend("privacy", "the exposition holds %q", secret)
		}
	}
}

// compare finds what has fallen or is no longer there, and what is new and not
// at 0.
func (v *watcher) compare(before, now *reading) {
	for key, was := range before.Lasting {
		is, ok := now.Lasting[key]
		switch {
		case !ok:
			v.promises.offend("vanished", "%s was %v%s", key, was, v.meanwhile())
		case is < was:
			v.promises.offend("fell", "%s from %v to %v%s", key, was, is, v.meanwhile())
		}
	}
	for key, is := range now.Lasting {
		if _, known := before.Lasting[key]; !known && is != 0 && !before.MayBeginAbove0(key) {
			v.promises.offend("zeros first", "%s begins at %v%s", key, is, v.meanwhile())
		}
	}
	for key, was := range before.Native {
		// A histogram that lowers its resolution has no such bucket any more.
		if is, ok := now.Native[key]; ok && is < was {
			v.promises.offend("fell", "%s from %v to %v%s", key, was, is, v.meanwhile())
		}
	}
	for key, was := range before.Created {
		if is := now.Created[key]; !is.Equal(was) {
			v.promises.offend("created", "%s at %s, and now at %s", key, was, is)
		}
	}
	if now.Lasting.Project("opper_exporter_gaps_total") > before.Lasting.Project("opper_exporter_gaps_total") {
		v.gaps = append(v.gaps, span{before.at, now.at})
	}
}

// clearAfter is how long after a trouble syncs may fail because of it, and
// stuckAfter how long none may succeed: time for the timeouts and for a backlog
// at a rate that was halved some times.
func (v *watcher) clearAfter() time.Duration { return 15*time.Second + v.scaled(45*time.Second) }
func (v *watcher) stuckAfter() time.Duration { return 45*time.Second + v.scaled(75*time.Second) }

// upWithin is how soon opper_up must be 0 when Opper is out of service.
func (v *watcher) upWithin() time.Duration {
	return max(3*v.scaled(interval), time.Minute) + 20*time.Second
}

// health holds what the exporter says of itself against what went on.
func (v *watcher) health(before, now *reading, process view) {
	const syncs = `opper_exporter_syncs_total{project="default",result=%q}`
	rise := func(result string) float64 {
		key := fmt.Sprintf(syncs, result)
		if before.life != now.life {
			return now.Rest[key]
		}
		return now.Rest[key] - before.Rest[key]
	}
	failed := rise("error")
	v.good, v.bad = v.good+rise("success"), v.bad+failed
	up := now.Rest.Project("opper_up")
	quiet := func(d time.Duration) bool { return len(v.timeline.during(now.at.Add(-d), now.at, failing)) == 0 }
	if now.LastSuccess().After(before.LastSuccess()) {
		v.failures = 0
	}
	if failed > 0 && quiet(v.clearAfter()+now.at.Sub(before.at)) {
		v.failures += failed
	}
	// One may fail because very much of the list changed while it was read.
	if v.failures >= 3 {
		v.tell("sync", "after "+before.LastSuccess().Format(time.TimeOnly), "%v failed while nothing was wrong with Opper%s: %s", v.failures, v.meanwhile(), process.lastErr)
	}
	since := now.at.Add(-v.stuckAfter())
	if now.LastSuccess().Before(since) && quiet(v.stuckAfter()) && process.changed.Before(since) {
		v.tell("stuck", "since "+now.LastSuccess().Format(time.TimeOnly), "no sync has succeeded, although nothing is wrong with Opper%s; opper_up is %v; last error: %s",
			v.meanwhile(), up, process.lastErr)
	}
	for _, w := range v.timeline.during(now.at, now.at, failing) {
		late := w.end.IsZero() && w.outage() && now.at.Sub(w.start) > v.upWithin() && now.at.Sub(process.changed) > v.upWithin()
		if late && up != 0 {
			v.tell("up", w.start.Format(time.TimeOnly), "%s after Opper went down (%s), opper_up is still %v", now.at.Sub(w.start).Round(time.Second), w.what, up)
		}
	}
}
