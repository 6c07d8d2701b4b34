package binary_test

import (
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"opper_exporter/collector/store"
	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/opper/oppertest"
)

// copyState asks an exporter for a copy of its state.
func copyState(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Post(url+"/-/snapshot", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %.200q, %v", resp.Status, body, err)
	}
	return body
}

// stateOf returns a directory that holds a state.
func stateOf(t *testing.T, content []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "opper_exporter.db"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// An exporter that starts on a copy counts each trace once: those that the copy
// holds, and those that came after it.
func TestCopyOfTheStateContinues(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 120)
	args := []string{"--collector.settle-delay=0s", "--web.enable-lifecycle"}
	traffic := oppertest.NewTraffic(server, []oppertest.Agent{{Name: "busy", Rate: 40, Median: 20 * time.Millisecond, Spread: 0.5, Failure: 0.2}}, 5)
	e := startReady(t, url, args...)
	add := func(total float64) samples {
		t.Helper()
		var got samples
		await(t, "more are counted", func() bool {
			traffic.Step(time.Now())
			got = e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10")
			return got.sum("opper_traces_total") >= total
		})
		return got
	}
	before := add(150)
	var content []byte
	for range 5 { // while commits go on
		traffic.Step(time.Now())
		content = copyState(t, e.urls[0])
	}
	add(before.sum("opper_traces_total") + 100)
	e.checked = true
	e.Kill()

	e = startReady(t, url, append(args, "--storage.path="+stateOf(t, content))...)
	if len(e.Log.Lines(`msg="state restored"`)) != 1 {
		t.Error("the state was not restored")
	}
	e.scrape().mustKeep(t, before)
	for _, trace := range server.Snapshot() {
		if trace.End == nil {
			server.Delete(trace.ID)
		}
	}
	ended := float64(len(server.Snapshot()))
	await(t, "each trace is counted", func() bool {
		return e.scrape("X-Prometheus-Scrape-Timeout-Seconds", "10").sum("opper_traces_total") >= ended
	})
	again := e.scrape()
	await(t, "more syncs", func() bool { return e.scrape().syncs("success") > again.syncs("success")+3 })
	if got := e.scrape().sum("opper_traces_total"); got != ended {
		t.Errorf("%v traces are counted, want %v", got, ended)
	}
	// The copy of what nothing is added to is the state itself.
	e2 := startReady(t, url, append(args, "--storage.path="+stateOf(t, copyState(t, e.urls[0])))...)
	if was, is := ofTraces(e.scrape()), ofTraces(e2.scrape()); len(was) == 0 || !maps.Equal(was, is) {
		t.Errorf("the copy exposes %v, want %v", is, was)
	}
}

func TestCopyOfTheStateIsProtected(t *testing.T) {
	t.Parallel()
	// The hash is that of "open sesame", at the minimum cost.
	webConfig, roots := exportertest.WebConfig(t, "basic_auth_users: {ali: $2a$04$I371Cxx4bFFXcl9Aj5MBJek9DcFr9uwBkgA.x6XYp/OHBjBdmIFBO}\n")
	_, opperURL := fakeOpper(t, oppertest.Config{}, 3)
	e := start(t, withKey(), "--opper.url="+opperURL, "--web.config.file="+webConfig, "--web.enable-lifecycle")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for password, want := range map[string]int{"": 401, "wrong": 401, "open sesame": 200} {
		request, err := http.NewRequest(http.MethodPost, strings.Replace(e.urls[0], "http:", "https:", 1)+"/-/snapshot", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			request.SetBasicAuth("ali", password)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != want || (len(body) > 4096) != (want == 200) {
			t.Errorf("%q: %s, %d bytes, %v", password, response.Status, len(body), err)
		}
		noLeak(t, "the copy", string(body))
	}
}

// A client that does not read its copy delays neither commits nor the shutdown.
func TestCopyOfTheStateThatIsNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Another project makes it larger than the buffers of a connection.
	if err := errors.Join(state.Commit("other", map[string][]byte{"x": make([]byte, 32<<20)}, false), state.Close()); err != nil {
		t.Fatal(err)
	}
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--storage.path="+dir, "--web.enable-lifecycle", "--collector.settle-delay=0s")
	stuck := exportertest.Dial(t, strings.TrimPrefix(e.urls[0], "http://"), exportertest.Request("POST", "/-/snapshot"))
	if got := exportertest.Status(t, stuck); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	commits := func() float64 {
		return e.scrape()[`opper_exporter_state_commits_total{project="default",result="success"}`]
	}
	before := commits()
	for i := range 500 { // what they are stored in makes the file grow
		at := time.Now().Add(time.Duration(i-500) * time.Millisecond)
		server.Add(oppertest.Trace{ID: uuid.NewString(), Name: new("new"), Start: &at, End: &at})
	}
	await(t, "commits go on", func() bool { return commits() > before+5 })
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	e.end()
}
