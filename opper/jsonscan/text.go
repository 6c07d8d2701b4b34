package jsonscan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxEscape is the length of the longest escape, a surrogate pair.
const maxEscape = len(`\ud83d\ude00`)

// unescape decodes in place what stands between the quotes of a string. Unless
// written is its last piece, an escape at the end that may be incomplete is left
// to rest.
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
			text, rest = append(text, unescaped[c]), rest[2:]
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

// unescaped maps the second byte of an escape of two bytes to its meaning.
var unescaped = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// codeUnit reads four hexadecimal digits, which the scanner has checked.
func codeUnit(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(n)
}

// longString is a string that arrives in pieces, of which only the beginning is
// held. The digest of all of it keeps it distinct from others that begin alike.
type longString struct {
	limit int
	size  int    // decoded so far
	head  []byte // no longer than limit
	sum   hash.Hash
}

func (l *longString) reset(limit int) { l.limit, l.size = limit, 0 }

// write decodes the next piece in place. It returns what cannot be decoded yet,
// which must come again before the next piece.
func (l *longString) write(piece []byte, last bool) (rest []byte) {
	text, rest := unescape(piece, last)
	l.add(text)
	return rest
}

func (l *longString) add(text []byte) {
	if l.sum == nil {
		l.sum = sha256.New()
	}
	if l.size == 0 {
		l.head = l.head[:0]
		l.sum.Reset()
	}
	l.size += len(text)
	l.head = append(l.head, text[:min(len(text), l.limit-len(l.head))]...)
	_, _ = l.sum.Write(text) // never fails
}

// text returns the string, cut and with its digest if it is longer than limit:
// with a digest it is too long to be any other string.
func (l *longString) text() []byte {
	if l.size <= l.limit {
		return l.head
	}
	return hex.AppendEncode(append(l.head[:l.limit:l.limit], '~'), l.sum.Sum(nil))
}
