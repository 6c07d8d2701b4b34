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
  - {name: c, api_key_env: KEY_C, headers: [], http_client: {enable_http2: false}, initial_lookback: all}
`,
	})
	cfg, err := parseFile(path, "--collector.interval=7s", "--opper.header=X-Flag: 1", "--opper.http-config-file="+filepath.Join(filepath.Dir(path), "http.yml"),
		"--collector.trace-name-exclude=z", "--collector.initial-lookback=3h", "--collector.trace-name-rewrite=flag=x")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := cfg.Projects[0], cfg.Projects[1], cfg.Projects[2]
	if a.Name != "a" || a.KeyOrigin != "file "+filepath.Join(filepath.Dir(path), "keys/a") || a.Interval != 7*time.Second || a.UpstreamURL != "https://api.opper.ai/v2" ||
		!maps.EqualFunc(a.Opper.Header, http.Header{"X-Flag": {"1"}, "X-File": {"file"}}, slices.Equal) || a.Aggregate.MaxNames != 200 || len(a.Aggregate.Rewrites) != 1 ||
		*a.InitialLookback != 3*time.Hour || a.Aggregate.Exclude == nil || a.SweepPause != 800*time.Millisecond {
		t.Errorf("a: %+v", a)
	}
	if b.Name != "b" || b.KeyOrigin != "environment variable KEY_B" || b.UpstreamURL != "https://b.example/v3" || !b.Opper.Transport.DisableHTTP2 ||
		!maps.EqualFunc(b.Opper.Header, http.Header{"X-Team": {"agents"}, "X-Number": {"07"}}, slices.Equal) ||
		b.Opper.Name != "yes" || b.Opper.Timeout != 9*time.Second || b.Concurrency != 3 || b.SweepPause != 0 ||
		b.Interval != time.Minute || b.SweepInterval != 0 || *b.InitialLookback != 24*time.Hour || b.SettleDelay != 5*time.Second || b.AbandonAfter != 2*time.Hour ||
		!slices.Equal(b.Aggregate.Success, []string{"fine"}) || !slices.Equal(b.Aggregate.Failure, []string{"bad", "worse"}) ||
		b.Aggregate.Include == nil || b.Aggregate.Exclude != nil || len(b.Aggregate.Rewrites) != 2 || b.Aggregate.MaxNames != 500 || b.Aggregate.NameExpiry != 24*time.Hour {
		t.Errorf("b: %+v", b)
	}
	if c.Interval != 7*time.Second || len(c.Opper.Header) != 0 || !c.Opper.Transport.DisableHTTP2 || c.InitialLookback != nil || len(c.Aggregate.Rewrites) != 1 {
		t.Errorf("c: %+v", c)
	}
}

const key = ", api_key_env: KEY_A}"

var badFiles = map[string]struct{ file, want string }{
	"empty":              {"", "line 1: expected projects, project_key_directories, or both"},
	"only a comment":     {"# later\n", "line 1: expected projects, project_key_directories, or both"},
	"null":               {"null\n", "line 1: expected fields such as projects"},
	"list":               {"- a\n", "line 1: expected fields such as projects"},
	"key alone":          {"op-SECRET\n", "line 1: expected fields such as projects"},
	"unknown section":    {"projects: []\nproject: []\n", `line 2: unknown field "project", did you mean "projects"?`},
	"section twice":      {"projects: []\nprojects: []\n", "line 2: projects is already set in line 1"},
	"no list":            {"projects: {name: a}\n", "line 1: projects: expected a list"},
	"section of nothing": {"projects:\n", "line 1: projects: expected a list"},
	"project is a text":  {"projects: [op-SECRET]\n", "line 1: projects[0]: expected fields such as name"},
	"two documents":      {"projects: []\n---\nprojects: []\n", "line 2: expected one document"},
	"syntax":             {"projects:\n  - name: a: b\n", "line 2: mapping values are not allowed in this context"},
	"not closed":         {"projects: [\n", "line 1: did not find expected node content"},
	"unknown anchor":     {"projects: *op-SECRET\n", "unknown anchor … referenced"},
	"tab":                {"projects:\n\t- name: a\n", "line 2: found character that cannot start any token"},
	"not UTF-8":          {"projects: \xff\n", "invalid leading UTF-8 octet"},

	"no name":            {"projects:\n  - api_key_env: KEY_A\n", "line 2: projects[0]: expected a name"},
	"empty name":         {"projects: [{name: ''" + key + "]\n", `line 1: projects[0] "": name: expected UTF-8 text that is not empty, got ""`},
	"long name":          {"projects: [{name: " + strings.Repeat("n", 1025) + key + "]\n", `line 1: projects[0] "` + strings.Repeat("n", 1025) + `": name: expected at most 1024 bytes, got 1025`},
	"name is a list":     {"projects: [{name: [a]" + key + "]\n", "line 1: projects[0]: name: expected a single value"},
	"name of nothing":    {"projects: [{name: " + key + "]\n", "line 1: projects[0]: name: expected a value"},
	"binary name":        {"projects: [{name: !!binary YQ==" + key + "]\n", "line 1: projects[0]: name: expected a single value"},
	"unknown field":      {"projects:\n  - name: a\n    api_key_env: KEY_A\n    intervall: 1s\n", `line 4: projects[0] "a": unknown field "intervall", did you mean "interval"?`},
	"key in the file":    {"projects:\n  - name: a\n    api_key: op-SECRET\n", `line 3: projects[0] "a": unknown field "api_key", did you mean "api_key_file"?`},
	"key as a field":     {"projects:\n  - name: a\n    op-ABCDEFGHIJ0123456789: a\n", `line 3: projects[0] "a": unknown field "op-…"`},
	"key as a value":     {"projects:\n  - name: a\n    interval: op-ABCDEFGHIJ0123456789\n", `line 3: projects[0] "a": interval: expected a duration such as 30s or 1d, got "op-…"`},
	"key as a name":      {"projects:\n  - name: op-mak-SECRET\n", `line 2: projects[0] "op-…": expected either api_key_file or api_key_env`},
	"key as its file":    {"projects:\n  - name: a\n    api_key_file: op-SECRET\n", `line 3: projects[0] "a": api_key_file: no such file or directory`},
	"key as a variable":  {"projects:\n  - name: a\n    api_key_env: op-SECRET\n", `line 3: projects[0] "a": api_key_env: expected the name of an environment variable`},
	"variable unset":     {"projects:\n  - name: a\n    api_key_env: SECRET\n", `line 3: projects[0] "a": api_key_env: expected the name of an environment variable that is set`},
	"field twice":        {"projects:\n  - name: a\n    interval: 1s\n    interval: 2s\n", `line 4: projects[0] "a": interval is already set in line 3`},
	"no key":             {"projects:\n  - interval: 1s\n    name: a\n", `line 2: projects[0] "a": expected either api_key_file or api_key_env`},
	"two keys":           {"projects:\n  - name: a\n    api_key_file: keys/a\n    api_key_env: KEY_A\n", `line 2: projects[0] "a": expected either api_key_file or api_key_env`},
	"empty key file":     {"projects:\n  - name: a\n    api_key_file: empty\n", `line 3: projects[0] "a": api_key_file: the key is empty`},
	"key is a directory": {"projects:\n  - name: a\n    api_key_file: keys\n", `line 3: projects[0] "a": api_key_file: not a regular file`},
	"management key":     {"projects:\n  - name: a\n    api_key_file: management\n", `line 3: projects[0] "a": api_key_file: the key is a management key (op-mak-…), which cannot list traces: expected a project key`},
	"management key set": {"projects:\n  - name: a\n    api_key_env: MANAGEMENT\n", `line 3: projects[0] "a": api_key_env: the key is a management key (op-mak-…), which cannot list traces: expected a project key`},
	"bad variable":       {"projects:\n  - name: a\n    api_key_env: BAD\n", `line 3: projects[0] "a": api_key_env: the key has a line break, a blank, or a character that is not visible ASCII inside`},

	"interval":         {"projects:\n  - name: a\n    interval: 30\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a duration such as 30s or 1d, got "30"`},
	"lookback":         {"projects:\n  - name: a\n    initial_lookback: some\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": initial_lookback: expected all, or a duration such as 6h, got "some"`},
	"list of one":      {"projects:\n  - name: a\n    interval: [30s]\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a single value`},
	"no value":         {"projects:\n  - name: a\n    interval:\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a value`},
	"names":            {"projects:\n  - name: a\n    max_trace_names: 1.5\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": max_trace_names: expected a whole number of at least 1, got "1.5"`},
	"regular":          {"projects:\n  - name: a\n    trace_name_include: (\n    api_key_env: KEY_A\n", "line 3: projects[0] \"a\": trace_name_include: expected a regular expression: error parsing regexp: missing closing ): `(`"},
	"rewrite":          {"projects:\n  - name: a\n    api_key_env: KEY_A\n    trace_name_rewrites: [a=b, c]\n", `line 4: projects[0] "a": trace_name_rewrites: expected 'REGEX=REPLACEMENT', got "c"`},
	"rewrite fields":   {"projects:\n  - name: a\n    api_key_env: KEY_A\n    trace_name_rewrites: {a: b}\n", `line 4: projects[0] "a": trace_name_rewrites: expected a list`},
	"nested list":      {"projects:\n  - name: a\n    api_key_env: KEY_A\n    headers: [[A: b]]\n", `line 4: projects[0] "a": headers: expected a single value`},
	"url":              {"projects:\n  - name: a\n    api_key_env: KEY_A\n    url: https://me:SECRET@a\n", `line 4: projects[0] "a": url: must not contain a user or password`},
	"plaintext":        {"projects:\n  - name: a\n    api_key_env: KEY_A\n    url: http://a.example\n", `line 4: projects[0] "a": url: http:// sends the key to a.example unencrypted, which needs --opper.allow-plaintext`},
	"authorization":    {"projects:\n  - name: a\n    api_key_env: KEY_A\n    headers: {authorization: op-SECRET}\n", `line 4: projects[0] "a": headers: cannot set Authorization, which carries the key`},
	"headers":          {"projects:\n  - name: a\n    api_key_env: KEY_A\n    headers: op-SECRET\n", `line 4: projects[0] "a": headers: expected 'Name: value'`},
	"both lists":       {"projects:\n  - name: a\n    api_key_env: KEY_A\n    failure_status: [ok]\n", `line 4: projects[0] "a": failure_status: "ok" is also a --collector.success-status`},
	"both, by a flag":  {"projects:\n  - name: a\n    api_key_env: KEY_A\n    success_status: [error]\n", `line 2: projects[0] "a": --collector.failure-status: "error" is also a --collector.success-status`},
	"http file":        {"projects:\n  - name: a\n    api_key_env: KEY_A\n    http_client: none.yml\n", `line 4: projects[0] "a": http_client: DIR/none.yml: no such file or directory`},
	"http field":       {"projects:\n  - name: a\n    api_key_env: KEY_A\n    http_client:\n      proxy: SECRET\n", `line 4: projects[0] "a": http_client: field proxy not found in type config.plain`},
	"http credentials": {"projects:\n  - name: a\n    api_key_env: KEY_A\n    http_client: {basic_auth: {username: a, password: SECRET}}\n", `line 4: projects[0] "a": http_client: basic_auth: not supported, as the API key authenticates each request`},
	"http list":        {"projects:\n  - name: a\n    api_key_env: KEY_A\n    http_client: []\n", `line 4: projects[0] "a": http_client: expected a single value`},

	"name twice":   {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: a, api_key_env: KEY_B}\n", `line 3: projects[1] "a": the name is also that of projects[0] "a"`},
	"key twice":    {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: b, api_key_file: keys/a, url: 'https://api.opper.ai/'}\n", `line 3: projects[1] "b": the key is also that of projects[0] "a", with the same URL and name filter: their traces would be counted twice`},
	"in directory": {"projects:\n  - {name: a, api_key_env: KEY_B}\nproject_key_directories: [keys]\n", `line 3: project_key_directories[0]: DIR/keys/a: the name is also that of projects[0] "a"`},

	"no directory":      {"project_key_directories:\n  - none\n", "line 2: project_key_directories[0]: DIR/none: no such file or directory"},
	"empty directory":   {"project_key_directories: ['']\n", "line 1: project_key_directories[0]: expected a directory"},
	"file as directory": {"project_key_directories: [empty]\n", "line 1: project_key_directories[0]: DIR/empty: not a directory"},
	"bad key":           {"project_key_directories: [bad]\n", "line 1: project_key_directories[0]: DIR/bad/b: the key is empty"},
	"directory twice":   {"project_key_directories: [keys, keys/]\n", "line 1: project_key_directories[1]: DIR/keys/a: the name is also that of project_key_directories[0]: DIR/keys/a"},
	"directory fields":  {"project_key_directories: [{path: a}]\n", "line 1: project_key_directories[0]: expected a single value"},
}

// A file that cannot be used is refused in one line, which says where and what.
func TestBadFileIsRefused(t *testing.T) {
	for name, c := range badFiles {
		t.Run(name, func(t *testing.T) {
			path := files(t, map[string]string{"opper.yml": c.file, "keys/a": "op-A", "bad/a": "op-A", "bad/b": "", "empty": "", "management": "op-mak-SECRET\n"})
			_, err := parseFile(path)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), filepath.Dir(path), "DIR")
			if !strings.HasPrefix(got, "DIR/opper.yml: ") || strings.TrimPrefix(strings.TrimPrefix(got, "DIR/opper.yml: "), "yaml: ") != c.want {
				t.Errorf("got  %s\nwant DIR/opper.yml: %s", got, c.want)
			}
			if strings.Contains(got, "SECRET") && !strings.Contains(c.want, "SECRET") || strings.Contains(got, "\n") {
				t.Errorf("%s shows a key, or is more than one line", got)
			}
		})
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
		"project":     {path, "--config.file: excludes --opper.project and --opper.api-key-file, as each project has a name and a key of its own", []string{"--opper.project=default"}, ""},
		"key file":    {path, "--config.file: excludes --opper.project and --opper.api-key-file, as each project has a name and a key of its own", []string{"--opper.api-key-file=a"}, ""},
		"environment": {path, "--config.file: excludes OPPER_API_KEY in the environment, as each project has a key of its own", nil, "OPPER_API_KEY"},
		"bearer":      {path, "--config.file: excludes OPPER_HTTP_BEARER in the environment, as each project has a key of its own", nil, "OPPER_HTTP_BEARER"},
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
2 in all, the configuration is valid
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

// Equal settings of the HTTP client are read once, and can share connections.
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
