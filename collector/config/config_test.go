package config

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opper_exporter/collector/scrape"

	"github.com/alecthomas/kingpin/v2"
)

const testKey = "op-test-KEY-51c7e0"

func withKey(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }

func parse(getenv func(string) string, args ...string) (*Validated, error) {
	cfg, _, err := Parse(args, getenv, io.Discard)
	return cfg, err
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A wrong value is refused before anything is done, with an error that names the
// flag and does not repeat a key.
func TestWrongValueIsRefusedByItsFlag(t *testing.T) {
	var requests atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer upstream.Close()
	state := filepath.Join(t.TempDir(), "data")
	dir := t.TempDir()
	for flag, values := range map[string]map[string]string{
		"opper.api-key-file": {
			"no file":           filepath.Join(dir, "none"),
			"directory":         dir,
			"path of two lines": filepath.Join(dir, "two\nlines"),
			"empty file":        writeFile(t, "empty", " \n"),
			"two lines":         writeFile(t, "long", testKey+"\n"+testKey),
		},
		"opper.url": {
			"empty": "", "no scheme": "api.opper.ai", "other scheme": "ftp://api.opper.ai", "no host": "https://", "only a port": "https://:443",
			"bad escape": "https://%zz", "with a password": "https://me:" + testKey + "@api.opper.ai",
			"with a query": "https://api.opper.ai?key=" + testKey, "with a fragment": "https://api.opper.ai#v2",
		},
		"opper.header": {
			"no colon": testKey, "no name": ": x", "space in the name": "A Name: x", "two lines": "Name: " + testKey + "\nOther: x",
			"authorization": "authorization: Bearer " + testKey, "host": "Host: x",
		},
		"opper.http-config-file": {
			"no file":       filepath.Join(dir, "none.yml"),
			"unknown field": writeFile(t, "http.yml", "tls: {}\n"),
			"credentials":   writeFile(t, "key.yml", "authorization: {credentials: "+testKey+"}\n"),
		},
		"opper.project":                       {"empty": "", "not UTF-8": "\xff", "an API key": "op-ABCDEFGHIJ0123456789"},
		"opper.timeout":                       {"zero": "0s", "negative": "-1s", "no duration": "soon"},
		"opper.concurrency":                   {"zero": "0", "negative": "-1", "fraction": "1.5"},
		"opper.max-requests-per-second":       {"negative": "-1", "NaN": "NaN", "infinite": "+Inf", "no number": "many"},
		"opper.max-requests-per-second-total": {"negative": "-1", "NaN": "NaN", "infinite": "+Inf", "no number": "many"},
		"collector.interval":                  {"negative": "-1s", "no unit": "30", "empty": ""},
		"collector.sweep-interval":            {"negative": "-1h", "no duration": "daily"},
		"collector.initial-lookback":          {"negative": "-1h", "no duration": "some"},
		"collector.settle-delay":              {"negative": "-1ms", "no duration": "a while"},
		"collector.abandon-after":             {"zero": "0", "negative": "-1h", "unknown unit": "1y1z"},
		"collector.failure-status":            {"also success": "Success"},
		"collector.trace-name-include":        {"open group": "(", "closes our group": "a)|(b", "two lines": "a\n["},
		"collector.trace-name-exclude":        {"nothing to repeat": "*"},
		"collector.max-trace-names":           {"zero": "0", "negative": "-1", "no number": "all"},
		"collector.trace-name-expiry":         {"negative": "-1s", "no duration": "a month"},
		"collector.usage-interval":            {"negative": "-1m", "too short": "9.9s", "no unit": "60", "empty": ""},
		"collector.max-models":                {"zero": "0", "negative": "-1", "no number": "all"},
		"collector.trace-name-rewrite": {
			"empty": "", "no replacement": "user-.*", "no pattern": "=user", "open group": "(=user", "closes our group": "a)|(b=user",
			"no such group": "(user)-.*=$2", "letter after the group": "(user)-.*=$1s", "no such name": "(user)-.*=${name}",
			"lone dollar": "(user)-.*=US$", "not UTF-8": "user=\xff",
		},
		"collector.duration-buckets": {
			"empty": "", "only a comma": ",", "falling": "1,3,2", "twice": "1,1", "NaN": "1,NaN", "infinite": "1,+Inf", "negative": "-1,1", "zero": "0,1", "unit": "1s",
		},
		"collector.token-buckets": {"empty": "", "falling": "2,1", "NaN": "NaN", "negative": "-16"},
		"web.telemetry-path": {
			"empty": "", "relative": "metrics", "root": "/", "slash at the end": "/metrics/", "taken": "/-/ready", "a project": "/probe", "discovery": "/sd", "pattern": "/{any...}", "space": "/a b",
		},
		"web.trace-url": {
			"no id": "https://platform.opper.ai/traces", "no scheme": "platform.opper.ai/{id}", "script": "javascript:alert({id})", "no host": "https:///{id}",
			"id in the host": "https://{id}.opper.ai/{id}", "id after an @": "https://opper.ai@{id}/{id}", "key": "https://me:" + testKey + "@opper.ai/{id}", "two lines": "https://opper.ai/\n{id}",
		},
		"web.listen-address":        {"no port": "localhost", "empty port": ":", "a URL": "http://localhost:16773"},
		"web.health-listen-address": {"no port": "localhost", "empty port": ":", "a URL": "http://localhost:16775"},
		"web.max-requests":          {"negative": "-1", "no number": "few"},
		"web.config.file": {
			"no file":        filepath.Join(dir, "none.yml"),
			"unknown field":  writeFile(t, "web.yml", "basic_auth: {}\nother: 1\n"),
			"no certificate": writeFile(t, "tls.yml", "tls_server_config: {cert_file: none.crt, key_file: none.key}\n"),
			"no hash":        writeFile(t, "auth.yml", "basic_auth_users: {someone: nohash}\n"),
		},
		"log.level":  {"unknown": "loud"},
		"log.format": {"unknown": "xml"},
	} {
		for name, value := range values {
			t.Run(flag+" "+name, func(t *testing.T) {
				args := []string{"--" + flag + "=" + value, "--storage.path=" + state}
				if flag != "opper.url" {
					args = append(args, "--opper.url="+upstream.URL)
				}
				_, err := parse(withKey, args...)
				if err == nil || !strings.HasPrefix(err.Error(), "--"+flag+": ") {
					t.Fatalf("%q: got %v", value, err)
				}
				if strings.Contains(err.Error(), testKey) {
					t.Errorf("the error repeats the key: %v", err)
				}
			})
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state was written: %v", err)
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ arg, want string }{
		"success status that is also failure": {"--collector.success-status=ERROR", "--collector.success-status"},
		"key as a flag":                       {"--opper.api-key=" + testKey, "--opper.api-key"},
		"unknown flag":                        {"--no-such-flag", "--no-such-flag"},
		"no value":                            {"--web.max-requests", "--web.max-requests"},
		"no value before a flag":              {"--storage.path --web.max-requests=3", "--storage.path"},
		"argument":                            {"stray", "stray"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(withKey, strings.Fields(c.arg)...)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), testKey) {
				t.Errorf("got %v, want %s in it", err, c.want)
			}
		})
	}
}

