// Package reload applies the configuration again when a signal or a request asks for
// it, or when its files have changed.
package reload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/config"
)

// A change is applied once two polls have seen it alike. While others follow, what loads
// without an error is applied by the third poll since the first change.
const (
	pollInterval = 10 * time.Second
	maxUnsettled = 3 * pollInterval / 2
)

// Reloader loads the projects again and applies them. It answers POST /-/reload, and
// is a prometheus.Collector. It is safe for concurrent use.
type Reloader struct {
	load   func() ([]config.Project, error) // nil if there is nothing to load again
	apply  func([]config.Project) error
	logger log.Logger

	successful, lastSuccess prometheus.Gauge

	mu   sync.Mutex // one reload at a time
	last string     // what was loaded, or why nothing was
	seen string     // what the last poll loaded, as last
	// since is when a poll first saw something else than last.
	since time.Time
}

// New returns a Reloader of projects that have been applied. A nil load means that
// there is nothing to load again.
func New(projects []config.Project, load func() ([]config.Project, error), apply func([]config.Project) error, logger log.Logger) *Reloader {
	r := &Reloader{
		load: load, apply: apply, logger: logger, last: digest(projects),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "opper_exporter_config_last_reload_successful",
			Help: "1 if the last attempt to load the configuration succeeded, else 0: the previous configuration stays in effect.",
		}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "opper_exporter_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was last loaded successfully, in seconds since the epoch. The start counts.",
		}),
	}
	r.succeeded()
	return r
}

// Run reloads at each signal, and when the configuration has changed, until ctx ends.
func (r *Reloader) Run(ctx context.Context, signals <-chan os.Signal) {
	poll := make(<-chan time.Time)
	if r.load != nil {
		t := time.NewTicker(pollInterval)
		defer t.Stop()
		poll = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll:
			_ = r.reload(false) // logged
		case s := <-signals:
			if r.load == nil {
				level.Info(r.logger).Log("msg", "SIGHUP ignored, there is no configuration to reload", "signal", s)
				continue
			}
			_ = r.reload(true) // logged
		}
	}
}

// reload loads the configuration and applies it. After an error, all is as before. It
// does nothing if it is not forced and would do the same as the last time. What
// could not be applied then is not tried again either: that would stop projects each
// time. Nor does it act on what one poll alone has seen, a file may be half written and
// be valid, unless changes go on.
func (r *Reloader) reload(forced bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	projects, err := r.load()
	loaded := digest(projects)
	if err != nil {
		loaded = err.Error()
	}
	isSettled := loaded == r.seen
	r.seen = loaded
	if loaded == r.last {
		r.since = time.Time{}
	} else if r.since.IsZero() {
		r.since = time.Now()
	}
	isOverdue := err == nil && time.Since(r.since) >= maxUnsettled
	if !forced && (loaded == r.last || !isSettled && !isOverdue) {
		return err
	}
	r.last, r.since = loaded, time.Time{}
	if err == nil {
		err = r.apply(projects)
	}
	if err != nil {
		r.successful.Set(0)
		level.Error(r.logger).Log("msg", "configuration reload failed", "err", err)
		return err
	}
	r.succeeded()
	level.Info(r.logger).Log("msg", "configuration reloaded", "projects", len(projects))
	return nil
}

func (r *Reloader) succeeded() {
	r.successful.Set(1)
	r.lastSuccess.SetToCurrentTime()
}

// ServeHTTP implements http.Handler.
func (r *Reloader) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if err := r.reload(true); err != nil {
		http.Error(w, "configuration reload failed: "+strings.Join(strings.Fields(err.Error()), " "), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, "Configuration reloaded.\n")
}

// Describe implements prometheus.Collector.
func (r *Reloader) Describe(ch chan<- *prometheus.Desc) {
	r.successful.Describe(ch)
	r.lastSuccess.Describe(ch)
}

// Collect implements prometheus.Collector.
func (r *Reloader) Collect(ch chan<- prometheus.Metric) {
	r.successful.Collect(ch)
	r.lastSuccess.Collect(ch)
}

// digest is equal for projects that run in the same way.
func digest(projects []config.Project) string {
	h := sha256.New()
	for _, p := range projects {
		_, _ = fmt.Fprintf(h, "%q %q\n", p.Name, p.Digest)
	}
	return string(h.Sum(nil))
}
