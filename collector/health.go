package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Requests counts the HTTP requests to Opper of one project. It is a
// prometheus.Collector.
type Requests struct {
	total    *prometheus.CounterVec
	duration prometheus.Histogram
}

// NewRequests returns a Requests whose metrics carry the project's label, with
// or without native buckets.
func NewRequests(project string, native bool) *Requests {
	labels := prometheus.Labels{"project": project}
	r := &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "opper_exporter_api_requests_total",
			Help:        "HTTP requests to Opper, retries included, by the status code of the answer, or error if there was none.",
			ConstLabels: labels,
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "opper_exporter_api_request_duration_seconds",
			Help:                        "Time from sending a request to Opper until its answer was read.",
			ConstLabels:                 labels,
			Buckets:                     []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor: nativeFactor(native),
		}),
	}
	r.total.WithLabelValues("200")
	r.total.WithLabelValues("error")
	return r
}

// Observe counts one request. It is safe for concurrent use.
func (r *Requests) Observe(code string, took time.Duration) {
	r.total.WithLabelValues(code).Inc()
	r.duration.Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (r *Requests) Describe(ch chan<- *prometheus.Desc) {
	r.total.Describe(ch)
	r.duration.Describe(ch)
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(ch chan<- prometheus.Metric) {
	r.total.Collect(ch)
	r.duration.Collect(ch)
}

// health is how the syncs go. It is a prometheus.Collector.
type health struct {
	up, lastSuccess, progress prometheus.Gauge
	syncs, commits            *prometheus.CounterVec
	duration                  prometheus.Histogram
	stall                     *stall
}

func newHealth(project string, native bool, now func() time.Time, interval time.Duration) *health {
	labels := prometheus.Labels{"project": project}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
	}
	h := &health{
		up:          gauge("opper_up", "1 if the last sync with Opper succeeded, or if the first one is under way and Opper answers; 0 if it failed, or while a sync makes no progress."),
		lastSuccess: gauge("opper_exporter_last_success_timestamp_seconds", "End of the last sync that succeeded, in seconds since the epoch; 0 if there was none."),
		progress:    gauge("opper_exporter_baseline_progress_ratio", "Share of the listed traces that the first complete walk has met, 1 when it is done."),
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "opper_exporter_syncs_total",
			Help:        "Syncs with Opper's trace list since the start of the process, by result.",
			ConstLabels: labels,
		}, []string{"result"}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "opper_exporter_state_commits_total",
			Help:        "Commits of the state to disk since the start of the process, by result; none while nothing is stored.",
			ConstLabels: labels,
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "opper_exporter_sync_duration_seconds",
			Help:                        "Duration of the syncs with Opper's trace list, failed ones included.",
			ConstLabels:                 labels,
			Buckets:                     []float64{0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
			NativeHistogramBucketFactor: nativeFactor(native),
		}),
	}
	h.stall = newStall(now, interval, h.up)
	for _, result := range []string{"success", "error"} {
		h.syncs.WithLabelValues(result)
		h.commits.WithLabelValues(result)
	}
	return h
}

// Describe implements prometheus.Collector.
func (h *health) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range h.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (h *health) Collect(ch chan<- prometheus.Metric) {
	h.stall.update()
	for _, c := range h.collectors() {
		c.Collect(ch)
	}
}

func (h *health) collectors() []prometheus.Collector {
	return []prometheus.Collector{h.up, h.lastSuccess, h.progress, h.syncs, h.commits, h.duration}
}

// nativeFactor is by how much native buckets grow, 0 if there are none.
func nativeFactor(native bool) float64 {
	if native {
		return 1.1
	}
	return 0
}

// published says that what is shown is of the sync that ended then.
func (h *health) published(synced time.Time) {
	h.progress.Set(1)
	h.lastSuccess.Set(float64(synced.UnixMilli()) / 1e3)
}

func (h *health) succeeded(took time.Duration) {
	h.up.Set(1)
	h.syncs.WithLabelValues("success").Inc()
	h.duration.Observe(took.Seconds())
}

func (h *health) failed(took time.Duration) {
	h.up.Set(0)
	h.syncs.WithLabelValues("error").Inc()
	h.duration.Observe(took.Seconds())
}
