package reload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/test/promtest"
)

// files are the configuration that a test controls, and what is done with it.
type files struct {
	*Reloader
	mu        sync.Mutex
	projects  []config.Project
	loadErr   error
	applyErr  error
	applied   []string // digests, with blanks between
	log       promtest.Output
	hangups   chan os.Signal
	succeeded float64 // the time of the last success
}

func (f *files) set(loadErr, applyErr error, digests ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loadErr, f.applyErr, f.projects = loadErr, applyErr, nil
	for i, d := range digests {
		f.projects = append(f.projects, config.Project{Name: fmt.Sprint("p", i), Digest: d})
	}
}

func (f *files) load() ([]config.Project, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.projects, f.loadErr
}

func (f *files) apply(projects []config.Project) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var digests []string
	for _, p := range projects {
		digests = append(digests, p.Digest)
	}
	f.applied = append(f.applied, strings.Join(digests, " "))
	return f.applyErr
}

// gauges returns whether the last reload succeeded, and when one did.
func (f *files) gauges(t *testing.T) (successful, at float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f)
	families, err := registry.Gather()
	if err != nil || len(families) != 2 {
		t.Fatalf("%v, %v", families, err)
	}
	return families[1].GetMetric()[0].GetGauge().GetValue(), families[0].GetMetric()[0].GetGauge().GetValue()
}

// inBubble runs a test of configuration "1 2", which has been applied.
func inBubble(t *testing.T, test func(*testing.T, *files)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &files{hangups: make(chan os.Signal)}
		f.set(nil, nil, "1", "2")
		f.Reloader = New(f.projects, f.load, f.apply, log.NewLogfmtLogger(&f.log))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.Run(ctx, f.hangups) })
		test(t, f)
		cancel()
		running.Wait()
	})
}

// pass lets a time pass within which a change must have been applied.
func pass(t *testing.T) {
	t.Helper()
	<-time.After(30 * time.Second)
	synctest.Wait()
}

// want checks what was applied since the last call, whether the last reload counts as a
// success, whether it was one, and how many lines the log has got.
func (f *files) want(t *testing.T, applied string, successful, isNew bool, lines int) {
	t.Helper()
	if got := strings.Join(f.applied, ", "); got != applied {
		t.Errorf("applied %q, want %q", got, applied)
	}
	success, at := f.gauges(t)
	if (success == 1) != successful || (at > f.succeeded) != isNew || isNew && at != float64(time.Now().Unix()) && at <= f.succeeded {
		t.Errorf("successful %v, at %v after %v", success, at, f.succeeded)
	}
	if n := strings.Count(f.log.String(), "\n"); n != lines {
		t.Errorf("%d lines: %s", n, f.log.String())
	}
	f.applied, f.succeeded = nil, at
}

func TestChangesAreApplied(t *testing.T) {
	inBubble(t, func(t *testing.T, f *files) {
		t.Helper()
		f.want(t, "", true, true, 0) // the start
		pass(t)
		f.want(t, "", true, false, 0)
		f.set(nil, nil, "1", "3")
		pass(t)
		f.want(t, "1 3", true, true, 1)

		// What cannot be loaded is tried again, and logged once.
		f.set(errors.New("line 7: bad"), nil)
		pass(t)
		f.want(t, "", false, false, 2)
		pass(t)
		f.want(t, "", false, false, 2)
		f.set(errors.New("line 8: bad"), nil)
		pass(t)
		f.want(t, "", false, false, 3)
		// As it was before the mistake.
		f.set(nil, nil, "1", "3")
		pass(t)
		f.want(t, "1 3", true, true, 4)

		// What cannot be applied is not tried again before it changes.
		f.set(nil, errors.New("no"), "1", "4")
		pass(t)
		f.want(t, "1 4", false, false, 5)
		pass(t)
		f.want(t, "", false, false, 5)
		f.set(nil, nil, "1", "5")
		pass(t)
		f.want(t, "1 5", true, true, 6)
		if n := len(f.log.Lines("level=error", `msg="configuration reload failed"`)); n != 3 {
			t.Errorf("%d failures: %s", n, f.log.String())
		}
	})
}