func TestUnknownFlagOrCommandGetsSuggestion(t *testing.T) {
	for arg, want := range map[string]string{
		"--collector.intervall=3s":        "unknown long flag '--collector.intervall', did you mean '--collector.interval'?",
		"--collector.max-names=3":         "unknown long flag '--collector.max-names', did you mean '--collector.max-trace-names'?",
		"--api-key-file=x":                "unknown long flag '--api-key-file', did you mean '--opper.api-key-file'?",
		"--success-status=x":              "unknown long flag '--success-status', did you mean '--collector.success-status'?",
		"--interval=3s":                   "unknown long flag '--interval', did you mean '--collector.interval'?",
		"--storage=x":                     "unknown long flag '--storage', did you mean '--storage.path'?",
		"--config=x":                      "unknown long flag '--config', did you mean '--config.file'?",
		"--COLLECTOR.INTERVAL=3s":         "unknown long flag '--COLLECTOR.INTERVAL', did you mean '--collector.interval'?",
		"check --jsn":                     "unknown long flag '--jsn', did you mean '--json'?",
		"--unheard-of":                    "unknown long flag '--unheard-of'",
		"--opper.api-key=" + testKey:      "unknown long flag '--opper.api-key', did you mean '--opper.api-key-file'?",
		"--no-collector.native-histogram": "unknown long flag '--no-collector.native-histogram', did you mean '--no-collector.native-histograms'?",
		"--json":                          "unknown long flag '--json'",
		"--prometheus.remote-write=a":     "unknown long flag '--prometheus.remote-write'",
		"chekc":                           `expected command but got "chekc", did you mean 'check'?`,
		"--web.max-requests=3 CHECK":      `expected command but got "CHECK", did you mean 'check'?`,
		"state shwo":                      `expected command but got "shwo", did you mean 'show'?`,
		"state check":                     `expected command but got "check"`,
		"serve":                           `expected command but got "serve"`,
	} {
		if _, err := parse(withKey, strings.Fields(arg)...); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// There is no flag that takes the key, and no error shows one that was given all the same.
func TestKeyInTheWrongPlaceIsNotShown(t *testing.T) {
	const key = "op-ABCDEFGHIJ0123456789"
	for _, line := range []string{
		key, "check " + key, "state " + key, "--" + key, "--opper.api-key=" + key, "--opper.api-key " + key, "--opper.api-key-file=" + key, "--config.file=" + key,
		"--collector.interval=" + key, "--opper.header=" + key, "--opper.project=" + key, "--opper.url=http://" + key, "--web.listen-address=" + key, "--web.config.file=" + key,
		"check --json --opper.api-key-file=" + key, "--collector.trace-name-include=(" + key, "--collector.duration-buckets=" + key, "--opper.http-config-file=" + key,
	} {
		var out strings.Builder
		_, _, err := Parse(strings.Fields(line), withKey, &out)
		if err == nil || strings.Contains(err.Error()+out.String(), key) {
			t.Errorf("%s: %v, printed %s", line, err, &out)
		}
	}
}

func TestWrongKeyInTheEnvironmentIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"none":      {nil, "--opper.api-key-file, or OPPER_API_KEY"},
		"two lines": {map[string]string{"OPPER_API_KEY": testKey + "\n" + testKey}, "OPPER_API_KEY: "},
		"blank":     {map[string]string{"OPPER_HTTP_BEARER": " "}, "OPPER_HTTP_BEARER: the key is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(func(name string) string { return c.env[name] })
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), testKey) {
				t.Errorf("got %v, want %s in it", err, c.want)
			}
		})
	}
}

