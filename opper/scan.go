package opper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"strconv"
)

const (
	// scanBuffer holds as much as one read of a fast connection gives: with half
	// of it, a first walk over loopback takes 7 % longer.
	scanBuffer = 128 << 10
	// maxDepth is how deep values may be nested, as in encoding/json.
	maxDepth = 10000
	// maxKey is more than any key that we know takes, were each of its letters
	// written as an escape: what is left of a longer one is none of them.
	maxKey = 128
	// maxToken is how much is held at once of a string or a number as it is
	// written. It leaves half of the buffer to read on.
	maxToken = scanBuffer / 2
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
// After an error it finds nothing more, so that the error need be looked at
// only at the end.
type scanner struct {
	src      io.Reader
	buf      []byte
	pos, end int   // what is unread of buf
	before   int64 // bytes read before buf
	depth    int
	err      error // the first one

	mark, limit int       // bytes of buf are kept from mark on, but no more than limit; 0 keeps none
	long        *longText // takes what is more than limit, if not nil
	first, last int       // what tok returns of buf
}

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
		s.end = s.pos
	}
}

// malformed says that the last byte taken is wrong.
func (s *scanner) malformed() { s.fail(syntaxError(s.before + int64(s.pos))) }

// fill reads on. It must be called only when all that was read is used up.
func (s *scanner) fill() bool {
	if s.err != nil {
		return false
	}
	kept := 0
	switch n := s.end - s.mark; {
	case n <= s.limit:
		kept = copy(s.buf, s.buf[s.mark:s.end])
	case s.limit > 0 && s.long != nil:
		kept = copy(s.buf, s.long.write(s.buf[s.mark:s.end], false))
	default:
		s.limit = 0
	}
	s.before += int64(s.end - kept)
	s.mark, s.pos, s.end = 0, kept, kept
	for range maxEmptyReads {
		if s.err != nil {
			return false
		}
		n, err := s.src.Read(s.buf[kept:])
		if n > 0 {
			s.end += n
			return true // an error comes again
		}
		s.err = err
	}
	s.fail(io.ErrNoProgress)
	return false
}

// hold keeps what is read from here on. Once it is more than limit, it goes to
// long, if that is not nil, and else it is dropped.
func (s *scanner) hold(limit int, long *longText) { s.mark, s.limit, s.long = s.pos, limit, long }

// release ends that. The token is what was kept, but for some bytes at its end:
// the last piece of what went to long, and nothing of what was dropped.
func (s *scanner) release(but int) {
	s.first, s.last = s.mark, s.pos-but
	if s.limit == 0 || s.err != nil || s.long == nil && s.last-s.first > s.limit {
		s.first, s.last = 0, 0
	}
	s.limit = 0
}

// tok returns the last value that was asked for: a string without its quotes and
// with its escapes as they are, or the digits of a number. It is part of the
// buffer, and good until more is read.
func (s *scanner) tok() []byte { return s.buf[s.first:s.last] }

// take returns the next byte; 0 after an error, which is right nowhere.
func (s *scanner) take() byte {
	if s.pos == s.end && !s.fill() {
		return 0
	}
	c := s.buf[s.pos]
	s.pos++
	return c
}

// untake gives back the byte that the last call of take returned.
func (s *scanner) untake() {
	if s.err == nil {
		s.pos--
	}
}

// next returns the next byte that is no white space.
func (s *scanner) next() byte {
	if i := s.pos; i < s.end && s.buf[i] > ' ' {
		s.pos++
		return s.buf[i]
	}
	c := s.take()
	for isSpace(c) {
		c = s.take()
	}
	return c
}

// close makes sure that nothing but white space follows, and returns what went
// wrong.
func (s *scanner) close() error {
	if s.err == nil {
		s.next()
		if errors.Is(s.err, io.EOF) {
			return nil
		}
		s.malformed()
	}
	return s.err
}

// enter goes into the next value if it begins with open. Any other value is
// skipped, and false returned.
func (s *scanner) enter(open byte) bool {
	c := s.next()
	if c != open {
		s.rest(c)
		return false
	}
	s.deeper()
	return true
}

func (s *scanner) deeper() {
	if s.depth++; s.depth > maxDepth {
		s.malformed()
	}
}

// member goes to the value of the next member of an object, and returns its
// key, which is good until more is read. It returns false at the end of the
// object.
func (s *scanner) member(first bool) (key []byte, more bool) {
	c, more := s.following('}', first)
	if !more {
		return nil, false
	}
	if c != '"' {
		s.malformed()
	}
	s.hold(maxKey, nil)
	s.text()
	s.release(1)
	key = s.tok()
	if s.pos < s.end && s.buf[s.pos] == ':' {
		s.pos++
		return key, true
	}
	key = bytes.Clone(key) // reading on may take it away
	if s.next() != ':' {
		s.malformed()
	}
	return key, s.err == nil
}

// element goes to the next element of an array. It returns false at the end.
func (s *scanner) element(first bool) bool {
	_, more := s.following(']', first)
	if more {
		s.untake()
	}
	return more
}

// following takes the comma between two members or elements, and the byte
// after it, or else the end.
func (s *scanner) following(end byte, first bool) (c byte, more bool) {
	// As most programs write it.
	if i := s.pos; !first && i+1 < s.end && s.buf[i] == ',' && s.buf[i+1] > ' ' && s.buf[i+1] != end {
		s.pos += 2
		return s.buf[i+1], true
	}
	c = s.next()
	switch {
	case c == end:
		s.depth--
		return c, false
	case first:
	case c != ',':
		s.malformed()
	default:
		if c = s.next(); c == end {
			s.malformed()
		}
	}
	return c, s.err == nil
}

