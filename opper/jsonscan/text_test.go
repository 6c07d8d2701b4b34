package jsonscan

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"opper_exporter/opper/jsonscan/jsonscantest"
)

// readText reads the first of two strings, and skips the other.
func readText(body []byte, size, limit int) (text string, ok bool, err error) {
	err = Read(&jsonscantest.Pieces{Rest: body, Size: size}, func(s *Scanner) {
		n := 0
		s.Array(func() {
			if n++; n > 1 {
				s.Skip()
				return
			}
			var b []byte
			b, ok = s.String(limit)
			text = string(b)
		})
	})
	return text, ok, err
}

// Strings that are cut, or are no text at all, remain as distinct as they were,
// however they are written.
func TestStringKeepsDistinct(t *testing.T) {
	const limit = 256
	x := strings.Repeat("x", maxHeld)
	digest := func(text string) string { return fmt.Sprintf("~%x", sha256.Sum256([]byte(text))) }
	for _, test := range []struct {
		written []string
		want    string
	}{
		{[]string{"a\xff", "\\u0061\xff"}, "a\xff"},
		{[]string{"a\xfe"}, "a\xfe"},
		{[]string{"a\uFFFD", `a\ufffd`, `a\uFFFD`}, "a\uFFFD"},
		{[]string{`\ud800`, `\uD800`}, "\xed\xa0\x80"},
		{[]string{`\ud801`}, "\xed\xa0\x81"},
		{[]string{`\udfff`}, "\xed\xbf\xbf"},
		{[]string{`\ud83d\ud83d\ude00\ude00`}, "\xed\xa0\xbd😀\xed\xb8\x80"},
		{[]string{`\ud83d\n\ude00`}, "\xed\xa0\xbd\n\xed\xb8\x80"},
		{[]string{`\ude00\ud83d`}, "\xed\xb8\x80\xed\xa0\xbd"},
		{[]string{"\xf0\x9f"}, "\xf0\x9f"},
		{[]string{`\"\\\/\b\f\n\r\t\u0000😀`, `\u0022\u005c\u002f\u0008\u000C\u000a\u000d\u0009\u0000\ud83d\uDE00`}, "\"\\/\b\f\n\r\t\x00😀"},
		{[]string{x[:limit], strings.Repeat(`\u0078`, limit)}, x[:limit]},
		{[]string{x[:limit] + "y", strings.Repeat(`\u0078`, limit) + "y"}, x[:limit] + digest(x[:limit]+"y")},
		{[]string{x, strings.Repeat(`\u0078`, maxHeld)}, x[:limit] + digest(x)},
		{[]string{x + "a", strings.Repeat(`\u0078`, maxHeld) + "a"}, x[:limit] + digest(x+"a")},
		{[]string{x + "b", x + `\u0062`}, x[:limit] + digest(x+"b")},
		{
			[]string{strings.Repeat("😀", 5*maxHeld), strings.Repeat(`\ud83d\ude00`, 5*maxHeld)},
			strings.Repeat("😀", limit/4) + digest(strings.Repeat("😀", 5*maxHeld)),
		},
	} {
		for _, written := range test.written {
			for _, size := range []int{1001, maxHeld, bufferSize, 1 << 30} {
				for pad := range 3 {
					body := []byte(strings.Repeat(" ", 5*pad) + `["` + written + `"]`)
					if got, ok, err := readText(body, size, limit); got != test.want || !ok || err != nil {
						t.Errorf("%.40q, read %d at once: got %.80q, %t, %v", written, size, got, ok, err)
					}
				}
			}
		}
	}
}

// Wherever an escape or a special byte stands, and wherever the reader stops, a
// string is what it is to encoding/json.
func TestStringPlaces(t *testing.T) {
	const length = 140
	for _, unit := range []string{
		`\"`, `\\`, `\\\"`, `\\"`, `\n`, `\n\t`, `\x`, `\u00e9`, `\u12g4`, `\`, `"`, "\x00", "\x1f", `é"`, `é\"`, "é\x1f", "\xff\"", "\xff\\", "\xff \xff",
	} {
		for at := range length {
			written := strings.Repeat("x", at) + unit + strings.Repeat("y", length-at)
			body := []byte(`["` + written + `","` + written + `"]`)
			valid := json.Valid(body)
			for _, size := range []int{13, 64, len(`["`) + at + 1, len(body)} {
				got, ok, err := readText(body, size, 2*length)
				if valid != (err == nil) || valid && (!ok || got != jsonscantest.Text([]byte(written), 2*length)) {
					t.Fatalf("%q in place %d, read %d at once: got %q, %t, %v, encoding/json accepts it: %v", unit, at, size, got, ok, err, valid)
				}
			}
		}
	}
}

