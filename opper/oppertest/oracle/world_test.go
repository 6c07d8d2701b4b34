package oracle

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func sec(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

// clock is set by hand, in seconds after the epoch.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func (c *clock) set(seconds int) time.Time {
	c.t = sec(seconds)
	return c.t
}

func get(t *testing.T, h http.Handler, path string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer key")
	h.ServeHTTP(httptest.NewRecorder(), r)
}

// world plays one small life, in seconds. Its exporter has a settle delay of
// 30 s, abandons after 1000 s, and each of its syncs takes a second.
type world struct {
	t     *testing.T
	c     *clock
	s     *oppertest.Server
	rules Rules
}

func newWorld(t *testing.T, cfg oppertest.Config) *world {
	t.Helper()
	c := &clock{epoch}
	cfg.Now = c.now
	return &world{t, c, oppertest.New(cfg), Rules{Settle: 30 * time.Second, Abandon: 1000 * time.Second}}
}

// read is a request that does not belong to a sync that ended well.
func (w *world) read(at int) {
	w.c.set(at)
	get(w.t, w.s, "/v2/traces")
}

func (w *world) look(at int, full bool) {
	w.read(at)
	w.rules.Syncs = append(w.rules.Syncs, Sync{Start: sec(at), End: w.c.set(at + 1), Full: full})
}

func (w *world) sync(at ...int) {
	for _, at := range at {
		w.look(at, false)
	}
}

// skipped makes all syncs unsure of what was listed by then.
func (w *world) skipped(at int) {
	for i := range w.rules.Syncs {
		w.rules.Syncs[i].SureSince = sec(at)
	}
}

func (w *world) sweep(at int) { w.look(at, true) }

func (w *world) initialSync(at int) {
	w.read(at)
	w.rules.InitialSync, w.rules.InitialSyncDone = sec(at), w.c.set(at+1)
}

func (w *world) add(at int, t oppertest.Trace) {
	w.c.set(at)
	w.s.Add(t)
}

func (w *world) update(at int, change func(*oppertest.Trace)) {
	w.c.set(at)
	if !w.s.Update("x", change) {
		w.t.Fatal("x is not listed")
	}
}

func (w *world) delete(at int) {
	w.c.set(at)
	w.s.Delete("x")
}

func openTrace() oppertest.Trace { return oppertest.Trace{ID: "x", Name: new("n"), Start: new(sec(0))} }

func endedTrace() oppertest.Trace {
	return oppertest.Trace{ID: "x", Name: new("n"), Status: new("ok"), Start: new(sec(0)), End: new(sec(5)), Tokens: new(int64(1))}
}

func end(t *oppertest.Trace) {
	e := endedTrace()
	t.End, t.Status, t.Tokens = e.End, e.Status, e.Tokens
}

func tokens(n int64) func(*oppertest.Trace) { return func(t *oppertest.Trace) { t.Tokens = &n } }
