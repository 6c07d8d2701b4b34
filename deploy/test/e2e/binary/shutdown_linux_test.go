package binary_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

const database = "opper_exporter.db"

// loseFile are the ways to lose the file of a running process, and what the
// process says of it. One that is overwritten may be seen before it is full.
var loseFile = map[string]struct {
	lose func(path string, older []byte) error
	text string
}{
	"emptied":           {func(path string, _ []byte) error { return os.Truncate(path, 0) }, "it is cut short"},
	"cut":               {func(path string, _ []byte) error { return os.Truncate(path, 3*4096) }, "it is cut short"},
	"removed":           {func(path string, _ []byte) error { return os.Remove(path) }, "was removed"},
	"directory removed": {func(path string, _ []byte) error { return os.RemoveAll(filepath.Dir(path)) }, "was removed"},
	"directory renamed": {func(path string, _ []byte) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".old") }, "was removed"},
	"replaced": {func(path string, older []byte) error {
		return errors.Join(os.WriteFile(path+".new", older, 0o600), os.Rename(path+".new", path))
	}, "was replaced"},
	"overwritten": {func(path string, older []byte) error { return os.WriteFile(path, older, 0o600) }, ""},
	"filled with text": {func(path string, older []byte) error {
		return os.WriteFile(path, []byte(strings.Repeat("x", 4*len(older))), 0o600)
	}, ""},
}

// olderState returns a state file of the list as it is now.
func olderState(t *testing.T, url string) []byte {
	t.Helper()
	dir := t.TempDir()
	startReady(t, url, "--storage.path="+dir).end()
	older, err := os.ReadFile(filepath.Join(dir, database))
	if err != nil {
		t.Fatal(err)
	}
	return older
}

// A state file that is lost ends the process, at the next commit or, if there is
// none, at its end.
func TestStateFileLost(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 200)
	older := olderState(t, url)
	for name, test := range loseFile {
		for _, interval := range []string{"25ms", "0s", "1h"} {
			t.Run(name+" "+interval, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "state")
				file := filepath.Join(dir, database)
				if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(file, older, 0o600)); err != nil {
					t.Fatal(err)
				}
				// Usage would be committed at times of its own.
				e := startReady(t, url, "--storage.path="+dir, "--collector.interval="+interval, "--collector.usage-interval=0s")
				// The interval of an hour has one sync, which is not to see it. Before a
				// commit, the older file is the same as that of the process.
				await(t, "a commit", func() bool {
					return !strings.Contains(scrapeText(t, e.client, e.urls[0]), `opper_exporter_state_commits_total{project="default",result="success"} 0`)
				})
				if err := test.lose(file, older); err != nil {
					t.Fatal(err)
				}
				switch interval {
				case "0s":
					scrapeText(t, e.client, e.urls[0])
				case "1h":
					e.signal(syscall.SIGTERM)
				}
				text := test.text
				if interval == "25ms" && text == "it is cut short" {
					text = "" // a commit may be under way, and make it long again
				}
				e.wantFailure(file, text)
			})
		}
	}
}

// A second process that finds the path free takes it, and the first one ends.
func TestStateFileTakenOver(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 20)
	dir := filepath.Join(t.TempDir(), "state")
	// Nothing is to be committed but by the scrape.
	first := startReady(t, url, "--storage.path="+dir, "--collector.interval=0s", "--collector.usage-interval=0s")
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	second := startReady(t, url, "--storage.path="+dir)
	scrapeText(t, first.client, first.urls[0])
	first.wantFailure(filepath.Join(dir, database), "was replaced by another file")
	second.end()
}

// Where no sync ends that would commit, the end of the process tells.
func TestStateFileLostWhileASyncHangs(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 20)
	dir := filepath.Join(t.TempDir(), "state")
	e := startReady(t, url, "--storage.path="+dir, "--collector.usage-interval=0s")
	hold(t, server)
	server.ResetRequests()
	await(t, "a sync waits for Opper", func() bool { return server.RequestCount() > 0 })
	if err := os.Remove(filepath.Join(dir, database)); err != nil {
		t.Fatal(err)
	}
	e.signal(syscall.SIGTERM)
	e.wantFailure(filepath.Join(dir, database), "was removed")
}

// The state can be lost while the initial sync is under way.
func TestStateFileLostDuringInitialSync(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3000)
	dir := t.TempDir()
	seen := make(chan struct{}, 1)
	server.OnRequest(func(r oppertest.Request) {
		if r.Offset >= 1000 {
			select {
			case seen <- struct{}{}:
				_ = os.Remove(filepath.Join(dir, database))
			default:
			}
		}
	})
	e := launch(t, nil, withKey(), "--opper.url="+url, "--storage.path="+dir)
	e.wantFailure(filepath.Join(dir, database), "was removed")
}

func TestHangup(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url)
	for n := 1; n <= 2; n++ {
		e.signal(syscall.SIGHUP)
		await(t, "a line for each SIGHUP", func() bool {
			e.MustRun(t)
			return len(e.Log.Lines("level=info", "SIGHUP ignored")) == n
		})
	}
	if text := scrapeText(t, e.client, e.urls[0]); !strings.Contains(text, "\nopper_up{") {
		t.Errorf("a scrape got %.200s", text)
	}
	e.end()
}

// A log whose reader has ended does not end the process.
func TestClosedStandardError(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	e := startUnlogged(t, w, url)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// Each sync is logged, at the level debug.
	for range 3 {
		before := e.scrape()
		await(t, "another sync", func() bool { return e.scrape().syncs("success") > before.syncs("success") })
	}
	e.end()
}

// A process that hangs, here because its log is not read, ends nevertheless.
func TestShutdownHangs(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	for _, again := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(fmt.Sprint("then ", again), func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			defer func() { _ = w.Close() }()
			e := startUnlogged(t, w, url, "--log.level=info")
			if err := fill(int(w.Fd())); err != nil {
				t.Fatal(err)
			}
			e.signal(syscall.SIGTERM)
			if again != 0 {
				// Two signals of one kind may become one until the first is taken.
				await(t, "the process ends", func() bool {
					_ = e.Cmd.Process.Signal(again)
					return e.HasEnded()
				})
			}
			e.wantExit(1)
		})
	}
}

// fill writes until nothing more fits.
func fill(fd int) error {
	err := syscall.SetNonblock(fd, true)
	for err == nil {
		_, err = syscall.Write(fd, []byte{'\n'})
	}
	if !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	return syscall.SetNonblock(fd, false)
}

// A client that never sends all of its request is not waited for.
func TestShutdownWithHangingClient(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--collector.interval=0s")
	e.scrape()
	hold(t, server)
	server.ResetRequests()
	exportertest.Dial(t, strings.TrimPrefix(e.urls[0], "http://"), exportertest.Request("GET", "/metrics", "Content-Length: 10"))
	await(t, "its scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
	e.end()
}
