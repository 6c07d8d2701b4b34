package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// instrumentation is the metrics about the syncs of a project and its requests
// to Opper.
type instrumentation struct {
	up, lastSuccess, initialSync, interval prometheus.Gauge
	syncs, commits                         *prometheus.CounterVec
	syncDuration                           prometheus.Histogram
	requests                               *prometheus.CounterVec
	requestDuration                        prometheus.Histogram
	received, limitWait                    prometheus.Counter
	stall                                  *stall
}

func newInstrumentation(project string, native bool) *instrumentation {
	labels := prometheus.Labels{"project": project}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
	}
	counter := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v)
		}
		return c
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		opts := prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: labels, Buckets: buckets}
		if native {
			opts.NativeHistogramBucketFactor = 1.1
		}
		return prometheus.NewHistogram(opts)
	}
	return &instrumentation{
		up: gauge("opper_up",
			"1 if the last sync with Opper succeeded, or if the first one is running and Opper answers; 0 if it failed, or while a sync makes no progress."),
		lastSuccess: gauge("opper_exporter_last_success_timestamp_seconds",
			"End of the last successful sync in seconds since the epoch; 0 if there was none."),
		initialSync: gauge("opper_exporter_initial_sync_progress_ratio",
			"Share of the listed traces that the initial sync has read, 1 when it is complete."),
		interval: gauge("opper_exporter_sync_interval_seconds",
			"Time between syncs with Opper's trace list: --collector.interval; 0 if each scrape syncs."),
		syncs: counter("opper_exporter_syncs_total",
			"Syncs with Opper's trace list since the start of the process, by result.",
			"result", "success", "error"),
		commits: counter("opper_exporter_state_commits_total",
			"Commits of the state to disk since the start of the process, by result; always 0 while persistence is disabled.",
			"result", "success", "error"),
		syncDuration: histogram("opper_exporter_sync_duration_seconds",
			"Duration of the syncs with Opper's trace list, failed ones included.",
			0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
		requests: counter("opper_exporter_api_requests_total",
			"HTTP requests to Opper, retries included, by the status code of the response, or error if no complete response arrived.",
			"code", "200", "error"),
		requestDuration: histogram("opper_exporter_api_request_duration_seconds",
			"Time from sending a request to Opper until its response was read.",
			0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "opper_exporter_api_received_bytes_total",
			Help:        "Size of the response bodies from Opper, in bytes after decompression. Opper's list carries the input and output of every trace in it.",
			ConstLabels: labels,
		}),
		limitWait: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "opper_exporter_api_limit_wait_seconds_total",
			Help:        "Time that requests to Opper waited for --opper.max-requests-per-second and --opper.max-requests-per-second-total; that of concurrent ones adds up.",
			ConstLabels: labels,
		}),
	}
}

// continueFrom takes over the counters of another one. The gauges of its last sync keep
// their values.
func (i *instrumentation) continueFrom(old *instrumentation) {
	i.syncs, i.commits, i.syncDuration = old.syncs, old.commits, old.syncDuration
	i.requests, i.requestDuration, i.received, i.limitWait = old.requests, old.requestDuration, old.received, old.limitWait
	i.up.Set(valueOf(old.up).GetGauge().GetValue())
}

func (i *instrumentation) collectors() []prometheus.Collector {
	return []prometheus.Collector{i.up, i.lastSuccess, i.initialSync, i.interval, i.syncs, i.commits, i.syncDuration, i.requests, i.requestDuration, i.received, i.limitWait}
}

// observeRequest counts one request to Opper. It is safe for concurrent use.
func (i *instrumentation) observeRequest(code string, took time.Duration) {
	i.requests.WithLabelValues(code).Inc()
	i.requestDuration.Observe(took.Seconds())
}

// observeReceived counts bytes from Opper. It is safe for concurrent use.
func (i *instrumentation) observeReceived(bytes int) { i.received.Add(float64(bytes)) }

// observeWait counts the wait of one request for the limits. It is safe for
// concurrent use.
func (i *instrumentation) observeWait(took time.Duration) { i.limitWait.Add(max(took, 0).Seconds()) }

// published notes that the snapshot of the sync that ended then is exposed.
func (i *instrumentation) published(synced time.Time) {
	i.initialSync.Set(1)
	i.lastSuccess.Set(float64(synced.UnixMilli()) / 1e3)
}

func (i *instrumentation) synced(took time.Duration, success bool) {
	i.up.Set(boolValue(success))
	i.syncs.WithLabelValues(results[success]).Inc()
	i.syncDuration.Observe(took.Seconds())
}

func (i *instrumentation) committed(success bool) {
	i.commits.WithLabelValues(results[success]).Inc()
}

// results are the values of the label result.
var results = map[bool]string{true: "success", false: "error"}

// boolValue returns the value of a gauge that is 1 or 0.
func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
