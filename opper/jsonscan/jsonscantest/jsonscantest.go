// Package jsonscantest has what the tests of the scanner and of its callers share.
package jsonscantest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// Pieces returns a body in reads of a few bytes, so that every value is cut
// somewhere.
type Pieces struct {
	Rest []byte
	Size int
}

// Read implements io.Reader.
func (p *Pieces) Read(b []byte) (int, error) {
	if len(p.Rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.Rest[:min(p.Size, len(p.Rest))])
	p.Rest = p.Rest[n:]
	return n, nil
}

var piece = regexp.MustCompile(`(?s)\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|[^\\]+`)

// Text is what the scanner must read between the quotes of a valid string.
// encoding/json makes the same of all that is not Unicode, so it sees none of
// that.
func Text(written []byte, limit int) string {
	var text []byte
	for _, p := range piece.FindAll(written, -1) {
		var s string
		code, _ := strconv.ParseUint(string(p[min(2, len(p)):]), 16, 16)
		switch {
		case p[0] != '\\':
			s = string(p)
		case len(p) == 6 && 0xd800 <= code && code < 0xe000:
			s = string([]byte{0xed, 0x80 | byte(code>>6&0x3f), 0x80 | byte(code&0x3f)})
		default:
			_ = json.Unmarshal([]byte(`"`+string(p)+`"`), &s)
		}
		text = append(text, s...)
	}
	if len(text) > limit {
		return fmt.Sprintf("%s~%x", text[:limit], sha256.Sum256(text))
	}
	return string(text)
}