func TestKeyOriginIsKnown(t *testing.T) {
	file := writeFile(t, "key", testKey)
	for want, c := range map[string]struct {
		variable string
		args     []string
	}{
		"environment variable OPPER_API_KEY":     {"OPPER_API_KEY", nil},
		"environment variable OPPER_HTTP_BEARER": {"OPPER_HTTP_BEARER", nil},
		"--opper.api-key-file " + file:           {"OPPER_API_KEY", []string{"--opper.api-key-file=" + file}},
	} {
		cfg, err := parse(func(name string) string { return map[string]string{c.variable: testKey}[name] }, c.args...)
		if err != nil || cfg.Projects[0].KeyOrigin != want {
			t.Errorf("got %+v, %v, want %s", cfg, err, want)
		}
	}
}

func TestPlaintextNeedsAFlag(t *testing.T) {
	const url = "--opper.url=http://opper.example"
	_, err := parse(withKey, url)
	if err == nil || !strings.HasPrefix(err.Error(), "--opper.url: ") || !strings.Contains(err.Error(), "--opper.allow-plaintext") {
		t.Errorf("got %v", err)
	}
	cfg, err := parse(withKey, url, "--opper.allow-plaintext")
	if err != nil || !cfg.Projects[0].Opper.AllowPlaintext {
		t.Errorf("with the flag: got %v", err)
	}
}

