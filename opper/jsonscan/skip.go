package jsonscan

import (
	"encoding/binary"
	"math/bits"
)

// rest skips the value that begins with c, which was taken.
func (s *Scanner) rest(c byte) {
	switch {
	case c == '"':
		s.text()
	case c == '-' || isDigit(c):
		s.number(c)
	case c == '{':
		s.deeper()
		for _, more := s.member(true); more; _, more = s.member(false) {
			s.Skip()
		}
	case c == '[':
		s.deeper()
		for first := true; s.element(first); first = false {
			s.Skip()
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
func (s *Scanner) text() {
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
func (s *Scanner) escape() {
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
func (s *Scanner) number(c byte) {
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
func (s *Scanner) digits(c byte) byte {
	if !isDigit(c) {
		s.malformed()
	}
	for isDigit(c) {
		c = s.take()
	}
	return c
}

// literal goes past true, false or null, behind its first letter.
func (s *Scanner) literal(word string) {
	for i := 1; i < len(word); i++ {
		if s.take() != word[i] {
			s.malformed()
		}
	}
}

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
