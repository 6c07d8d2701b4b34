package binary_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"opper_exporter/opper/oppertest"
)

// reload asks an exporter to load its configuration again.
func (e *exporter) reload() page {
	e.t.Helper()
	resp, err := e.client.Post(e.urls[0]+"/-/reload", "", nil)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	noLeak(e.t, "/-/reload", string(body))
	return page{resp.StatusCode, resp.Header, string(body)}
}

// fileOfProjects writes a --config.file and the key files that it names, and returns
// its path and what replaces its projects: names and URLs.
func fileOfProjects(t *testing.T) (path string, write func(projects ...string)) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "opper.yml")
	replace := func(file, content string) {
		t.Helper()
		// A half-written file could be read.
		next := filepath.Join(dir, "next")
		if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	return path, func(projects ...string) {
		t.Helper()
		var text strings.Builder
		text.WriteString("projects:\n")
		for i := 0; i < len(projects); i += 2 {
			replace(filepath.Join(dir, "key"), testKey)
			fmt.Fprintf(&text, "  - {name: %s, api_key_file: key, %s}\n", projects[i], projects[i+1])
		}
		replace(path, text.String())
	}
}

// SIGHUP and POST /-/reload add, remove and change projects; a bad file changes nothing,
// and is never answered with 200.
func TestReload(t *testing.T) {
	t.Parallel()
	_, first := fakeOpper(t, oppertest.Config{}, 30)
	_, second := fakeOpper(t, oppertest.Config{}, 40)
	path, write := fileOfProjects(t)
	write("a", "url: "+first)
	e := start(t, nil, "--config.file="+path, "--web.enable-lifecycle")
	e.awaitReady()
	started := e.scrape()
	const successful, at = "opper_exporter_config_last_reload_successful", "opper_exporter_config_last_reload_success_timestamp_seconds"
	if started[successful] != 1 || started[at] == 0 || started["opper_exporter_projects"] != 1 || started.sum("opper_traces_total") != 30 {
		t.Errorf("at the start: %v", started.of("opper_exporter_"))
	}

	write("a", "url: "+first, "b", "url: "+second)
	if p := e.reload(); p.code != http.StatusOK || p.body != "Configuration reloaded.\n" {
		t.Errorf("%d %q", p.code, p.body)
	}
	await(t, "the project that was added is counted", func() bool { return e.scrape().sum("opper_traces_total") == 70 })
	got := e.scrape()
	got.mustKeep(t, started)
	if got[successful] != 1 || got[at] <= started[at] || got["opper_exporter_projects"] != 2 {
		t.Errorf("after a reload: %v, %v, %v projects", got[successful], got[at], got["opper_exporter_projects"])
	}

	// In all ways, a bad file is refused with what is wrong.
	write("a", "interval: soon, url: "+first)
	p := e.reload()
	if p.code != http.StatusInternalServerError || !strings.HasPrefix(p.body, "configuration reload failed: "+path+": line 2: ") || strings.Count(p.body, "\n") != 1 || !strings.Contains(p.body, "soon") {
		t.Errorf("%d %q", p.code, p.body)
	}
	lines := len(e.Log.Lines("level=error", "configuration reload failed", "line 2"))
	e.signal(syscall.SIGHUP)
	await(t, "a line for SIGHUP", func() bool {
		e.MustRun(t)
		return len(e.Log.Lines("level=error", "configuration reload failed", "line 2")) > lines
	})
	failed := e.scrape()
	failed.mustKeep(t, got)
	if failed[successful] != 0 || failed[at] != got[at] || failed["opper_exporter_projects"] != 2 {
		t.Errorf("after a bad file: %v, %v, %v projects", failed[successful], failed[at], failed["opper_exporter_projects"])
	}

	// SIGHUP: one goes, the other one changes.
	write("b", "settle_delay: 1m, url: "+second)
	e.signal(syscall.SIGHUP)
	await(t, "the project that was removed has no series", func() bool {
		got = e.scrape()
		return got.sum("opper_traces_total") == 40 && got[successful] == 1
	})
	if got["opper_exporter_projects"] != 1 || got[`opper_up{project="b"}`] != 1 || len(e.Log.Lines("initial sync complete", "project=b")) != 1 {
		t.Errorf("after SIGHUP: %v", got.of("opper_up"))
	}
	// It goes on from its state.
	write("b", "settle_delay: 1m, url: "+second, "a", "url: "+first)
	if p := e.reload(); p.code != http.StatusOK {
		t.Errorf("%d %q", p.code, p.body)
	}
	if n := e.scrape().sum("opper_traces_total"); n != 70 {
		t.Errorf("%v traces", n)
	}

	// A change is also seen without being asked for.
	write("a", "url: "+first)
	await(t, "the change is seen", func() bool { return e.scrape()["opper_exporter_projects"] == 1 })
	e.end()
}

// Without a file there is nothing to reload, and without the flag nobody may ask.
func TestReloadIsRefused(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--web.enable-lifecycle")
	if p := e.reload(); p.code != http.StatusNotFound {
		t.Errorf("without a file: %d %q", p.code, p.body)
	}
	path, write := fileOfProjects(t)
	write("a", "url: "+url)
	e = start(t, nil, "--config.file="+path)
	if p := e.reload(); p.code != http.StatusForbidden {
		t.Errorf("without the flag: %d %q", p.code, p.body)
	}
}
