package opper

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testKey = "op-SECRET\"key\\0123456789"

// writeKey replaces the content of a key file in place, with a time of change
// of its own.
func writeKey(t *testing.T, path, content string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestFixedKey(t *testing.T) {
	source, err := FixedKey(" \t" + testKey + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := source.current(); got != testKey {
		t.Errorf("got %q, want it trimmed", got)
	}
	if got := source.renew(); got != testKey {
		t.Errorf("got %q after renewal, want the same", got)
	}
}

func TestKeyRejected(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"empty": "", "blank": " \n\t", "two_lines": "op-SECRET\nop-SECRET", "blank_inside": "Bearer op-SECRET", "bytes": "op-\xffSECRET", "control": "op-\x00SECRET", "mark": "\uFEFFop-SECRET",
	} {
		path := filepath.Join(dir, name)
		writeKey(t, path, content, time.Unix(1, 0))
		_, err := KeyFile(path)
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got file error %v, want one that names the file alone", name, err)
		}
		if _, err := FixedKey(content); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got error %v, want one without the key", name, err)
		}
	}
	for _, path := range []string{filepath.Join(dir, "missing"), dir} {
		if _, err := KeyFile(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error that names %s", err, path)
		}
	}
}

// A file that is more than a key says what it is taken for.
func TestKeyInQuotesOrBehindName(t *testing.T) {
	const (
		quoted   = "the key is in quotes, expected the key alone"
		named    = "the key follows a name, as in OPPER_API_KEY=..., expected the key alone"
		inside   = "the key is in brackets or a list, expected the key alone"
		variable = "the key is the name of a variable, expected the key alone"
	)
	for content, want := range map[string]string{
		`"op-SECRET"`: quoted, "'op-SECRET'\n": quoted, "`op-SECRET": quoted, `op-SECRET"`: quoted,
		"OPPER_API_KEY=op-SECRET\n": named, `OPPER_API_KEY="op-SECRET"`: named, "export OPPER_API_KEY=op-SECRET": named, "api_key: op-SECRET": named, "key = op-SECRET": named,
		"set OPPER_API_KEY=op-SECRET": named, "Bearer op-SECRET": named, "OPPER_API_KEY op-SECRET": named, "Authorization: Bearer op-SECRET": named,
		`{"key":"op-SECRET"}`: inside, "<op-SECRET>": inside, "op-SECRET,": inside, "op-SECRET;": inside, `{key: op-SECRET}`: inside,
		"$OPPER_API_KEY": variable,
	} {
		if _, err := FixedKey(content); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", content, err, want)
		}
	}
	for _, key := range []string{"op-SECRET=", "op-SEC=RET", "a.b=c"} {
		if _, err := FixedKey(key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestKeyFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	at := time.Unix(1_700_000_000, 0)
	writeKey(t, path, "first\n", at)
	source, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, want string) {
		t.Helper()
		if got := source.current(); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	check("as it was", "first")
	writeKey(t, path, "other\n", at.Add(time.Second))
	check("another time", "other")
	writeKey(t, path, "longer-one\n", at.Add(time.Second))
	check("another size", "longer-one")

	replacement := filepath.Join(filepath.Dir(path), "new")
	writeKey(t, replacement, "longer-two\n", at.Add(time.Second))
	if err := os.Rename(replacement, path); err != nil {
		t.Fatal(err)
	}
	check("another file", "longer-two")

	writeKey(t, path, "\n", at.Add(2*time.Second))
	check("emptied", "longer-two")
	writeKey(t, path, "a\nb\n", at.Add(3*time.Second))
	check("spoilt", "longer-two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("removed", "longer-two")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	check("not a file", "longer-two")
	if got := source.renew(); got != "longer-two" {
		t.Errorf("got %q after renewal, want the last good key", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeKey(t, path, "back\n", at.Add(3*time.Second))
	check("back", "back")

	writeKey(t, path, "same\n", at.Add(3*time.Second))
	check("a change that does not show", "back")
	if got := source.renew(); got != "same" {
		t.Errorf("got %q after renewal, want what the file has", got)
	}
}

func TestKeyFileSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	longest := strings.Repeat("k", 4095)
	writeKey(t, path, longest+"\n", time.Unix(1, 0))
	source, err := KeyFile(path)
	if err != nil || source.current() != longest {
		t.Fatalf("got %v", err)
	}
	// White space counts, too: it would be read as far as it goes.
	for _, content := range []string{longest + "kk", longest + "\n\n", "key" + strings.Repeat(" ", 1<<20)} {
		writeKey(t, path, content, time.Unix(2, 0))
		if _, err := KeyFile(path); err == nil || err.Error() != path+": more than 4096 bytes" {
			t.Errorf("%d bytes: got %v, want an error", len(content), err)
		}
		if source.current() != longest {
			t.Error("the last good key was dropped")
		}
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	source, err := FixedKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{URL: "http://localhost", Key: source}
	client, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	inside := struct{ key KeySource }{source}
	var texts []string
	for _, v := range []any{source, &source, opts, &opts, client, *client, client.WithRetries(1), inside, &inside} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
	}
	for _, v := range []any{source, map[string]any{"key": &source}, struct{ Key KeySource }{source}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	if got := fmt.Sprintf("%v %#v", source, source); got != "<key> <key>" {
		t.Errorf("got %q, want placeholders", got)
	}
	for _, text := range texts {
		if strings.Contains(text, "SECRET") || strings.Contains(text, fmt.Sprintf("%x", "SECRET")) || strings.Contains(text, fmt.Sprintf("%X", "SECRET")) {
			t.Errorf("the key shows in %s", text)
		}
	}
}

// A management key is refused, also when it replaces a project key.
func TestManagementKeyIsRefused(t *testing.T) {
	const want = "the key is a management key (op-mak-…), which cannot list traces: expected a project key"
	for _, text := range []string{"op-mak-SECRET", " op-mak-SECRET\n"} {
		if _, err := FixedKey(text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	path := filepath.Join(t.TempDir(), "key")
	writeKey(t, path, testKey, time.Unix(1, 0))
	source, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeKey(t, path, "op-mak-SECRET", time.Unix(2, 0))
	if got := source.current(); got != testKey {
		t.Errorf("got %q, want the last good key", got)
	}
}

func TestSumTellsKeysApart(t *testing.T) {
	sum := func(text string) any {
		key, err := FixedKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return key.Sum()
	}
	if sum("op-A") != sum(" op-A\n") || sum("op-A") == sum("op-B") {
		t.Error("equal keys differ, or others are equal")
	}
}

// A key file that changes to the key of another project, as by a reload that is refused,
// leaves its own in use, until the other one has no use for it any more.
func TestKeysAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write := func(path, key string, second int64) { writeKey(t, path, key, time.Unix(second, 0)) }
	var sources []KeySource
	for _, path := range []string{a, b} {
		write(path, "key-of-"+filepath.Base(path), 1)
		source, err := KeyFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, source)
	}
	KeepApart(sources)
	expect := func(what string, want ...string) {
		t.Helper()
		for i, source := range sources {
			if got := source.current(); got != want[i] {
				t.Errorf("%s: key %d is %q, want %q", what, i, got, want[i])
			}
			if got := source.renew(); got != want[i] {
				t.Errorf("%s: key %d is %q when it is renewed, want %q", what, i, got, want[i])
			}
		}
	}
	write(b, "key-of-a", 2)
	expect("the same", "key-of-a", "key-of-b")
	write(a, "rotated", 3)
	expect("given up by the other", "rotated", "key-of-a")
	write(b, "another", 4)
	write(a, "key-of-a", 4)
	sources[1].current()
	expect("given back", "key-of-a", "another")
}
