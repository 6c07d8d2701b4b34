package aggregate

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// cut is what the contract says a name becomes that can't be shown as it is.
func cut(shown, raw string) string {
	return fmt.Sprintf("%s~%x", shown, sha256.Sum256([]byte(raw)))[:len(shown)+9]
}

func TestLabel(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for _, c := range []struct{ what, raw, want string }{
		{"plain", "agent", "agent"},
		{"spaces", " a b ", " a b "},
		{"empty", "", "(unnamed)"},
		{"reserved", "(unnamed)", `\(unnamed)`},
		{"reserved", "(other)", `\(other)`},
		{"not quite reserved", "(Other)", "(Other)"},
		{"backslash in front", `\x`, `\\x`},
		{"as escaped", `\(other)`, `\\(other)`},
		{"backslash inside", `a\b`, `a\b`},
		{"newline", "a\nb", "a\nb"},
		{"NUL", "a\x00b", "a\x00b"},
		{"quotes", `"a" 'b'`, `"a" 'b'`},
		{"just fits", long[:128], long[:128]},
		{"one byte too long", long[:129], cut(long[:119], long[:129])},
		{"fits only without its backslash", `\` + long[:127], cut(`\\`+long[:117], `\`+long[:127])},
		{"10 kB", long, cut(long[:119], long)},
		{"a rune across the cut", long[:118] + strings.Repeat("日", 9), cut(long[:118], long[:118]+strings.Repeat("日", 9))},
		{"a rune up to the cut", long[:116] + strings.Repeat("日", 9), cut(long[:116]+"日", long[:116]+strings.Repeat("日", 9))},
		{"invalid UTF-8", "a\xffb", cut("a\uFFFDb", "a\xffb")},
		{"half a rune", "a\xe6\x97", cut("a\uFFFD", "a\xe6\x97")},
		{"like a cut name", "a~0123abcd", cut("a~0123abcd", "a~0123abcd")},
		{"not like a cut name", "a~0123ABCD", "a~0123ABCD"},
	} {
		if got := Label(c.raw); got != c.want {
			t.Errorf("%s: Label(%.40q) = %q, want %q", c.what, c.raw, got, c.want)
		}
	}
}

// Another word for an empty name takes the place of the usual one, which can be a name.
func TestLabelOr(t *testing.T) {
	for raw, want := range map[string]string{"": "(none)", "(none)": `\(none)`, "(unnamed)": "(unnamed)", "(other)": `\(other)`, "gpt": "gpt"} {
		if got := LabelOr(raw, "(none)"); got != want {
			t.Errorf("LabelOr(%q) = %q, want %q", raw, got, want)
		}
	}
}

// No two names share a label, even if one of them is made to look like the
// label of the other.
func TestLabelsDiffer(t *testing.T) {
	long := strings.Repeat("y", 10_000)
	raws := []string{
		"", Unnamed, Other, "a", "b", "\xff", "\xfe", "\xff\xff", "a\xff", "\uFFFD", "a\uFFFD", "\x00", "\n", `"`, `\`,
		long, long + "1", long + "2", long[:128], long[:129], long[:118] + "日本語日本語", long[:117] + "日本語日本語",
	}
	known := map[string]bool{}
	for _, r := range raws {
		known[r] = true
	}
	for range 3 {
		for _, r := range raws {
			for _, look := range []string{Label(r), `\` + r, `\` + Label(r), strings.TrimPrefix(Label(r), `\`), r + "~0123abcd"} {
				if !known[look] {
					known[look] = true
					raws = append(raws, look)
				}
			}
		}
	}
	from := map[string]string{}
	for _, r := range raws {
		label := Label(r)
		if before, ok := from[label]; ok {
			t.Errorf("%q and %q share the label %q", before, r, label)
		}
		from[label] = r
		if label == "" || len(label) > maxLabel || !utf8.ValidString(label) {
			t.Errorf("Label(%q) = %q is no label", r, label)
		}
	}
	t.Logf("%d names", len(raws))
}

func TestRewrite(t *testing.T) {
	cfg := testConfig()
	cfg.Include = regexp.MustCompile("^(?s:[^x].*)$")
	cfg.Rewrites = []Rewrite{
		{regexp.MustCompile("^(?s:user-.*)$"), "user"},
		{regexp.MustCompile(`^(?s:(us)(er))$`), "$2$1"},
		{regexp.MustCompile("^(?s:dropped.*)$"), ""},
		{regexp.MustCompile("^(?s:rest)$"), Other},
		{regexp.MustCompile(`^(?s:\(unnamed\))$`), "null"},
	}
	s := New(cfg, now)
	for raw, want := range map[string]string{
		"user-1234-a": "erus", "user-\n": "erus", "user": "erus", "a user-1": "a user-1",
		"dropped": "null", "rest": `\(other)`, "": "null", "x": "", "user-" + strings.Repeat("x", 10_000): "erus",
	} {
		for range 2 { // the second time, it is known
			if got := s.resolve(raw); got.label != want || got.wanted != (want != "") {
				t.Errorf("%.20q becomes %+v, want %q", raw, got, want)
			}
		}
	}
	// However many names there are, not all are remembered.
	for i := range 3 * maxResolved {
		s.resolve(fmt.Sprint("name ", i))
	}
	if n := len(s.resolved); n > maxResolved {
		t.Errorf("%d names are remembered", n)
	}
}

// A bounded name is counted where the name itself is, and no two names become
// one by it.
func TestBoundName(t *testing.T) {
	long := strings.Repeat("z", 64<<10)
	raws := []string{"", "a", "\xff", `\`, Other, long[:maxLabel], long[:maxLabel+1], long[:maxName], long[:maxName+1], long, long + "1", `\` + long, "\xff" + long, long + "\xff"}
	for range 2 {
		for _, raw := range raws {
			raws = append(raws, BoundName(raw), BoundName(raw)+boundMark, Label(raw)+boundMark, Label(raw))
		}
	}
	cfg := testConfig()
	from := map[string]string{}
	for _, raw := range raws {
		name := BoundName(raw)
		if before, ok := from[name]; ok && before != raw {
			t.Errorf("%.150q and %.150q become %.150q", before, raw, name)
		}
		from[name] = raw
		if got := cfg.resolve(name).label; len(name) > maxName || got != Label(raw) {
			t.Errorf("%.150q, as %.150q, is counted under %q, want %q", raw, name, got, Label(raw))
		}
	}
}

// Expressions see a long name as its label, and up to a length as it is.
func TestExpressionsOfLongNames(t *testing.T) {
	cfg := testConfig()
	cfg.Exclude = regexp.MustCompile(`^(?s:.*-secret)$`)
	cfg.Rewrites = []Rewrite{{regexp.MustCompile(`^(?s:user-.*-(\w+))$`), "$1"}, {regexp.MustCompile(`^(?s:tenant-.*)$`), "tenant"}}
	xs := strings.Repeat("x", maxName)
	for raw, want := range map[string]string{
		"user-" + xs[:800] + "-chat": "chat",
		xs[:800] + "-secret":         "",
		"tenant-" + xs:               "tenant",
		xs + "-secret":               Label(xs + "-secret"),
	} {
		if got := cfg.resolve(BoundName(raw)).label; got != want {
			t.Errorf("%.20q becomes %q, want %q", raw, got, want)
		}
	}
}

// A cut status is none of those that are configured.
func TestBoundStatus(t *testing.T) {
	long := strings.Repeat("ok", 32<<10)
	cfg := testConfig()
	cfg.Success = []string{"ok", long[:64], long[:maxStatus-9], long[:maxStatus]}
	for raw, want := range map[string]Outcome{
		"OK": Success, long[:maxStatus]: Success, long[:maxStatus] + "x": Unknown, long: Unknown, "日" + long: Unknown,
	} {
		r := row("a")
		if r.Status = BoundStatus(raw); len(r.Status) > maxStatus || !utf8.ValidString(r.Status) {
			t.Errorf("%.20q becomes %q", raw, r.Status)
		}
		if got := New(cfg, now).outcome(&r, now); got != want {
			t.Errorf("%.20q counts as %v, want %v", raw, got, want)
		}
	}
}
