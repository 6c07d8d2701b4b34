package e2e_test

import (
	encbinary "encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// database is the state file in its directory.
const database = "opper_exporter.db"

func history(n int, seed int64) *oppertest.Server {
	s := oppertest.New(oppertest.Config{Seed: seed})
	s.FillHistory(n, 6, time.Now().Add(-5*time.Hour), time.Now().Add(-2*time.Hour))
	return s
}

// same fails the test unless what must last is as it was, created timestamps
// included.
func same(t *testing.T, was, is *exportertest.Reading) {
	t.Helper()
	for key, v := range was.Lasting {
		if got, ok := is.Lasting[key]; !ok || got != v {
			t.Errorf("%s was %v, and is %v", key, v, got)
		}
	}
	if len(is.Lasting) != len(was.Lasting) || !maps.Equal(is.Native, was.Native) {
		t.Errorf("%d series and native buckets %v, want %d and %v", len(is.Lasting), is.Native, len(was.Lasting), was.Native)
	}
	for key, v := range was.Created {
		if got := is.Created[key]; !got.Equal(v) {
			t.Errorf("%s was created at %v, and now at %v", key, v, got)
		}
	}
}

// until scrapes until a metric of the process, with a label that holds the text,
// is at least the value, and returns that scrape.
func until(t *testing.T, address, metric, label string, minimum float64) *exportertest.Reading {
	t.Helper()
	var r *exportertest.Reading
	promtest.Eventually(t, func() error {
		r = exportertest.MustScrape(t, address)
		if v := r.Rest.Total(metric, label) + r.Lasting.Total(metric, label); v < minimum {
			return fmt.Errorf("%s with %s is %v", metric, label, v)
		}
		return nil
	})
	return r
}

// refused fails the test unless the process ends by itself, with status 1 and
// one line that holds the texts, before it serves anything.
func refused(t *testing.T, p *exportertest.Process, texts ...string) {
	t.Helper()
	promtest.Eventually(t, func() error {
		if p.HasEnded() {
			return nil
		}
		if address, ok := p.Address(); ok {
			t.Fatalf("it serves at %s", address)
		}
		return errors.New("it still runs")
	})
	log := p.Log.String()
	if p.Cmd.ProcessState.ExitCode() != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("%v with the log\n%s", p.Cmd.ProcessState, log)
	}
	if texts = append(texts, "level=error", `msg=stopped err="--storage.path: `); len(p.Log.Lines(texts...)) == 0 {
		t.Errorf("no line with %q in the log", texts)
	}
}

// ended is a trace that has ended just now.
func ended(name string) oppertest.Trace {
	end := time.Now()
	start := end.Add(-300 * time.Millisecond)
	return oppertest.Trace{
		ID: fmt.Sprintf("%s-%d", name, end.UnixNano()), Name: &name, Status: new("success"),
		Start: &start, End: &end, DurationMS: new(300.0), Tokens: new(int64(70)),
	}
}

const (
	fast     = "--collector.interval=50ms"
	oneSync  = "--collector.interval=1h" // one sync only, at the start
	noSettle = "--collector.settle-delay=0s"
)

func TestRestartRestoresExactly(t *testing.T) {
	t.Parallel()
	s := history(2500, 1)
	url, stored := opper(t, s), "--storage.path="+t.TempDir()
	before := start(t, url, stored, oneSync)
	was := exportertest.MustScrape(t, before.AwaitReady(t))
	if n := was.Lasting.Total("opper_traces_total", ""); n != 2500 {
		t.Fatalf("%v traces are counted", n)
	}
	before.Stop(t)

	s.ResetRequests()
	after := start(t, url, stored, oneSync)
	address := after.AwaitListening(t)
	resp, err := http.Get("http://" + address + "/-/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("ready: %s", resp.Status)
	}
	same(t, was, exportertest.MustScrape(t, address))
	same(t, was, until(t, address, "opper_exporter_syncs_total", `result="success"`, 1))
	if n := s.RequestCount(); n > 2 {
		t.Errorf("%d requests after a restart", n)
	}
	after.AwaitLog(t, "level=info", "state restored", "listed=2500")
}

