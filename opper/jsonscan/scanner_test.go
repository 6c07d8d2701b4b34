package jsonscan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"opper_exporter/opper/jsonscan/jsonscantest"
)

func skip(r io.Reader) error { return Read(r, (*Scanner).Skip) }

// read takes a value by its kind, and lists what it finds.
func read(r io.Reader) (found []string, err error) {
	err = Read(r, func(s *Scanner) {
		s.Object(func(key []byte) {
			name := string(key)
			var text []byte
			ok := true
			switch {
			case strings.HasPrefix(name, "text"):
				text, ok = s.String(8)
			case strings.HasPrefix(name, "number"):
				text, ok = s.Number()
			case strings.HasPrefix(name, "list"):
				ok = s.Array(func() {
					text, ok := s.Number()
					found = append(found, fmt.Sprintf("%s[] %s %t", name, text, ok))
				})
			default:
				s.Skip()
			}
			found = append(found, fmt.Sprintf("%s %s %t", name, text, ok))
		})
	})
	return found, err
}

func TestValues(t *testing.T) {
	body := ` { "text" : "a\u00e9\n" , "text long":"123456789", "text none":[{"text":"no"}],"number":-1.5e+3 ,"number none":"5",` +
		`"other":{"text":["no",{"number":1}]},"list":[ 1 , {"number":2},[],3],"list none":{"list":[1]},"list empty":[],"\u0074ext":null,"":true } `
	want := []string{
		"text aé\n true", "text long 12345678~15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225 true", "text none  false", "number -1.5e+3 true", "number none  false",
		"other  true", "list[] 1 true", "list[]  false", "list[]  false", "list[] 3 true", "list  true", "list none  false", "list empty  true", "text  false", "  true",
	}
	for size := range len(body) {
		got, err := read(&jsonscantest.Pieces{Rest: []byte(body), Size: size + 1})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("read %d at once: got %q, %v, want %q", size+1, got, err, want)
		}
	}
}

// A key that is too long to be held is empty, and its value is still read.
func TestLongKey(t *testing.T) {
	for length, want := range map[int]string{maxKey: strings.Repeat("k", maxKey) + "  true", maxKey + 1: "  true", 3 * bufferSize: "  true"} {
		got, err := read(strings.NewReader(`{"` + strings.Repeat("k", length) + `":1,"number":2}`))
		if err != nil || !reflect.DeepEqual(got, []string{want, "number 2 true"}) {
			t.Errorf("%d bytes: got %.200q, %v", length, got, err)
		}
	}
}

// A number that is too long to be held is a number, of which nothing is known.
func TestLongNumber(t *testing.T) {
	for length, held := range map[int]bool{maxHeld: true, maxHeld + 1: false, 3 * bufferSize: false} {
		digits := strings.Repeat("1", length)
		for _, size := range []int{1001, 1 << 30} {
			err := Read(&jsonscantest.Pieces{Rest: []byte("[" + digits + "]"), Size: size}, func(s *Scanner) {
				s.Array(func() {
					literal, ok := s.Number()
					if !ok || held != (string(literal) == digits) || !held && len(literal) > 0 {
						t.Errorf("%d digits: got %d, %t", length, len(literal), ok)
					}
				})
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for body, want := range map[string]string{
		``:              "incomplete JSON: unexpected EOF",
		` [1,`:          "incomplete JSON: unexpected EOF",
		`"text`:         "incomplete JSON: unexpected EOF",
		`[1]x`:          "malformed JSON at byte 4",
		`{"a":1,}`:      "malformed JSON at byte 8",
		`{"a" private}`: "malformed JSON at byte 6",
		"\uFEFF1":       "malformed JSON at byte 1",
	} {
		if err := skip(strings.NewReader(body)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", body, err, want)
		}
	}
	cause := errors.New("cause")
	for n := range len(`{"a":[1]}`) {
		if err := skip(io.MultiReader(strings.NewReader(`{"a":[1]}`[:n]), iotest.ErrReader(cause))); !errors.Is(err, cause) {
			t.Errorf("after %d bytes: got %v, want the reader's error", n, err)
		}
	}
	if err := skip(emptyReader{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v of a reader that returns nothing", err)
	}
	if err := Read(strings.NewReader(`1`), func(*Scanner) {}); err == nil {
		t.Error("no error for a value that was not taken")
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

// The first error stays, and nothing is read after it.
func TestFail(t *testing.T) {
	first := errors.New("first")
	elements := 0
	err := Read(io.MultiReader(strings.NewReader(`[1,2`), iotest.ErrReader(errors.New("read on"))), func(s *Scanner) {
		s.Array(func() {
			elements++
			s.Fail(first)
			s.Fail(errors.New("second"))
			if _, ok := s.Number(); ok {
				t.Error("found a number after an error")
			}
		})
	})
	if !errors.Is(err, first) || elements != 1 {
		t.Errorf("got %v after %d elements", err, elements)
	}
}

// Values may be nested as deep as in encoding/json.
func TestDepth(t *testing.T) {
	for _, kind := range [][2]string{{"[", "]"}, {`{"x":`, "}"}} {
		for depth, want := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
			body := strings.Repeat(kind[0], depth) + "1" + strings.Repeat(kind[1], depth)
			err := skip(strings.NewReader(body))
			if valid := json.Valid([]byte(body)); valid != want || (err == nil) != want {
				t.Errorf("%d deep: got %v, encoding/json accepts it: %v", depth, err, valid)
			}
		}
	}
	// Siblings are not nested.
	if err := skip(strings.NewReader(`[{}` + strings.Repeat(`,{"x":[]}`, 2*maxDepth) + `]`)); err != nil {
		t.Error(err)
	}
}

// Each byte, at each place of a word or a block, is in a string what it is to
// encoding/json.
func TestEachByte(t *testing.T) {
	for c := range 256 {
		for at := range 80 {
			text := []byte(strings.Repeat("x", 80))
			text[at] = byte(c)
			body := `["` + string(text) + `"]`
			err := skip(strings.NewReader(body))
			if want := json.Valid([]byte(body)); (err == nil) != want {
				t.Fatalf("byte %#x in place %d: got %v, encoding/json accepts it: %v", c, at, err, want)
			}
		}
	}
}
