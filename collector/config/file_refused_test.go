package config

import (
	"path/filepath"
	"strings"
	"testing"
)

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
	"long name":          {"projects: [{name: " + strings.Repeat("n", 1025) + key + "]\n", `line 1: projects[0] "` + strings.Repeat("n", 100) + `": name: expected at most 1024 bytes, got 1025`},
	"name is a list":     {"projects: [{name: [a]" + key + "]\n", "line 1: projects[0]: name: expected a single value"},
	"name of nothing":    {"projects: [{name: " + key + "]\n", "line 1: projects[0]: name: expected a value"},
	"binary name":        {"projects: [{name: !!binary YQ==" + key + "]\n", "line 1: projects[0]: name: expected a single value"},
	"unknown field":      {"projects:\n  - name: a\n    api_key_env: KEY_A\n    intervall: 1s\n", `line 4: projects[0] "a": unknown field "intervall", did you mean "interval"?`},
	"key in the file":    {"projects:\n  - name: a\n    api_key: op-SECRET\n", `line 3: projects[0] "a": unknown field "api_key", did you mean "api_key_file"?`},
	"key as a field":     {"projects:\n  - name: a\n    op-ABCDEFGHIJ0123456789: a\n", `line 3: projects[0] "a": unknown field "op-…"`},
	"key as a value":     {"projects:\n  - name: a\n    interval: op-ABCDEFGHIJ0123456789\n", `line 3: projects[0] "a": interval: expected a duration such as 30s or 1d, got "op-…"`},
	"key as a name":      {"projects:\n  - name: op-mak-SECRET\n", `line 2: projects[0] "op-…": name: expected a name, got an API key`},
	"key as its file":    {"projects:\n  - name: a\n    api_key_file: op-SECRET\n", `line 3: projects[0] "a": api_key_file: no such file or directory`},
	"key as a variable":  {"projects:\n  - name: a\n    api_key_env: op-SECRET\n", `line 3: projects[0] "a": api_key_env: expected the name of an environment variable`},
	"variable unset":     {"projects:\n  - name: a\n    api_key_env: SECRET\n", `line 3: projects[0] "a": api_key_env: expected the name of an environment variable that is set`},
	"key in a header":    {"projects:\n  - name: a\n    api_key_env: KEY_A\n    headers:\n      X-Key: op-ABCDEFGHIJ0123456789\n", `line 5: API key in the file: expected it in a file that api_key_file names, or in a variable that api_key_env names`},
	"key for the proxy":  {"projects:\n  - name: a\n    api_key_env: KEY_A\n    http_client:\n      http_headers:\n        X-Key: {values: [op-ABCDEFGHIJ0123456789]}\n", `line 6: API key in the file: expected it in a file that api_key_file names, or in a variable that api_key_env names`},
	"key in a comment":   {"projects: []\n# op-mak-SECRET\n", `line 2: API key in the file: expected it in a file that api_key_file names, or in a variable that api_key_env names`},
	"key as known name":  {"projects:\n  - name: op-ABCDEFGHIJ0123456789\n    api_key_env: KEY_A\n", `line 2: projects[0] "op-…": name: expected a name, got an API key`},
	"key as a file name": {"project_key_directories: [named]\n", `line 1: project_key_directories[0]: "DIR/named/op-…" as the name of a project: expected a name, got an API key`},
	"field twice":        {"projects:\n  - name: a\n    interval: 1s\n    interval: 2s\n", `line 4: projects[0] "a": interval is already set in line 3`},
	"no key":             {"projects:\n  - interval: 1s\n    name: a\n", `line 2: projects[0] "a": expected api_key_file, api_key_env, or a file of that name in project_key_directories`},
	"two keys":           {"projects:\n  - name: a\n    api_key_file: keys/a\n    api_key_env: KEY_A\n", `line 2: projects[0] "a": expected either api_key_file or api_key_env`},
	"empty key file":     {"projects:\n  - name: a\n    api_key_file: empty\n", `line 3: projects[0] "a": api_key_file: the key is empty`},
	"key is a directory": {"projects:\n  - name: a\n    api_key_file: keys\n", `line 3: projects[0] "a": api_key_file: not a regular file`},
	"management key":     {"projects:\n  - name: a\n    api_key_file: management\n", `line 3: projects[0] "a": api_key_file: the key is a management key (op-mak-…), which cannot list traces: expected a project key`},
	"management key set": {"projects:\n  - name: a\n    api_key_env: MANAGEMENT\n", `line 3: projects[0] "a": api_key_env: the key is a management key (op-mak-…), which cannot list traces: expected a project key`},
	"bad variable":       {"projects:\n  - name: a\n    api_key_env: BAD\n", `line 3: projects[0] "a": api_key_env: the key contains whitespace or a character that is not visible ASCII`},

	"interval":         {"projects:\n  - name: a\n    interval: 30\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a duration such as 30s or 1d, got "30"`},
	"lookback":         {"projects:\n  - name: a\n    initial_lookback: some\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": initial_lookback: expected all, or a duration such as 6h, got "some"`},
	"list of one":      {"projects:\n  - name: a\n    interval: [30s]\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a single value`},
	"no value":         {"projects:\n  - name: a\n    interval:\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": interval: expected a value`},
	"names":            {"projects:\n  - name: a\n    max_trace_names: 1.5\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": max_trace_names: expected a whole number of at least 1, got "1.5"`},
	"usage":            {"projects:\n  - name: a\n    usage_interval: 5s\n    api_key_env: KEY_A\n", `line 3: projects[0] "a": usage_interval: expected at least 10s, or 0s to disable, got "5s"`},
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

	"name twice":    {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: a, api_key_env: KEY_B}\n", `line 3: projects[1] "a": the name is also that of projects[0] "a"`},
	"key twice":     {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: b, api_key_file: keys/a, url: 'https://api.opper.ai/'}\n", `line 3: projects[1] "b": the key is also that of projects[0] "a", with the same URL, headers and name filter: their traces would be counted twice`},
	"other version": {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: b, api_key_file: keys/a, url: 'https://api.opper.ai/v3/'}\n", `line 3: projects[1] "b": the key is also that of projects[0] "a", with the same URL, headers and name filter: their traces would be counted twice`},
	"twice, in dir": {"projects:\n  - {name: a, api_key_env: KEY_A}\n  - {name: a}\nproject_key_directories: [keys]\n", `line 3: projects[1] "a": the name is also that of projects[0] "a"`},
	"bad key taken": {"project_key_directories: [bad]\nprojects:\n  - {name: b}\n", `line 3: projects[0] "b": DIR/bad/b: the key is empty`},

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
			path := files(t, map[string]string{"opper.yml": c.file, "keys/a": "op-A", "bad/a": "op-A", "bad/b": "", "named/op-ABCDEFGHIJ0123456789": "op-A", "empty": "", "management": "op-mak-SECRET\n"})
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