// value reads the next value and returns its first byte. If it is a string or
// a number, it is in tok. Of a string that is too long for that, all but its
// last piece has gone to long.
func (s *scanner) value(long *longText) byte {
	c := s.next()
	switch {
	case c == '"':
		s.hold(maxToken, long)
		s.text()
		s.release(1)
	case c == '-' || isDigit(c):
		s.untake()
		s.hold(maxToken, nil)
		s.number(s.take())
		s.release(0)
	default:
		s.rest(c)
	}
	return c
}

// skip goes past the next value.
func (s *scanner) skip() { s.rest(s.next()) }

// rest goes past the value that begins with c, which was taken.
func (s *scanner) rest(c byte) {
	switch {
	case c == '"':
		s.text()
	case c == '-' || isDigit(c):
		s.number(c)
	case c == '{':
		s.deeper()
		for _, more := s.member(true); more; _, more = s.member(false) {
			s.skip()
		}
	case c == '[':
		s.deeper()
		for first := true; s.element(first); first = false {
			s.skip()
		}
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.malformed()
	}
}

// text goes past a string and its closing quote.
func (s *scanner) text() {
	for s.pos < s.end || s.fill() {
		b := s.buf[s.pos:s.end]
		n := inside(b)
		if s.pos += n; n == len(b) {
			continue
		}
		s.pos++
		switch b[n] {
		case '"':
			return
		case '\\':
			s.escape()
		default: // encoding/json wants control characters as escapes
			s.malformed()
		}
	}
}

// escape goes past what follows a backslash.
func (s *scanner) escape() {
	c := s.take()
	if short[c] {
		return
	}
	if c != 'u' {
		s.malformed()
	}
	for range 4 {
		if c = s.take(); !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			s.malformed()
		}
	}
}

// number goes past a number that begins with c, which was taken.
func (s *scanner) number(c byte) {
	if c == '-' {
		c = s.take()
	}
	if c == '0' {
		c = s.take()
	} else {
		c = s.digits(c)
	}
	if c == '.' {
		c = s.digits(s.take())
	}
	if c|0x20 == 'e' {
		if c = s.take(); c == '+' || c == '-' {
			c = s.take()
		}
		s.digits(c)
	}
	s.untake() // what ended the number
}

// digits goes past one digit, which is c and was taken, and more, and returns
// the byte after them.
func (s *scanner) digits(c byte) byte {
	if !isDigit(c) {
		s.malformed()
	}
	for isDigit(c) {
		c = s.take()
	}
	return c
}

// literal goes past true, false or null, behind its first letter.
func (s *scanner) literal(word string) {
	for i := 1; i < len(word); i++ {
		if s.take() != word[i] {
			s.malformed()
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// inside returns how many bytes at the start of b, which begins inside a
// string, are surely of it and as they must be. It stops at the latest at the
// closing quote, and at an escape that needs a closer look.
//
// Most of an answer is customers' text, so it looks at 64 bytes at a time for
// those that are special. Which ones are cannot be foreseen, so it finds them
// all without a branch.
func inside(b []byte) int {
	const width = 64
	i := 0
	// Keys and most values that we want are short.
	if len(b) >= 16 {
		special := ^uint16(pack(plain(binary.LittleEndian.Uint64(b))) | pack(plain(binary.LittleEndian.Uint64(b[8:])))<<8)
		if n := bits.TrailingZeros16(special); special != 0 && b[n] == '"' {
			return n
		}
	}
	for i+width < len(b) { // an escape may end behind it
		w := b[i : i+width : i+width]
		w0, w1 := plain(binary.LittleEndian.Uint64(w)), plain(binary.LittleEndian.Uint64(w[8:]))
		w2, w3 := plain(binary.LittleEndian.Uint64(w[16:])), plain(binary.LittleEndian.Uint64(w[24:]))
		w4, w5 := plain(binary.LittleEndian.Uint64(w[32:])), plain(binary.LittleEndian.Uint64(w[40:]))
		w6, w7 := plain(binary.LittleEndian.Uint64(w[48:])), plain(binary.LittleEndian.Uint64(w[56:]))
		next := width
		if w0&w1&w2&w3&w4&w5&w6&w7&highBits != highBits {
			special := ^(pack(w0) | pack(w1)<<8 | pack(w2)<<16 | pack(w3)<<24 |
				pack(w4)<<32 | pack(w5)<<40 | pack(w6)<<48 | pack(w7)<<56)
			for special != 0 {
				n := bits.TrailingZeros64(special)
				if b[i+n] != '\\' || !short[b[i+n+1]] {
					return i + n
				}
				special &^= 3 << n // whatever is escaped
				next = max(next, n+2)
			}
		}
		i += next
	}
	for ; ; i += 2 {
		for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i+1 >= len(b) || b[i] != '\\' || !short[b[i+1]] {
			return i
		}
	}
}

// short are what stands behind a backslash in an escape of two bytes.
var short = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// plain sets the high bit of each byte of x that is not special: a quote, a
// backslash or a control character.
func plain(x uint64) uint64 {
	low := x &^ highBits // so that nothing is carried from one byte to another
	// The first swaps the quote for the blank's place just above the control
	// characters, and moves nothing else across it.
	text := (low ^ 0x02*eachByte) + (0x7f-('"'^0x02))*eachByte
	other := (low ^ '\\'*eachByte) + 0x7f*eachByte
	return text&other | x
}

// pack gathers the high bits of the bytes of a word in the lowest byte: no two of
// the products meet in a bit.
func pack(word uint64) uint64 { return (word & highBits) * 0x0002040810204081 >> 56 }
