package binary_test

import (
	"encoding/json"
	"strings"
	"testing"

	"opper_exporter/opper/oppertest"
)

// The environment gives the key and the URL, unless a flag does.
func TestEnvironmentConfigures(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := start(t, map[string]string{"OPPER_HTTP_BEARER": testKey, "OPPER_BASE_URL": url + "/v3/"})
	e.awaitReady()
	if r := server.Requests()[0]; !r.V3 || !r.Authorized {
		t.Errorf("%+v", r)
	}
	wrong := launch(t, nil, map[string]string{"OPPER_API_KEY": testKey, "OPPER_BASE_URL": "nowhere"})
	wrong.wantExit(2)
	if text := wrong.Log.String(); !strings.Contains(text, "--opper.url: ") {
		t.Errorf("OPPER_BASE_URL=nowhere: %s", text)
	}
	// The first of the two names counts, and a flag beats both.
	e = start(t, map[string]string{"OPPER_API_KEY": testKey, "OPPER_HTTP_BEARER": "wrong", "OPPER_BASE_URL": "nowhere"}, "--opper.url="+url)
	e.awaitReady()
}

// Whoever starts the exporter for the first time reads where its metrics are, and
// what will be missing from them.
func TestLogSaysWhatIsServed(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 1)
	e := startReady(t, url, "--web.telemetry-path=/numbers")
	if n := len(e.Log.Lines(`level=info`, `msg="starting opper_exporter"`, "projects=1", "opper_url="+url+"/v2")); n != 1 {
		t.Errorf("%d lines say where the traces are read", n)
	}
	if n := len(e.Log.Lines(`level=info`, `msg="serving metrics" path=/numbers`)); n != 1 {
		t.Errorf("%d lines say where", n)
	}
	const disabled = `msg="classic and native histograms disabled`
	if len(e.Log.Lines(disabled)) != 0 {
		t.Error("a warning about histograms that are exposed")
	}
	e = startReady(t, url, "--no-collector.classic-histograms", "--no-collector.native-histograms")
	if n := len(e.Log.Lines("level=warn", disabled)); n != 1 {
		t.Errorf("%d warnings about histograms", n)
	}
}

func TestLogFormatAndLevel(t *testing.T) {
	t.Parallel()
	server, url := fakeOpper(t, oppertest.Config{}, 3)
	e := startReady(t, url, "--log.format=json")
	e.end()
	for line := range strings.Lines(e.Log.String()) {
		var entry struct{ TS, Level, Msg, Caller string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.TS == "" || entry.Level == "" || entry.Msg == "" || entry.Caller == "" {
			t.Errorf("%q: %+v, %v", line, entry, err)
		}
	}
	e = startReady(t, url)
	e.end()
	for line := range strings.Lines(e.Log.String()) {
		for _, key := range []string{"ts=", "level=", "caller=", "msg="} {
			if n := strings.Count(" "+line, " "+key); n != 1 {
				t.Errorf("%s %d times: %s", key, n, line)
			}
		}
	}

	quiet := startUnlogged(t, nil, url, "--log.level=error")
	if text := quiet.Log.String(); text != "" {
		t.Errorf("nothing went wrong, but:\n%s", text)
	}
	server.Fail(oppertest.Fault{Answer: oppertest.Errors(403)["v3 text"], Times: -1})
	await(t, "an error in the log", func() bool { return len(quiet.Log.Lines("level=error", "403")) > 0 })
}
