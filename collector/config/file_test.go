package config

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// files writes files into a directory, the configuration file opper.yml among
// them, and returns its path.
func files(t testing.TB, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte(text))
	}
	return filepath.Join(dir, "opper.yml")
}

func withVariables(name string) string {
	return map[string]string{"KEY_A": "op-A", "KEY_B": "op-B", "KEY_C": "op-C", "MANAGEMENT": "op-mak-SECRET", "BAD": "op SECRET"}[name]
}

func parseFile(path string, args ...string) (*Validated, error) {
	return parse(withVariables, append([]string{"--config.file=" + path}, args...)...)
}

// Flags are the defaults of each project, and its fields take what flags take.
func TestFileListsProjects(t *testing.T) {
	path := files(t, map[string]string{
		"keys/a": "op-A1\n", "http.yml": "http_headers: {X-File: {values: [file]}}\n", "ca.yml": "enable_http2: false\n",
		"opper.yml": `
projects:
  - name: a
    api_key_file: keys/a
  - api_key_env: KEY_B
    name: b
    url: https://b.example/v3
    headers: {X-Team: agents, X-Number: 07}
    http_client: ca.yml
    name_filter: yes
    timeout: 9s
    concurrency: 3
    max_requests_per_second: 0
    interval: 1m
    sweep_interval: 0s
    initial_lookback: 1d
    settle_delay: 5s
    abandon_after: 2h
    success_status: Fine
    failure_status: [bad, worse]
    trace_name_include: a.*
    trace_name_exclude: ""
    trace_name_rewrites: ['user-\d+=user', "(x)=$1"]
    max_trace_names: 500
    trace_name_expiry: 1d
    usage_interval: 0s
  - {name: c, api_key_env: KEY_C, headers: [], http_client: {enable_http2: false}, initial_lookback: all}
`,
	})
	cfg, err := parseFile(path, "--collector.interval=7s", "--opper.header=X-Flag: 1", "--opper.http-config-file="+filepath.Join(filepath.Dir(path), "http.yml"),
		"--collector.trace-name-exclude=z", "--collector.initial-lookback=3h", "--collector.trace-name-rewrite=flag=x", "--collector.max-models=7")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := cfg.Projects[0], cfg.Projects[1], cfg.Projects[2]
	if a.Name != "a" || a.KeyOrigin != "file "+filepath.Join(filepath.Dir(path), "keys/a") || a.Interval != 7*time.Second || a.UpstreamURL != "https://api.opper.ai/v2" ||
		!maps.EqualFunc(a.Opper.Header, http.Header{"X-Flag": {"1"}, "X-File": {"file"}}, slices.Equal) || a.Aggregate.MaxNames != 200 || len(a.Aggregate.Rewrites) != 1 ||
		a.UsageInterval != time.Minute || !a.Aggregate.Costs || a.MaxModels != 7 || *a.InitialLookback != 3*time.Hour || a.Aggregate.Exclude == nil || a.SweepPause != 800*time.Millisecond {
		t.Errorf("a: %+v", a)
	}
	if b.Name != "b" || b.KeyOrigin != "environment variable KEY_B" || b.UpstreamURL != "https://b.example/v3" || !b.Opper.Transport.DisableHTTP2 ||
		!maps.EqualFunc(b.Opper.Header, http.Header{"X-Team": {"agents"}, "X-Number": {"07"}}, slices.Equal) ||
		b.Opper.Name != "yes" || b.Opper.Timeout != 9*time.Second || b.Concurrency != 3 || b.SweepPause != 0 ||
		b.Interval != time.Minute || b.SweepInterval != 0 || *b.InitialLookback != 24*time.Hour || b.SettleDelay != 5*time.Second || b.AbandonAfter != 2*time.Hour ||
		!slices.Equal(b.Aggregate.Success, []string{"fine"}) || !slices.Equal(b.Aggregate.Failure, []string{"bad", "worse"}) ||
		b.Aggregate.Include == nil || b.Aggregate.Exclude != nil || len(b.Aggregate.Rewrites) != 2 || b.Aggregate.MaxNames != 500 || b.Aggregate.NameExpiry != 24*time.Hour || b.UsageInterval != 0 || b.Aggregate.Costs || b.MaxModels != 7 {
		t.Errorf("b: %+v", b)
	}
	if c.Interval != 7*time.Second || len(c.Opper.Header) != 0 || !c.Opper.Transport.DisableHTTP2 || c.InitialLookback != nil || len(c.Aggregate.Rewrites) != 1 {
		t.Errorf("c: %+v", c)
	}
}

