package opper

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

const (
	// scanBuffer holds as much as one read of a fast connection gives.
	scanBuffer = 64 << 10
	// maxDepth is how deep values may be nested, as in encoding/json.
	maxDepth = 10000
	// maxKey is more than any key that we know takes, were each of its letters
	// written as an escape: what is left of a longer one is none of them.
	maxKey = 128
	// maxEmptyReads is how often in a row a reader may give nothing, as in bufio.
	maxEmptyReads = 100
)

// syntaxError is the offset of a byte that no JSON has there.
type syntaxError int64

func (e syntaxError) Error() string {
	return "malformed JSON at byte " + strconv.FormatInt(int64(e), 10)
}

// scanner reads JSON as strictly as encoding/json does, but goes past what
// nobody asked for without keeping it: its buffer does not grow with a value.
type scanner struct {
	src      io.Reader
	buf      []byte
	pos, end int   // what is unread of buf
	before   int64 // bytes read before buf
	depth    int
	// tok is the last key or the last value that was asked for: a string without
	// its quotes and with its escapes as they are, or the digits of a number.
	tok []byte
}

// fill reads on. It must be called only when all that was read is used up.
func (s *scanner) fill() error {
	s.before += int64(s.end)
	s.pos, s.end = 0, 0
	for range maxEmptyReads {
		n, err := s.src.Read(s.buf)
		if n > 0 {
			s.end = n
			return nil // an error comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// take returns the next byte.
func (s *scanner) take() (byte, error) {
	if s.pos == s.end {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	c := s.buf[s.pos]
	s.pos++
	return c, nil
}

// untake gives back the byte that the last call of take returned.
func (s *scanner) untake() { s.pos-- }

// next returns the next byte that is no white space.
func (s *scanner) next() (byte, error) {
	for {
		c, err := s.take()
		if err != nil || c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, err
		}
	}
}

// malformed says that the last byte taken is wrong.
func (s *scanner) malformed() error { return syntaxError(s.before + int64(s.pos)) }

// close makes sure that nothing but white space follows.
func (s *scanner) close() error {
	_, err := s.next()
	switch {
	case err == nil:
		return s.malformed()
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// enter goes into the next value if it begins with open. Any other value is
// skipped, and false returned.
func (s *scanner) enter(open byte) (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	if c != open {
		return false, s.rest(c, 0)
	}
	return true, s.deeper()
}

func (s *scanner) deeper() error {
	if s.depth++; s.depth > maxDepth {
		return s.malformed()
	}
	return nil
}

// member goes to the value of the next member of an object, whose key is in tok
// then. It returns false at the end of the object.
func (s *scanner) member(first bool) (bool, error) {
	c, more, err := s.following('}', first)
	if !more || err != nil {
		return false, err
	}
	if c != '"' {
		return false, s.malformed()
	}
	s.tok = s.tok[:0]
	if err := s.text(maxKey); err != nil {
		return false, err
	}
	if c, err = s.next(); err == nil && c != ':' {
		err = s.malformed()
	}
	return err == nil, err
}

// element goes to the next element of an array. It returns false at the end.
func (s *scanner) element(first bool) (bool, error) {
	_, more, err := s.following(']', first)
	if more {
		s.untake()
	}
	return more, err
}

// following takes the comma between two members or elements, and the byte
// after it, or else the end.
func (s *scanner) following(end byte, first bool) (c byte, more bool, err error) {
	c, err = s.next()
	switch {
	case err != nil:
		return c, false, err
	case c == end:
		s.depth--
		return c, false, nil
	case first:
		return c, true, nil
	case c != ',':
		return c, false, s.malformed()
	}
	if c, err = s.next(); err == nil && c == end {
		err = s.malformed()
	}
	return c, err == nil, err
}

// value reads the next value and returns its first byte. If it is a string or
// a number, it is in tok.
func (s *scanner) value() (byte, error) {
	c, err := s.next()
	if err != nil {
		return c, err
	}
	s.tok = s.tok[:0]
	return c, s.rest(c, math.MaxInt)
}

// skip goes past the next value.
func (s *scanner) skip() error {
	c, err := s.next()
	if err != nil {
		return err
	}
	return s.rest(c, 0)
}

// rest goes past the value that begins with c, which was taken. Up to keep
// bytes of a string or number are added to tok.
func (s *scanner) rest(c byte, keep int) error {
	switch {
	case c == '"':
		return s.text(keep)
	case c == '-' || isDigit(c):
		return s.number(c, keep)
	case c == '{':
		return s.object()
	case c == '[':
		return s.array()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	}
	return s.malformed()
}

func (s *scanner) object() error {
	if err := s.deeper(); err != nil {
		return err
	}
	for first := true; ; first = false {
		if more, err := s.member(first); !more || err != nil {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

func (s *scanner) array() error {
	if err := s.deeper(); err != nil {
		return err
	}
	for first := true; ; first = false {
		if more, err := s.element(first); !more || err != nil {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

// text goes past a string and its closing quote.
func (s *scanner) text(keep int) error {
	for {
		if s.pos == s.end {
			if err := s.fill(); err != nil {
				return err
			}
		}
		b := s.buf[s.pos:s.end]
		n := inside(b)
		s.keep(b[:n], keep)
		if s.pos += n; n == len(b) {
			continue
		}
		s.pos++
		switch b[n] {
		case '"':
			return nil
		case '\\':
			if err := s.escape(keep); err != nil {
				return err
			}
		default: // encoding/json wants control characters as escapes
			return s.malformed()
		}
	}
}

func (s *scanner) keep(b []byte, keep int) {
	if n := keep - len(s.tok); n > 0 {
		s.tok = append(s.tok, b[:min(n, len(b))]...)
	}
}

// escape goes past what follows a backslash.
func (s *scanner) escape(keep int) error {
	c, err := s.take()
	if err != nil {
		return err
	}
	s.keep([]byte{'\\', c}, keep)
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			if c, err = s.take(); err != nil {
				return err
			}
			if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return s.malformed()
			}
			s.keep([]byte{c}, keep)
		}
		return nil
	}
	return s.malformed()
}

// number goes past a number that begins with c.
func (s *scanner) number(c byte, keep int) (err error) {
	more := func() (byte, error) {
		s.keep([]byte{c}, keep)
		return s.take()
	}
	if c == '-' {
		if c, err = more(); err != nil {
			return err
		}
	}
	digits := func() error {
		if !isDigit(c) {
			return s.malformed()
		}
		for err == nil && isDigit(c) {
			c, err = more()
		}
		return err
	}
	if c == '0' {
		c, err = more()
	} else {
		err = digits()
	}
	if err == nil && c == '.' {
		if c, err = more(); err == nil {
			err = digits()
		}
	}
	if err == nil && c|0x20 == 'e' {
		if c, err = more(); err == nil && (c == '+' || c == '-') {
			c, err = more()
		}
		if err == nil {
			err = digits()
		}
	}
	if err == nil {
		s.untake() // what ended the number
	}
	return err
}

// literal goes past true, false or null, behind its first letter.
func (s *scanner) literal(word string) error {
	for i := 1; i < len(word); i++ {
		if c, err := s.take(); err != nil {
			return err
		} else if c != word[i] {
			return s.malformed()
		}
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// decoded returns a string's bytes, given those between its quotes, as
// encoding/json reads them.
func decoded(tok []byte) []byte {
	if bytes.IndexByte(tok, '\\') < 0 && utf8.Valid(tok) {
		return tok
	}
	var text string
	quoted := make([]byte, 0, len(tok)+2)
	quoted = append(append(append(quoted, '"'), tok...), '"')
	if json.Unmarshal(quoted, &text) != nil {
		return nil // the scanner lets no such string pass
	}
	return []byte(text)
}

// inside returns how many bytes at the start of b, which begins inside a
// string, are surely of it and as they must be. It stops at the latest at the
// closing quote, and at an escape that needs a closer look.
func inside(b []byte) int {
	i := 0
	for {
		i = plain(b, i)
		if i+1 >= len(b) || b[i] != '\\' || !short[b[i+1]] {
			return i
		}
		i += 2
	}
}

// short are what stands behind a backslash in an escape of two bytes.
var short = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

// plain returns where the first byte from i on is that is not inside a string
// what it is anywhere: a quote, a backslash or a control character. Most of an
// answer is customers' text, so it looks at 32 bytes at a time.
func plain(b []byte, i int) int {
	for ; i+32 <= len(b); i += 32 {
		w := b[i : i+32 : i+32]
		w0, w1 := special(binary.LittleEndian.Uint64(w)), special(binary.LittleEndian.Uint64(w[8:]))
		w2, w3 := special(binary.LittleEndian.Uint64(w[16:])), special(binary.LittleEndian.Uint64(w[24:]))
		if w0|w1|w2|w3 == 0 {
			continue
		}
		// Without branches, which could not be foreseen.
		found, at := w3, 24
		if w2 != 0 {
			found, at = w2, 16
		}
		if w1 != 0 {
			found, at = w1, 8
		}
		if w0 != 0 {
			found, at = w0, 0
		}
		return i + at + bits.TrailingZeros64(found)/8
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// special returns a word in which the lowest bit that is set is in the lowest
// byte of x that is not plain. In higher bytes there may be bits by mistake: a
// subtraction borrows from them.
func special(x uint64) uint64 {
	const each, high = 0x0101010101010101, 0x8080808080808080
	// This swaps the quote for the blank's place just above the control
	// characters, and moves nothing else across it.
	low := x ^ 0x02*each
	backslash := x ^ '\\'*each
	return ((low-('"'^0x02+1)*each)&^low | (backslash-each)&^backslash) & high
}