// Without state, all that is listed would be counted again by each start.
func TestInitialLookbackDependsOnPersistence(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want *time.Duration
	}{
		"state":             {nil, nil},
		"state, an hour":    {[]string{"--collector.initial-lookback=1h"}, new(time.Hour)},
		"no state":          {[]string{"--storage.path="}, new(time.Duration)},
		"no state, a day":   {[]string{"--storage.path=", "--collector.initial-lookback=1d"}, new(24 * time.Hour)},
		"no state, but all": {[]string{"--storage.path=", "--collector.initial-lookback=all"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parse(withKey, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Projects[0].InitialLookback; (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestTraceURL(t *testing.T) {
	for arg, want := range map[string]string{
		"--log.level=info": "https://platform.opper.ai/traces/{id}",
		"--web.trace-url=": "",
		"--web.trace-url=http://[::1]:80/a/{id}/{id}#b": "http://[::1]:80/a/{id}/{id}#b",
	} {
		cfg, err := parse(withKey, arg)
		if err != nil || cfg.Scrape.TraceURL != want {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}

func TestValuesReachWhatTheyConfigure(t *testing.T) {
	cfg, err := parse(withKey,
		"--opper.url=https://opper.example", "--opper.header=x-more:  of this ", "--opper.concurrency=7", "--opper.max-requests-per-second=8",
		"--collector.interval=0s", "--collector.success-status=OK, Fine", "--collector.success-status=Done",
		"--web.telemetry-path=/a/b", "--web.max-requests=3", "--web.disable-exporter-metrics", "--web.openmetrics-created", "--web.trace-url=http://localhost:1/a?trace={id}")
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Projects[0].Opper; got.Header.Get("X-More") != "of this" || got.UserAgent != "opper_exporter/dev" {
		t.Errorf("client: %+v", got)
	}
	if got := cfg.Projects[0]; got.UpstreamURL != "https://opper.example/v2" || got.Concurrency != 7 || got.SweepPause != time.Second/2 || !slices.Equal(got.Aggregate.Success, []string{"ok", "fine", "done"}) {
		t.Errorf("collector: %+v", got)
	}
	want := scrape.Config{DisableExporterMetrics: true, OpenMetricsCreated: true, MaxRequests: 3, SyncOnScrape: true}
	want.Program, want.Version, want.TelemetryPath, want.TraceURL = "opper_exporter", "dev", "/a/b", "http://localhost:1/a?trace={id}"
	if cfg.Scrape != want {
		t.Errorf("scrape: %+v, want %+v", cfg.Scrape, want)
	}
}

// A header of a flag replaces that of the file.
func TestHTTPConfigFileReachesTheClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "http.yml")
	write(t, path, []byte("enable_http2: false\nhttp_headers:\n  X-Both: {values: [file]}\n  X-File: {values: [file]}\n"))
	cfg, err := parse(withKey, "--opper.http-config-file="+path, "--opper.header=x-both: flag")
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"X-Both": {"flag"}, "X-File": {"file"}}
	if got := cfg.Projects[0].Opper; !got.Transport.DisableHTTP2 || !maps.EqualFunc(got.Header, want, slices.Equal) {
		t.Errorf("client: %+v, want %v", got, want)
	}
}

// Documentation is made from the model of the flags.
func TestEveryFlagHasHelp(t *testing.T) {
	app, _ := NewApplication()
	var names []string
	for _, flag := range app.Model().Flags {
		names = append(names, flag.Name)
		if flag.Help == "" {
			t.Errorf("--%s has no help", flag.Name)
		}
	}
	for _, command := range app.Model().FlattenedCommands() {
		flags := command.Flags
		if command.Help == "" || slices.ContainsFunc(flags, func(f *kingpin.FlagModel) bool { return f.Help == "" }) {
			t.Errorf("%s or one of its flags has no help", command.FullCommand)
		}
	}
	for _, name := range []string{"opper.url", "collector.initial-lookback", "storage.path", "web.listen-address", "log.level"} {
		if !slices.Contains(names, name) {
			t.Errorf("no flag --%s", name)
		}
	}
}
