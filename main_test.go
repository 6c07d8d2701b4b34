package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// A configuration that cannot be used ends the program with one line, before it
// has done anything.
func TestInvalidConfigurationEndsWithOneLine(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 1)
	dir := t.TempDir()
	state := filepath.Join(t.TempDir(), "data")
	for name, c := range map[string]struct{ arg, want string }{
		"of one flag":             {"--collector.interval=soon", "--collector.interval: "},
		"of two flags":            {"--collector.failure-status=Success", "--collector.failure-status: "},
		"path of two lines":       {"--opper.api-key-file=" + filepath.Join(dir, "two\nlines"), "--opper.api-key-file: "},
		"expression of two lines": {"--collector.trace-name-include=a\n[", "--collector.trace-name-include: "},
		"YAML":                    {"--web.config.file=" + writeFile(t, "web.yml", "basic_auth: {}\nother: 1\n"), "--web.config.file: "},
		"secret in the URL":       {"--opper.url=https://me:" + testKey + "@api.opper.ai", "--opper.url: "},
		"unknown flag":            {"--opper.api-key=" + testKey, "--opper.api-key"},
		"no such file":            {"--opper.api-key-file=" + filepath.Join(dir, "none"), "--opper.api-key-file: "},
	} {
		t.Run(name, func(t *testing.T) {
			args := withDefaults([]string{c.arg}, "--opper.url="+url, "--web.listen-address=127.0.0.1:0", "--storage.path="+state)
			// What starts by mistake must end.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var stdout, stderr promtest.Output
			status := run(ctx, args, func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }, &stdout, &stderr)
			text := stderr.String()
			if status != 2 || stdout.String() != "" || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") || !strings.HasPrefix(text, "opper_exporter: error: ") || !strings.Contains(text, c.want) {
				t.Errorf("status %d, stdout %q, stderr %q, want 2 and one line with %q", status, &stdout, text, c.want)
			}
			noLeak(t, c.arg, text)
		})
	}
	if n := server.RequestCount(); n != 0 {
		t.Errorf("%d requests were made", n)
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state was written: %v", err)
	}
}

func TestAddressInUseEndsTheProgram(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 1)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := freeAddress(t)
	for _, args := range [][]string{
		{"--web.listen-address=" + taken.Addr().String()},
		{"--web.listen-address=" + free, "--web.listen-address=" + taken.Addr().String()},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var log promtest.Output
		getenv := func(string) string { return testKey }
		status := run(ctx, append(args, "--opper.url="+url, "--storage.path="+t.TempDir()), getenv, io.Discard, &log)
		cancel()
		if status != 1 || len(log.Lines("level=error")) != 1 || len(log.Lines("level=error", "--web.listen-address", taken.Addr().String())) != 1 {
			t.Errorf("status %d, log:\n%s", status, &log)
		}
		if c, err := net.Dial("tcp", free); err == nil {
			_ = c.Close()
			t.Error("the other address is served")
		}
	}
	if n := server.RequestCount(); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, texts := range map[string][]string{
		"--help":    {"usage: opper_exporter", "--opper.api-key-file", "--web.listen-address", "OPPER_API_KEY"},
		"-h":        {"usage: opper_exporter"},
		"--version": {"opper_exporter, version", "go1."},
	} {
		var stdout, stderr promtest.Output
		status := run(t.Context(), []string{arg}, func(string) string { return "" }, &stdout, &stderr)
		if status != 0 || stderr.String() != "" {
			t.Errorf("%s: status %d, stderr %q", arg, status, &stderr)
		}
		for _, text := range texts {
			if strings.Count(stdout.String(), text) == 0 {
				t.Errorf("%s: no %q in %s", arg, text, &stdout)
			}
		}
		if n := strings.Count(stdout.String(), "usage: "); n > 1 {
			t.Errorf("%s: printed %d times", arg, n)
		}
	}
}

