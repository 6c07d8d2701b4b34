package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-kit/log"

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
	e := startReady(t, url, "--storage.path="+dir)
	if got := e.end(); got != 0 {
		t.Fatalf("exit status %d", got)
	}
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
				c := spawn(t, nil, url, "--storage.path="+dir, "--collector.interval="+interval)
				target := c.url()
				// The interval of an hour has one sync, which is not to see it.
				await(t, "a commit", func() bool {
					return strings.Contains(scrapeText(t, http.DefaultClient, target), `opper_exporter_state_commits_total{project="default",result="success"} 1`) || interval == "25ms"
				})
				if err := test.lose(file, older); err != nil {
					t.Fatal(err)
				}
				switch interval {
				case "0s":
					scrapeText(t, http.DefaultClient, target)
				case "1h":
					c.signal(syscall.SIGTERM)
				}
				text := test.text
				if interval == "25ms" && text == "it is cut short" {
					text = "" // a commit may be under way, and make it long again
				}
				c.wantFailure(file, text)
			})
		}
	}
}

// A second process that finds the path free takes it, and the first one ends.
func TestStateFileTakenOver(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 20)
	dir := filepath.Join(t.TempDir(), "state")
	first := spawn(t, nil, url, "--storage.path="+dir, "--collector.interval=0s")
	target := first.url()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	second := spawn(t, nil, url, "--storage.path="+dir)
	second.url()
	scrapeText(t, http.DefaultClient, target)
	first.wantFailure(filepath.Join(dir, database), "was replaced by another file")
	second.signal(syscall.SIGTERM)
	second.wantExit(0)
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
	c := spawn(t, nil, url, "--storage.path="+dir)
	c.wantFailure(filepath.Join(dir, database), "was removed")
}

func TestHangup(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	c := spawn(t, nil, url)
	target := c.url()
	for n := 1; n <= 2; n++ {
		c.signal(syscall.SIGHUP)
		await(t, "a line for each SIGHUP", func() bool {
			c.MustRun(t)
			return len(c.Log.Lines("level=info", "SIGHUP ignored")) == n
		})
	}
	if text := scrapeText(t, http.DefaultClient, target); !strings.Contains(text, "\nopper_up{") {
		t.Errorf("a scrape got %.200s", text)
	}
	c.signal(syscall.SIGTERM)
	c.wantExit(0)
}

// A log that nobody reads any more does not end the process.
func TestClosedStandardError(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	c := spawn(t, w, url, "--web.listen-address="+address, "--log.level=debug")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.awaitReady(address)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// Each sync is logged at this level.
	for range 3 {
		before := scrapeText(t, http.DefaultClient, "http://"+address)
		await(t, "another sync", func() bool {
			c.MustRun(t)
			return syncsOf(scrapeText(t, http.DefaultClient, "http://"+address)) != syncsOf(before)
		})
	}
	c.signal(syscall.SIGTERM)
	c.wantExit(0)
}

// syncsOf returns the sample of the syncs that succeeded.
func syncsOf(text string) string {
	_, rest, _ := strings.Cut(text, `opper_exporter_syncs_total{project="default",result="success"}`)
	sample, _, _ := strings.Cut(rest, "\n")
	return sample
}

// A process that hangs, here because nobody reads its log, ends nevertheless.
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
			address := freeAddress(t)
			c := spawn(t, w, url, "--web.listen-address="+address)
			c.awaitReady(address)
			if err := fill(int(w.Fd())); err != nil {
				t.Fatal(err)
			}
			c.signal(syscall.SIGTERM)
			if again != 0 {
				// Two signals of one kind may become one until the first is taken.
				await(t, "the process ends", func() bool {
					_ = c.Cmd.Process.Signal(again)
					return c.HasEnded()
				})
			}
			c.wantExit(1)
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

// What does not heed its context is not waited for either.
func TestShutdownTimeout(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	serving, never := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- supervise(ctx, log.NewNopLogger(), func(context.Context) error {
			close(serving)
			<-never
			return nil
		})
	}()
	<-serving
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "shutdown not finished within 8s") {
		t.Errorf("%v", err)
	}
	close(never)
}

// A client that never sends all of its request is not waited for.
func TestShutdownWithHangingClient(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	c := spawn(t, nil, url, "--collector.interval=0s")
	target := c.url()
	scrapeText(t, http.DefaultClient, target)
	conn, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	hold(t, server)
	server.ResetRequests()
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, "its scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
	c.signal(syscall.SIGTERM)
	c.wantExit(0)
}
