package collector

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"opper_exporter/collector/status"
	"opper_exporter/collector/syncer"
)

const (
	// recentTraffic is over how long the rates of requests and bytes are taken, and
	// trafficStep the minimum time between two readings for it.
	recentTraffic = 10 * time.Minute
	trafficStep   = time.Minute
	// maxErrorText bounds an error on the status page, in bytes.
	maxErrorText = 1000
)

// Status returns the state of each project. What is about traces is what the last
// sync published, as in the metrics.
func (c *Collector) Status() []status.Project {
	var out []status.Project
	for _, p := range c.all() {
		out = append(out, p.status())
	}
	return out
}

func (p *project) status() status.Project {
	st := status.Project{
		Name: p.cfg.Name, URL: p.cfg.UpstreamURL, NameFilter: p.cfg.Opper.Name, Interval: p.cfg.Interval,
		Success: p.cfg.Aggregate.Success, Failure: p.cfg.Aggregate.Failure, MaxNames: p.cfg.Aggregate.MaxNames,
		Published: p.snapshots.status.Load(),
	}
	st.Sync, st.Traffic, st.Initial = p.activity.now()
	if p.usage.isOn() {
		st.Usage = p.usage.publishedStatus.Load()
	}
	if st.Published != nil {
		st.Initial = nil
	}
	return st
}

// activity is what the syncs of a project do, for its status. It is safe for
// concurrent use.
type activity struct {
	metrics *instrumentation
	clock   *Clock
	started time.Time

	mu       sync.Mutex
	sync     status.Sync
	initial  status.InitialSync
	readings []reading // of the last minutes, and the one before them
}

// reading is the traffic until a time of the clock.
type reading struct {
	at       time.Time
	requests uint64
	bytes    float64
}

func newActivity(metrics *instrumentation, clock *Clock) *activity {
	t := metrics.traffic() // there is some if the settings of the project have changed
	return &activity{metrics: metrics, clock: clock, started: clock.System(), readings: []reading{{at: clock.Now(), requests: t.Requests(), bytes: t.Bytes}}}
}

// synced takes in a sync that ended, with the error of reading the list or of the
// commit.
func (a *activity) synced(took time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sync.Took = took
	a.read()
	if err == nil {
		a.sync.FailingSince = time.Time{}
		return
	}
	text := err.Error()
	a.sync.LastError, a.sync.FailedAt = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], ""), a.clock.System()
	if a.sync.FailingSince.IsZero() {
		a.sync.FailingSince = a.sync.FailedAt
	}
}

// published takes in that what the sync that ended then has found is exposed.
func (a *activity) published(synced time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sync.LastSuccess = synced
}

// progress takes in a part of the initial sync, which is an answer of Opper.
func (a *activity) progress(part syncer.Part) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read()
	a.sync.FailingSince = time.Time{}
	if a.initial.Began.IsZero() {
		a.initial.Began, a.initial.From = a.clock.System(), part.Read
	}
	a.initial.Read, a.initial.Total = part.Read, max(part.Total, 0)
}

// read takes a reading of the traffic now and then.
func (a *activity) read() {
	now := a.clock.Now()
	if now.Sub(a.readings[len(a.readings)-1].at) < trafficStep {
		return
	}
	t := a.metrics.traffic()
	a.readings = append(a.readings, reading{at: now, requests: t.Requests(), bytes: t.Bytes})
	for len(a.readings) > 1 && now.Sub(a.readings[1].at) >= recentTraffic {
		a.readings = a.readings[1:]
	}
}

func (a *activity) now() (status.Sync, status.Traffic, *status.InitialSync) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, t := a.sync, a.metrics.traffic()
	s.Unanswered = a.metrics.stall.update()
	s.Up = valueOf(a.metrics.up).GetGauge().GetValue() == 1
	t.Since = a.started
	// Syncs may be rare, so that the oldest reading is older than it should be.
	from := a.readings[0]
	t.Recent = status.Recent{Over: a.clock.Now().Sub(from.at), Requests: t.Requests() - from.requests, Bytes: t.Bytes - from.bytes}
	return s, t, new(a.initial)
}

// traffic returns what has been counted of requests to Opper, by code.
func (i *instrumentation) traffic() status.Traffic {
	t := status.Traffic{Bytes: valueOf(i.received).GetCounter().GetValue()}
	registry := prometheus.NewRegistry()
	registry.MustRegister(i.requests)
	families, _ := registry.Gather()            // those of the library do not fail
	for _, m := range families[0].GetMetric() { // sorted by code, which is the first label
		t.Codes = append(t.Codes, status.Code{Code: m.GetLabel()[0].GetValue(), Requests: uint64(m.GetCounter().GetValue())})
	}
	return t
}

func valueOf(m prometheus.Metric) *dto.Metric {
	out := new(dto.Metric)
	_ = m.Write(out) // those of the library do not fail
	return out
}