// What a string is to String, Object and Skip, it is to encoding/json.
func FuzzString(f *testing.F) {
	for _, seed := range []string{"", "a", `\"`, `\`, `\u12`, `\uD83D\uDE00 \udc00`, "\xff\xc0é\u2028", strings.Repeat("x", 31) + `\n`, "\x1f", `"`} {
		f.Add([]byte(seed), uint16(5), uint8(7))
	}
	f.Fuzz(func(t *testing.T, written []byte, limit uint16, size uint8) {
		body := []byte(`["` + string(written) + `",{"` + string(written) + `":1}]`)
		valid := json.Valid(body) && json.Valid([]byte(`"`+string(written)+`"`))
		for _, size := range []int{int(size) + 1, len(body)} {
			got, ok, err := readText(body, size, int(limit))
			if json.Valid(body) != (err == nil) {
				t.Fatalf("read %d at once: got %v, encoding/json accepts it: %v", size, err, valid)
			}
			if want := jsonscantest.Text(written, int(limit)); valid && (!ok || got != want) {
				t.Errorf("read %d at once: got %q, want %q", size, got, want)
			}
		}
		if !valid || len(written) > maxKey {
			return
		}
		want := jsonscantest.Text(written, maxKey)
		err := Read(bytes.NewReader([]byte(`{"`+string(written)+`":1}`)), func(s *Scanner) {
			s.Object(func(key []byte) {
				if string(key) != want {
					t.Errorf("got the key %q, want %q", key, want)
				}
				s.Skip()
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Whatever way a value is taken, it is accepted exactly if encoding/json accepts
// it, and found exactly if it is of the kind that was asked for.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		``, `1`, ` -0.5e-7 `, `01`, `1.`, `[]`, `[1,[2,{"a":null}]]`, `{}`, `{"a":{"b":[true,false]},"a":"\u0000"}`, `[1,]`, `{"a":1,}`, `{"a" 1}`, `nul`, `truex`, `"x" "y"`, "[\x0b]", `[}`,
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(6))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		list := []byte("[" + string(body) + "]")
		valid, single := json.Valid(list), json.Valid(body)
		trimmed := bytes.Trim(body, " \t\r\n")
		check := func(what, kind string, take func(*Scanner) bool) {
			t.Helper()
			found := 0
			err := Read(&jsonscantest.Pieces{Rest: list, Size: int(size) + 1}, func(s *Scanner) {
				s.Array(func() {
					if take(s) {
						found++
					}
				})
			})
			if valid != (err == nil) {
				t.Fatalf("%s: got %v, encoding/json accepts it: %v", what, err, valid)
			}
			if single && (found == 1) != strings.Contains(kind, string(trimmed[:1])) {
				t.Errorf("%s: found %d", what, found)
			}
		}
		elements := 0
		check("Skip", "", func(s *Scanner) bool { s.Skip(); return false })
		check("Peek", "", func(s *Scanner) bool {
			if c := s.Peek(); single && c != trimmed[0] {
				t.Errorf("the next value begins with %q", c)
			}
			s.Skip()
			return false
		})
		check("Object", "{", func(s *Scanner) bool { return s.Object(func([]byte) { s.Skip() }) })
		check("Array", "[", func(s *Scanner) bool { return s.Array(func() { elements++; s.Skip() }) })
		check("String", `"`, func(s *Scanner) bool { _, ok := s.String(10); return ok })
		check("Number", "-0123456789", func(s *Scanner) bool {
			literal, ok := s.Number()
			if single && ok && string(literal) != string(trimmed) {
				t.Errorf("got the number %q", literal)
			}
			return ok
		})
		var want []json.RawMessage
		if single && json.Unmarshal(body, &want) == nil && elements != len(want) {
			t.Errorf("found %d elements, want %d", elements, len(want))
		}
	})
}