func TestEnvironment(t *testing.T) {
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	t.Setenv("OPPER_BASE_URL", url+"/v3/")
	e := start(t, map[string]string{"OPPER_HTTP_BEARER": testKey})
	e.awaitReady()
	if r := server.Requests()[0]; !r.V3 || !r.Authorized {
		t.Errorf("%+v", r)
	}
	t.Setenv("OPPER_BASE_URL", "nowhere")
	var stderr promtest.Output
	if status := run(t.Context(), nil, func(string) string { return testKey }, io.Discard, &stderr); status != 2 || !strings.Contains(stderr.String(), "--opper.url: ") {
		t.Errorf("status %d: %s", status, &stderr)
	}
	// The first of the two names counts, and a flag beats both.
	e = start(t, map[string]string{"OPPER_API_KEY": testKey, "OPPER_HTTP_BEARER": "wrong"}, "--opper.url="+url)
	e.awaitReady()
}

func TestLogFormatAndLevel(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--log.format=json")
	e.end()
	for line := range strings.Lines(e.log.String()) {
		var entry struct{ TS, Level, Msg, Caller string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.TS == "" || entry.Level == "" || entry.Msg == "" || entry.Caller == "" {
			t.Errorf("%q: %+v, %v", line, entry, err)
		}
	}
	e = startReady(t, url)
	e.end()
	for line := range strings.Lines(e.log.String()) {
		for _, key := range []string{"ts=", "level=", "caller=", "msg="} {
			if n := strings.Count(" "+line, " "+key); n != 1 {
				t.Errorf("%s %d times: %s", key, n, line)
			}
		}
	}

	address := freeAddress(t)
	quiet := launch(t, map[string]string{"OPPER_API_KEY": testKey}, []string{"--opper.url=" + url, "--log.level=error", "--web.listen-address=" + address})
	quiet.urls = []string{"http://" + address}
	await(t, "it listens", func() bool {
		quiet.mustRun()
		_, err := fetch(t, quiet.client, quiet.urls[0])
		return err == nil
	})
	quiet.awaitReady()
	if text := quiet.log.String(); text != "" {
		t.Errorf("nothing went wrong, but:\n%s", text)
	}
	server.Fail(oppertest.Fault{Answer: oppertest.Errors(403)["v3 text"], Times: -1})
	await(t, "an error in the log", func() bool { return len(quiet.log.Lines("level=error", "403")) > 0 })
}

// Nothing is waited for that hangs, and nothing goes on.
func TestShutdownEndsWhatHangs(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]string{"interval": "25ms", "on scrape": "0s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			e := startReady(t, url, "--collector.interval="+interval)
			e.scrape()
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			if interval == "0s" {
				go func() { scraped <- scrapeText(t, e.client, e.urls[0]) }()
			}
			await(t, "a sync waits for Opper", func() bool { return server.RequestCount() > 0 })
			if status := e.end(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if interval == "0s" {
				if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
					t.Errorf("the scrape in flight got %.200s", text)
				}
			}
			if len(e.log.Lines("level=error")) > 0 {
				t.Error("an error in the log")
			}
			if c, err := net.Dial("tcp", strings.TrimPrefix(e.urls[0], "http://")); err == nil {
				_ = c.Close()
				t.Error("still listening")
			}
		})
	}
}

// The program itself, in a process of its own, with a scrape in flight.
func TestSignalsFinishScrapesInFlight(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			c := spawn(t, nil, url, "--collector.interval=0s")
			target := c.url()
			scrapeText(t, http.DefaultClient, target)
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			go func() { scraped <- scrapeText(t, http.DefaultClient, target) }()
			await(t, "a scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
			c.signal(sig)
			if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
				t.Errorf("the scrape in flight got %.200s", text)
			}
			c.wantExit(0)
		})
	}

	// The exit status of a wrong flag is the process's own.
	cmd := exec.CommandContext(t.Context(), self, "--no-such-flag")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if exit, ok := errors.AsType[*exec.ExitError](cmd.Run()); !ok || exit.ExitCode() != 2 {
		t.Errorf("a wrong flag ends with %v", exit)
	}
}
