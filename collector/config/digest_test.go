package config

import (
	"fmt"
	"reflect"
	"regexp"
	"testing"

	"opper_exporter/opper"
)

// Whatever a project is made of changes its digest, so that no setting can be
// forgotten; what is only made when it runs does not exist yet.
func TestDigestCoversEveryField(t *testing.T) {
	cfg, err := parse(withKey, "--collector.trace-name-include=a", "--collector.trace-name-exclude=b", "--collector.trace-name-rewrite=a=b",
		"--collector.initial-lookback=1h", "--opper.header=A: b")
	if err != nil {
		t.Fatal(err)
	}
	project := cfg.Projects[0]
	before := digest(project)
	if before != project.Digest {
		t.Errorf("%s is not the digest of the project, %s", project.Digest, before)
	}
	changed := 0
	eachLeaf(t, "Project", reflect.ValueOf(&project).Elem(), func(path string, leaf reflect.Value, other reflect.Value) {
		old := reflect.New(leaf.Type()).Elem()
		old.Set(leaf)
		leaf.Set(other)
		if after := digest(project); after == before {
			t.Errorf("%s changes nothing", path)
		}
		leaf.Set(old)
		changed++
	})
	if digest(project) != before || changed < 30 {
		t.Errorf("%d fields changed, and the digest is %s, want %s", changed, digest(project), before)
	}
}

// eachLeaf calls change for each value in v, with another one of its type.
func eachLeaf(t *testing.T, path string, v reflect.Value, change func(path string, leaf, other reflect.Value)) {
	t.Helper()
	other := reflect.New(v.Type()).Elem()
	switch path {
	case "Project.Digest", "Project.Opper.Key":
		return
	case "Project.Opper.Observe", "Project.Opper.Received", "Project.Opper.Waited", "Project.Opper.Logger", "Project.Opper.Shared", "Project.Opper.Transports", "Project.Aggregate.Wall":
		if !v.IsNil() {
			t.Errorf("%s is set", path)
		}
		return
	case "Project.Opper.Transport":
		other.Set(reflect.ValueOf(opper.Transport{ID: "other"}))
		change(path, v, other)
		return
	}
	switch {
	case v.Type() == reflect.TypeFor[*regexp.Regexp]():
		change(path, v, other)
		change(path, v, reflect.ValueOf(regexp.MustCompile("other")))
		return
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachLeaf(t, path+"."+v.Type().Field(i).Name, v.Field(i), change)
		}
		return
	case v.Kind() == reflect.Pointer && v.IsNil():
		other.Set(reflect.New(v.Type().Elem()))
	case v.Kind() == reflect.Pointer:
		eachLeaf(t, path, v.Elem(), change) // other is nil
	case v.Kind() == reflect.Slice && v.Len() > 0:
		for i := range v.Len() {
			eachLeaf(t, fmt.Sprintf("%s[%d]", path, i), v.Index(i), change)
		}
		other.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case v.Kind() == reflect.Map:
		other.Set(reflect.MakeMap(v.Type()))
		other.SetMapIndex(reflect.ValueOf("Other"), reflect.Zero(v.Type().Elem()))
	case v.Kind() == reflect.String:
		other.SetString(v.String() + "other")
	case v.Kind() == reflect.Bool:
		other.SetBool(!v.Bool())
	case v.CanInt():
		other.SetInt(v.Int() + 1)
	case v.CanFloat():
		other.SetFloat(v.Float() + 1)
	default:
		t.Fatalf("%s: no other value of a %s", path, v.Type())
	}
	change(path, v, other)
}

var hexadecimal = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Each field of the file changes the digest, unless it says what holds anyway.
func TestDigestChangesWithEachField(t *testing.T) {
	values := map[string]string{
		"name": "other", "api_key_file": "keys/b", "api_key_env": "KEY_B", "url": "https://b.example", "headers": "{A: b}", "http_client": "{enable_http2: false}",
		"name_filter": "x", "timeout": "9s", "concurrency": "3", "max_requests_per_second": "7", "interval": "1m", "sweep_interval": "1h", "initial_lookback": "1d",
		"settle_delay": "5s", "abandon_after": "2h", "success_status": "fine", "failure_status": "bad", "trace_name_include": "a", "trace_name_exclude": "b",
		"trace_name_rewrites": "[a=b]", "max_trace_names": "500", "trace_name_expiry": "1d", "usage_interval": "2m",
	}
	// As the flags have it.
	defaults := map[string]string{
		"url": "https://api.opper.ai", "headers": "[]", "http_client": "''", "name_filter": "''", "timeout": "30s", "concurrency": "4", "max_requests_per_second": "5.0",
		"interval": "0.5m", "sweep_interval": "1d", "initial_lookback": "all", "settle_delay": "30s", "abandon_after": "60m", "success_status": "[SUCCESS, ok, completed]",
		"failure_status": "[error, 'failed,failure']", "trace_name_include": "''", "trace_name_exclude": "''", "trace_name_rewrites": "[]", "max_trace_names": "200", "trace_name_expiry": "30d", "usage_interval": "60s",
	}
	of := func(field, value string) string {
		t.Helper()
		set := map[string]string{"name": "a", "api_key_env": "KEY_A"}
		if field == "api_key_file" {
			delete(set, "api_key_env")
		}
		if field != "" {
			set[field] = value
		}
		file := "projects:\n  -"
		for field, value := range set {
			file += fmt.Sprintf(" %s: %s\n   ", field, value)
		}
		cfg, err := parseFile(files(t, map[string]string{"opper.yml": file, "keys/b": "op-A"}))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return cfg.Projects[0].Digest
	}
	before := of("", "")
	for _, field := range Fields {
		value, ok := values[field.Name]
		if !ok {
			t.Errorf("no value for %s", field.Name)
			continue
		}
		if after := of(field.Name, value); after == before || !hexadecimal.MatchString(after) {
			t.Errorf("%s: %s: the digest %q, was %q", field.Name, value, after, before)
		}
		if value, ok := defaults[field.Name]; ok {
			if after := of(field.Name, value); after != before {
				t.Errorf("%s: %s: another digest, though the flag says the same", field.Name, value)
			}
		}
	}
}