func TestStateTakesOneProcess(t *testing.T) {
	t.Parallel()
	s := history(150, 2)
	url, dir := opper(t, s), t.TempDir()
	first := start(t, url, "--storage.path="+dir, fast, noSettle)
	address := first.AwaitReady(t)
	refused(t, start(t, url, "--storage.path="+dir), filepath.Join(dir, database), "is in use by another process")
	s.Add(ended("later"))
	until(t, address, "opper_traces_total", `trace_name="later"`, 1)
	first.Stop(t)
}

// setVersion changes the version of a state as a program of the future would.
func setVersion(path string, version byte) error {
	db, err := bbolt.Open(path, 0, nil)
	if err != nil {
		return err
	}
	key := []byte("version")
	sum := crc32.Checksum(append(slices.Clip(key), version), crc32.MakeTable(crc32.Castagnoli))
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put(key, append(encbinary.LittleEndian.AppendUint32(nil, sum), version))
	})
	return errors.Join(err, db.Close())
}

func TestUnusableStateIsRefused(t *testing.T) {
	t.Parallel()
	s := history(150, 3)
	url, good := opper(t, s), t.TempDir()
	p := start(t, url, "--storage.path="+good)
	p.AwaitReady(t)
	p.Stop(t)
	content, err := os.ReadFile(filepath.Join(good, database))
	if err != nil {
		t.Fatal(err)
	}
	s.ResetRequests()

	for name, test := range map[string]struct {
		spoil func(dir, file string) error
		texts []string
	}{
		"a file in place of the directory": {
			func(dir, _ string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
			[]string{"cannot be used (not a directory)"},
		},
		"damaged": {
			func(_, file string) error {
				return os.WriteFile(file, slices.Concat(content[:len(content)/4], make([]byte, 3*len(content)/4)), 0o600)
			},
			[]string{database, "is damaged (", "move it away to start from zero"},
		},
		"cut short": {
			func(_, file string) error { return os.Truncate(file, 10_000) },
			[]string{database, "is damaged (it is cut short", "move it away to start from zero"},
		},
		"newer": {
			func(_, file string) error { return setVersion(file, 11) },
			[]string{database, "is of version 11, and this program reads version 10 only", "use the program that wrote it"},
		},
		"older": {
			func(_, file string) error {
				older, err := os.ReadFile(filepath.Join("..", "..", "..", "collector", "store", "testdata", "version1.db"))
				return errors.Join(err, os.WriteFile(file, older, 0o600))
			},
			[]string{database, "is of version 1, and this program reads version 10 only", "use the program that wrote it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			file := filepath.Join(dir, database)
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(file, content, 0o600), test.spoil(dir, file)); err != nil {
				t.Fatal(err)
			}
			refused(t, start(t, url, "--storage.path="+dir), append(test.texts, dir)...)
		})
	}
	t.Run("read-only", func(t *testing.T) {
		dir := t.TempDir()
		if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o555)); err != nil {
			t.Fatal(err)
		}
		cmd := command(t, url, "--storage.path="+dir)
		if os.Getuid() == 0 {
			// Nothing is read-only for root, so another user has to try.
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		refused(t, exportertest.MustStart(t, cmd), database, "cannot be used (permission denied)", "needs the right")
	})
	if n := s.RequestCount(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// Without persistence, what is listed at the start is not counted unless
// --collector.initial-lookback says so; what comes later is.
func TestInitialLookbackWithoutPersistence(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want float64
	}{
		"nothing stored": {nil, 0},
		"an hour":        {[]string{"--collector.initial-lookback=1h"}, 40},
		"all":            {[]string{"--collector.initial-lookback=all"}, 240},
	} {
		t.Run(name, func(t *testing.T) {
			s := history(200, 4)
			for i := range 40 {
				tr := ended("recent")
				tr.ID, tr.End = fmt.Sprint(tr.ID, i), new(tr.End.Add(-30*time.Minute))
				s.Add(tr)
			}
			p := start(t, opper(t, s), append(test.args, "--storage.path=", fast, noSettle)...)
			address := p.AwaitReady(t)
			p.AwaitLog(t, "level=warn", "persistence disabled")
			if n := exportertest.MustScrape(t, address).Lasting.Total("opper_traces_total", ""); n != test.want {
				t.Errorf("%v traces are counted, want %v", n, test.want)
			}
			s.Add(ended("later"))
			r := until(t, address, "opper_traces_total", `trace_name="later"`, 1)
			if n := r.Lasting.Total("opper_traces_total", ""); n != test.want+1 {
				t.Errorf("%v traces are counted, want %v", n, test.want+1)
			}
			if n := r.Rest.Total("opper_exporter_state_commits_total", ""); n != 0 {
				t.Errorf("%v commits", n)
			}
			p.Stop(t)
		})
	}
}

