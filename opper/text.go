package opper

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxEscape is how long an escape can be: a surrogate pair.
const maxEscape = len(`\ud83d\ude00`)

// unescape returns a string's bytes, given those between its quotes, in their
// place. Unless they are the last ones, it leaves an escape at the end that may
// be incomplete to rest.
//
// No two strings become one: bytes that are not UTF-8 stay as they are, and half
// a surrogate pair is encoded like any other code point, as WTF-8 does, while
// encoding/json makes U+FFFD of both.
func unescape(written []byte, last bool) (text, rest []byte) {
	i := bytes.IndexByte(written, '\\')
	if i < 0 {
		return written, nil
	}
	text, rest = written[:i], written[i:]
	for len(rest) > 0 {
		if rest[0] != '\\' {
			n := bytes.IndexByte(rest, '\\')
			if n < 0 {
				n = len(rest)
			}
			text, rest = append(text, rest[:n]...), rest[n:]
			continue
		}
		if !last && len(rest) < maxEscape {
			break
		}
		if c := rest[1]; c != 'u' {
			text, rest = append(text, meant[c]), rest[2:]
			continue
		}
		r := codeUnit(rest[2:])
		rest = rest[6:]
		if utf16.IsSurrogate(r) && len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
			if both := utf16.DecodeRune(r, codeUnit(rest[2:])); both != utf8.RuneError {
				r, rest = both, rest[6:]
			}
		}
		if utf16.IsSurrogate(r) {
			text = append(text, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
		} else {
			text = utf8.AppendRune(text, r)
		}
	}
	return text, rest
}

// meant are the bytes that the escapes of two bytes stand for.
var meant = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// codeUnit reads four hexadecimal digits, which the scanner has seen to be some.
func codeUnit(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(n)
}

// longText is a string that arrives in pieces, of which only the beginning is
// held. The digest of all of it keeps it distinct from others that begin alike.
type longText struct {
	size int    // decoded; 0 is none
	head []byte // at most maxValue
	sum  hash.Hash
}

// write takes the next piece as it is written, and decodes it in place. It
// returns what can't be decoded yet, which must come again before the next.
func (t *longText) write(piece []byte, last bool) (rest []byte) {
	text, rest := unescape(piece, last)
	t.add(text)
	return rest
}

func (t *longText) add(text []byte) {
	if t.sum == nil {
		t.sum = sha256.New()
	}
	if t.size == 0 {
		t.head = t.head[:0]
		t.sum.Reset()
	}
	t.size += len(text)
	t.head = append(t.head, text[:min(len(text), maxValue-len(t.head))]...)
	_, _ = t.sum.Write(text) // never fails
}

// text returns the string if it is not longer than limit, which is at most
// maxValue. Else it returns so many bytes of it, a ~ and its SHA-256 in
// hexadecimal: that is too long to be any other string.
func (t *longText) text(limit int) []byte {
	if t.size <= limit {
		return t.head
	}
	return hex.AppendEncode(append(t.head[:limit:limit], '~'), t.sum.Sum(nil))
}