// A file that is being written may be valid, and a directory that is being filled is.
func TestHalfWrittenIsNotApplied(t *testing.T) {
	inBubble(t, func(t *testing.T, f *files) {
		t.Helper()
		f.want(t, "", true, true, 0)
		for _, err := range []error{nil, errors.New("line 7: bad")} {
			f.set(err, nil, "1")
			<-time.After(pollInterval)
			synctest.Wait()
			f.set(nil, nil, "1", "2")
			pass(t)
			f.want(t, "", true, false, 0)
		}
	})
}

// Changes that follow each other do not put off the first.
func TestContinuousChangesAreApplied(t *testing.T) {
	inBubble(t, func(t *testing.T, f *files) {
		t.Helper()
		for i := range 12 {
			f.set(nil, nil, "1", fmt.Sprint("changed ", i))
			<-time.After(pollInterval / 2)
			synctest.Wait()
			if i == 5 && len(f.applied) == 0 {
				t.Error("nothing was applied within 30 s of the first change")
			}
		}
		pass(t)
		if n := len(f.applied); n == 0 || f.applied[n-1] != "1 changed 11" {
			t.Errorf("applied %q", f.applied)
		}
	})
}

func TestReloadOnDemand(t *testing.T) {
	inBubble(t, func(t *testing.T, f *files) {
		t.Helper()
		f.want(t, "", true, true, 0)
		post := func() (int, string) {
			w := httptest.NewRecorder()
			f.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/-/reload", nil))
			return w.Code, w.Body.String()
		}
		<-time.After(time.Second)
		if code, text := post(); code != http.StatusOK || text != "Configuration reloaded.\n" {
			t.Errorf("%d %q", code, text)
		}
		f.want(t, "1 2", true, true, 1)
		<-time.After(time.Second)
		f.hangups <- syscall.SIGHUP
		synctest.Wait()
		f.want(t, "1 2", true, true, 2)
		for i, failure := range [][2]error{{errors.New("line 7:\n bad"), nil}, {nil, errors.New("line 7:\n bad")}} {
			f.set(failure[0], failure[1], "3")
			if code, text := post(); code != http.StatusInternalServerError || text != "configuration reload failed: line 7: bad\n" {
				t.Errorf("%d %q", code, text)
			}
			f.hangups <- syscall.SIGHUP
			synctest.Wait()
			applied := ""
			if failure[1] != nil {
				applied = "3, 3"
			}
			f.want(t, applied, false, false, 4+2*i)
		}
	})
}

// Without a file to load again, SIGHUP is ignored.
func TestNothingToReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged promtest.Output
		r := New(nil, nil, nil, log.NewLogfmtLogger(&logged))
		ctx, cancel := context.WithCancel(t.Context())
		hangups := make(chan os.Signal)
		var running sync.WaitGroup
		running.Go(func() { r.Run(ctx, hangups) })
		hangups <- syscall.SIGHUP
		pass(t)
		cancel()
		running.Wait()
		if len(logged.Lines("level=info", "SIGHUP ignored, there is no configuration to reload")) != 1 || strings.Count(logged.String(), "\n") != 1 {
			t.Errorf("log: %s", &logged)
		}
	})
}

// Two reloads at once come one after the other.
func TestReloadsAreSerialized(t *testing.T) {
	var applying atomic.Int64
	apply := func([]config.Project) error {
		defer applying.Add(-1)
		n := applying.Add(1)
		for range 1000 {
			runtime.Gosched()
		}
		if n != 1 {
			return errors.New("another one is under way")
		}
		return nil
	}
	r := New(nil, func() ([]config.Project, error) { return nil, nil }, apply, log.NewNopLogger())
	var running sync.WaitGroup
	for range 10 {
		running.Go(func() {
			if err := r.reload(true); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
}