// Histograms of other buckets restart from zero, with a new created timestamp; all
// else stays.
func TestChangedBucketsRestartOnlyTheirHistograms(t *testing.T) {
	t.Parallel()
	const durations = "opper_trace_duration_seconds"
	s := history(300, 5)
	url, stored := opper(t, s), "--storage.path="+t.TempDir()
	p := start(t, url, stored, oneSync)
	was := exportertest.MustScrape(t, p.AwaitReady(t))
	p.Stop(t)

	restarted := time.Now().Truncate(time.Millisecond)
	p = start(t, url, stored, fast, noSettle, "--collector.duration-buckets=1,10")
	address := p.AwaitReady(t)
	is := exportertest.MustScrape(t, address)
	p.AwaitLog(t, "level=warn", "buckets have changed", "buckets=duration")
	for key, v := range was.Lasting {
		got, ok := is.Lasting[key]
		switch kept := !strings.HasPrefix(key, durations); {
		case kept && got != v:
			t.Errorf("%s was %v, and is %v", key, v, got)
		case !kept && got != 0:
			t.Errorf("%s begins at %v", key, got)
		case ok && strings.HasPrefix(key, durations+"_bucket") && !strings.HasSuffix(key, `le="1"}`) && !strings.HasSuffix(key, `le="10"}`):
			t.Errorf("%s is still there", key)
		}
	}
	for key, created := range was.Created {
		if got := is.Created[key]; strings.HasPrefix(key, durations) {
			if got.Before(restarted) {
				t.Errorf("%s was created at %v, before %v", key, got, restarted)
			}
		} else if !got.Equal(created) {
			t.Errorf("%s was created at %v, and now at %v", key, created, got)
		}
	}
	s.Add(ended("later"))
	r := until(t, address, durations+"_count", "", 1)
	if n := r.Lasting.Total(durations+"_bucket", `trace_name="later",le="1"`); n != 1 {
		t.Errorf("%v in the new bucket", n)
	}
	p.Stop(t)
}

// A key of another project is recognised by the traces that it lists.
func TestKeyOfAnotherProjectCountsNothing(t *testing.T) {
	t.Parallel()
	s := history(300, 8)
	url, stored := opper(t, s), "--storage.path="+t.TempDir()
	p := start(t, url, stored, oneSync)
	was := exportertest.MustScrape(t, p.AwaitReady(t))
	p.Stop(t)

	// One sync sees one project: it is at the head of the list that the key changes.
	var right atomic.Bool
	wrong := true
	s.Fail(oppertest.Fault{Answer: oppertest.OtherProject(history(300, 9)), Times: -1, Match: func(r oppertest.Request) bool {
		if r.ID == "" && r.Offset == 0 {
			wrong = !right.Load()
		}
		return wrong
	}})
	p = start(t, url, stored, fast, noSettle)
	address := p.AwaitReady(t)
	r := until(t, address, "opper_exporter_syncs_total", `result="error"`, 3)
	same(t, was, r)
	if up := r.Rest.Total("opper_up", ""); up != 0 {
		t.Errorf("opper_up is %v", up)
	}
	p.AwaitLog(t, "level=error", "sync failed")

	right.Store(true)
	s.Add(ended("later"))
	r = until(t, address, "opper_traces_total", `trace_name="later"`, 1)
	if n := r.Lasting.Total("opper_traces_total", ""); n != 301 || r.Rest.Total("opper_up", "") != 1 {
		t.Errorf("%v traces are counted, opper_up is %v", n, r.Rest.Total("opper_up", ""))
	}
	p.Stop(t)
}