// An entry of the list takes the place of the key file of its name, and the key in it if it
// names none.
func TestEntryOverridesKeyFile(t *testing.T) {
	path := files(t, map[string]string{
		"keys/a": "op-A1", "keys/b": "op-B1", "keys/c": "", "keys/d": "op-D1",
		"opper.yml": "project_key_directories: [keys]\nprojects:\n  - {name: b, interval: 2m}\n  - {name: c, api_key_env: KEY_C}\n",
	})
	cfg, err := parseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range cfg.Projects {
		got = append(got, fmt.Sprint(p.Name, " ", p.Interval, " ", strings.ReplaceAll(p.KeyOrigin, filepath.Dir(path), "DIR")))
	}
	slices.Sort(got)
	if want := []string{"a 30s file DIR/keys/a", "b 2m0s file DIR/keys/b", "c 30s environment variable KEY_C", "d 30s file DIR/keys/d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFileItselfIsRefused(t *testing.T) {
	path := files(t, map[string]string{"opper.yml": "projects: [{name: a, api_key_env: KEY_A}]\n", "large.yml": strings.Repeat("#", 8<<20+1)})
	dir := filepath.Dir(path)
	for name, c := range map[string]struct {
		path, want string
		args       []string
		variable   string
	}{
		"missing":     {filepath.Join(dir, "none.yml"), "--config.file: " + dir + "/none.yml: no such file or directory", nil, ""},
		"directory":   {dir, "--config.file: " + dir + ": expected a regular file of at most 8 MiB", nil, ""},
		"large":       {filepath.Join(dir, "large.yml"), "--config.file: " + dir + "/large.yml: expected a regular file of at most 8 MiB", nil, ""},
		"project":     {path, "--config.file: cannot be combined with --opper.project and --opper.api-key-file, as each project has a name and a key of its own", []string{"--opper.project=default"}, ""},
		"key file":    {path, "--config.file: cannot be combined with --opper.project and --opper.api-key-file, as each project has a name and a key of its own", []string{"--opper.api-key-file=a"}, ""},
		"environment": {path, "--config.file: cannot be combined with OPPER_API_KEY in the environment, as each project has a key of its own", nil, "OPPER_API_KEY"},
		"bearer":      {path, "--config.file: cannot be combined with OPPER_HTTP_BEARER in the environment, as each project has a key of its own", nil, "OPPER_HTTP_BEARER"},
	} {
		t.Run(name, func(t *testing.T) {
			getenv := func(name string) string {
				if name == c.variable {
					return "op-SECRET"
				}
				return withVariables(name)
			}
			if _, err := parse(getenv, append(c.args, "--config.file="+c.path)...); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestManagementKeyIsRefused(t *testing.T) {
	const want = "the key is a management key (op-mak-…), which cannot list traces: expected a project key"
	file := writeFile(t, "key", "op-mak-SECRET")
	for _, c := range []struct {
		variable, want string
		args           []string
	}{
		{"OPPER_API_KEY", "OPPER_API_KEY: " + want, nil},
		{"", "--opper.api-key-file: " + file + ": " + want, []string{"--opper.api-key-file=" + file}},
	} {
		if _, err := parse(func(name string) string { return map[string]string{c.variable: "op-mak-SECRET"}[name] }, c.args...); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// A mounted Secret is a directory of links, which lead through ..data to one of
// hidden directories.
func TestDirectoryOfKeys(t *testing.T) {
	odd := []string{"a b", "a'b\"c", "größe", "日本", "A", "a", "=x", "a~", "op-team", strings.Repeat("n", 255)}
	content := map[string]string{
		"opper.yml":     "projects: []\nproject_key_directories: [secret, empty]\n",
		"empty/.hidden": "", "secret/.swp": "", "secret/..2026/hidden": "", "secret/lost+found/x": "",
	}
	for i, name := range odd {
		content["secret/..2026/"+name] = fmt.Sprintf("op-%d", i)
	}
	path := files(t, content)
	dir := filepath.Join(filepath.Dir(path), "secret")
	link := func(to, from string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	link("..2026", "..data")
	for _, name := range odd {
		link(filepath.Join("..data", name), name)
	}
	cfg, err := parseFile(path, "--collector.interval=9s")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(odd)
	if names := projectNames(cfg.Projects); !slices.Equal(names, odd) || cfg.Projects[0].Interval != 9*time.Second || cfg.Projects[0].KeyOrigin != "file "+filepath.Join(dir, odd[0]) {
		t.Errorf("got %q, %+v", names, cfg.Projects[0])
	}
	link("nowhere", "broken")
	if _, err := cfg.Reload(); err == nil || err.Error() != path+": line 2: project_key_directories[0]: "+dir+"/broken: no such file or directory" {
		t.Errorf("got %v", err)
	}
	link("..data/a", "\xff")
	if err := os.Remove(filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Reload(); err == nil || err.Error() != path+`: line 2: project_key_directories[0]: "`+dir+`/\xff" as the name of a project: expected UTF-8 text that is not empty, got "\xff"` {
		t.Errorf("got %v", err)
	}
}

func projectNames(projects []Project) []string {
	var names []string
	for _, p := range projects {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// Names are what they are: other case or form is another project.
func TestOddNames(t *testing.T) {
	names := []string{"a", "A", "team/checkout", "a b", " a", `"'`, "größe", "gro\u0308ße", "日本", "\u202e", "..", "line\nbreak", "-", "yes", "0x10", "~x", strings.Repeat("ü", 150)}
	var file strings.Builder
	file.WriteString("projects:\n")
	environment := map[string]string{}
	for i, name := range names {
		variable := fmt.Sprintf("K%d", i)
		environment[variable] = fmt.Sprintf("op-%d", i)
		_, _ = fmt.Fprintf(&file, "  - {api_key_env: %s, name: %q}\n", variable, name)
	}
	path := files(t, map[string]string{"opper.yml": file.String()})
	cfg, err := parse(func(name string) string { return environment[name] }, "--config.file="+path)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range cfg.Projects {
		if p.Name != names[i] {
			t.Errorf("got %q, want %q", p.Name, names[i])
		}
	}
}

// One key may list different traces.
func TestOneKeyWithFilters(t *testing.T) {
	path := files(t, map[string]string{"opper.yml": `
projects:
  - &a {name: a, api_key_env: KEY_A}
  - {name: b, api_key_env: KEY_A, name_filter: b}
  - {name: c, api_key_env: KEY_A, url: 'https://c.example'}
`})
	if cfg, err := parseFile(path); err != nil || len(cfg.Projects) != 3 {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

// Reload reads everything again, and tells what changed by its digest.
func TestReload(t *testing.T) {
	path := files(t, map[string]string{
		"keys/a": "op-A", "keys/b": "op-B",
		"opper.yml": "projects:\n  - {name: c, api_key_env: KEY_C}\nproject_key_directories: [keys]\n",
	})
	cfg, err := parseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	digests := func(projects []Project) map[string]string {
		digests := map[string]string{}
		for _, p := range projects {
			digests[p.Name] = p.Digest
		}
		return digests
	}
	first := digests(cfg.Projects)
	write(t, filepath.Join(filepath.Dir(path), "keys", "d"), []byte("op-D"))
	write(t, filepath.Join(filepath.Dir(path), "keys", "b"), []byte("op-B2")) // another key is no other project
	write(t, path, []byte("projects:\n  - {name: c, api_key_env: KEY_C, interval: 1h}\nproject_key_directories: [keys]\n"))
	if err := os.Remove(filepath.Join(filepath.Dir(path), "keys", "a")); err != nil {
		t.Fatal(err)
	}
	projects, err := cfg.Reload()
	if err != nil {
		t.Fatal(err)
	}
	second := digests(projects)
	if !slices.Equal(projectNames(projects), []string{"b", "c", "d"}) || second["b"] != first["b"] || second["c"] == first["c"] {
		t.Errorf("got %v, after %v", second, first)
	}
	write(t, path, nil)
	if projects, err := cfg.Reload(); err == nil {
		t.Errorf("an empty file became %+v", projects)
	}
	if cfg, err := parse(withKey); err != nil || cfg.Reload != nil {
		t.Errorf("without --config.file: %v, %v", cfg, err)
	}
}

func TestConfigCheck(t *testing.T) {
	path := files(t, map[string]string{"keys/a\tb": "op-SECRET", "opper.yml": `
projects:
  - {name: größe, api_key_env: KEY_A, interval: 0s, name_filter: x, url: 'https://b.example'}
project_key_directories: [keys]
`})
	var out bytes.Buffer
	cfg, done, err := Parse([]string{"--config.file=" + path, "--config.check"}, withVariables, &out)
	want := `PROJECT  URL                      NAME FILTER  INTERVAL   KEY FROM
größe    https://b.example/v2     x            on scrape  environment variable KEY_A
"a\tb"   https://api.opper.ai/v2  -            30s        "file DIR/keys/a\tb"
configuration is valid: 2 projects
`
	if got := strings.ReplaceAll(out.String(), filepath.Dir(path), "DIR"); cfg != nil || !done || err != nil || got != want {
		t.Errorf("%v, %t, %v, %s", cfg, done, err, got)
	}
	out.Reset()
	if _, done, err := Parse([]string{"--config.check"}, withKey, &out); !done || err != nil || !strings.Contains(out.String(), "environment variable OPPER_API_KEY") || strings.Contains(out.String(), testKey) {
		t.Errorf("flags alone: %t, %v, %s", done, err, out.String())
	}
	write(t, path, []byte("projects: a"))
	if _, done, err := Parse([]string{"--config.file=" + path, "--config.check"}, withVariables, io.Discard); done || err == nil {
		t.Errorf("a bad file: %t, %v", done, err)
	}
}

// What the documentation shows to paste is a configuration.
func TestUpstreamURLs(t *testing.T) {
	var projects []Project
	if got := UpstreamURLs(projects); got != "" {
		t.Errorf("got %q without a project", got)
	}
	for _, n := range []int{0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11} {
		projects = append(projects, Project{UpstreamURL: fmt.Sprint("url", n)})
	}
	if got := UpstreamURLs(projects[:4]); got != "url0, url1, url2" {
		t.Errorf("got %q, want each once", got)
	}
	if got := UpstreamURLs(projects); strings.Count(got, "url") != 10 || !strings.HasSuffix(got, ", and 2 more") {
		t.Errorf("got %q, want ten of twelve", got)
	}
}

func TestDocumentedFile(t *testing.T) {
	document, err := os.ReadFile("../../deploy/docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(document), "## Many projects: file\n\n```yaml\n")
	example, _, _ := strings.Cut(after, "```\n")
	path := files(t, map[string]string{"opper.yml": example, "keys/checkout": "op-A", "more_keys/billing": "op-B"})
	cfg, err := parse(func(name string) string { return map[string]string{"SUPPORT_KEY": "op-C"}[name] }, "--config.file="+path)
	if err != nil || !slices.Equal(projectNames(cfg.Projects), []string{"billing", "checkout", "support"}) {
		t.Errorf("%v in\n%s", err, example)
	}
}

// Equal settings of the HTTP client have one ID, so that connections can be shared.
func TestEqualHTTPClientsHaveOneID(t *testing.T) {
	path := files(t, map[string]string{
		"http.yml": "enable_http2: false\n",
		"opper.yml": `
projects:
  - {name: a, api_key_env: KEY_A, http_client: http.yml}
  - {name: b, api_key_env: KEY_B, http_client: ./http.yml}
  - {name: c, api_key_env: KEY_C, http_client: {enable_http2: true}}
  - {name: d, api_key_env: KEY_A, name_filter: d}
`,
	})
	cfg, err := parseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	id := func(i int) string { return cfg.Projects[i].Opper.Transport.ID }
	if id(0) == "" || id(0) != id(1) || id(2) == id(0) || id(3) != "" {
		t.Errorf("got %q, %q, %q, %q", id(0), id(1), id(2), id(3))
	}
}

// An inline http_client may repeat what stands elsewhere in the file.
func TestAliasInHTTPClient(t *testing.T) {
	path := files(t, map[string]string{"opper.yml": "projects:\n  - {name: a, api_key_env: KEY_A, url: &u 'https://proxy.example', http_client: {proxy_url: *u}}\n" +
		"  - {name: b, api_key_env: KEY_B, http_client: &h {proxy_url: *u}}\n  - {name: c, api_key_env: KEY_C, http_client: *h}\n"})
	if _, err := parseFile(path); err != nil {
		t.Error(err)
	}
}
