// Package jsonscan reads one JSON value from a stream, as strictly as
// encoding/json does. It skips what its caller does not ask for without holding
// it, so memory does not depend on the size of a value.
package jsonscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// bufferSize holds as much as one read of a fast connection returns: half of
	// it makes an initial sync over loopback 7 % slower.
	bufferSize = 128 << 10
	// maxDepth is how deep values may be nested, as in encoding/json.
	maxDepth = 10000
	// maxKey bounds a key in bytes as written, escapes included.
	maxKey = 128
	// maxHeld bounds what is held at once of a string or a number as written. It
	// leaves half of the buffer for reading on.
	maxHeld = bufferSize / 2
	// maxEmptyReads is how often in a row a reader may return nothing, as in bufio.
	maxEmptyReads = 100
)

// Scanner reads values in the order of the stream. Each call of Object, Array,
// String, Number or Skip takes one value. After an error it finds nothing more,
// so Read alone reports errors.
type Scanner struct {
	src      io.Reader
	buf      []byte
	pos, end int   // what is unread of buf
	before   int64 // bytes read before buf
	depth    int
	err      error // the first one
	atEnd    bool  // src returned io.EOF

	mark, limit int  // bytes of buf are held from mark on, up to limit; 0 holds none
	spill       bool // what exceeds limit goes to long, else it is dropped
	first, last int  // of buf, what token returns
	long        longString
}

// scanners saves an allocation of bufferSize for each value that is read: with
// it, a page of 100 traces without bodies is decoded twice as fast.
var scanners = sync.Pool{New: func() any { return &Scanner{buf: make([]byte, bufferSize)} }}

// Read calls visit, which must take one value, and requires that r holds that
// value and nothing else. A number alone is not accepted, as it may have been cut.
// The scanner must not be used after visit returns. An error of r comes back
// wrapped.
func Read(r io.Reader, visit func(*Scanner)) error {
	s := scanners.Get().(*Scanner) // the pool holds nothing else
	*s = Scanner{src: r, buf: s.buf, long: s.long}
	visit(s)
	s.finish()
	err := s.err
	s.src = nil
	scanners.Put(s)
	return err
}

// Fail ends the scan with an error, unless it has failed already.
func (s *Scanner) Fail(err error) {
	if s.err == nil {
		s.err = err
		s.end = s.pos
	}
}

// Object calls visit with the key of each member; visit must take its value. The
// key is valid until then, and empty if it is written in more than 128 bytes. A
// value that is no object is skipped, and false returned.
func (s *Scanner) Object(visit func(key []byte)) bool {
	if !s.enter('{') {
		return false
	}
	for key, more := s.member(true); more; key, more = s.member(false) {
		key, _ = unescape(key, true)
		visit(key)
	}
	return true
}

// Array calls visit before each element, which visit must take. A value that is
// no array is skipped, and false returned.
func (s *Scanner) Array(visit func()) bool {
	if !s.enter('[') {
		return false
	}
	for first := true; s.element(first); first = false {
		visit()
	}
	return true
}

// String takes a string and returns its text, which is valid until the next
// call. A text longer than limit is cut there, and a ~ and the SHA-256 of all of
// it in hexadecimal are added, so that no two become one. Any other value is
// skipped, and false returned.
func (s *Scanner) String(limit int) (text []byte, ok bool) {
	s.long.reset(limit)
	if c := s.next(); c != '"' {
		s.rest(c)
		return nil, false
	}
	s.hold(maxHeld, true)
	s.text()
	s.release(1)
	if s.long.size == 0 {
		text, _ = unescape(s.token(), true)
		if len(text) <= limit {
			return text, true
		}
		s.long.add(text)
	} else {
		s.long.write(s.token(), true)
	}
	return s.long.text(), true
}

// Number takes a number and returns it as written, which is valid until the next
// call, or nothing if that is longer than maxHeld. Any other value is skipped,
// and false returned.
func (s *Scanner) Number() (literal []byte, ok bool) {
	c := s.next()
	if c != '-' && !isDigit(c) {
		s.rest(c)
		return nil, false
	}
	s.untake()
	s.hold(maxHeld, false)
	s.number(s.take())
	s.release(0)
	return s.token(), true
}

// Peek returns the first byte of the next value, which tells its kind, and takes
// nothing; 0 after an error.
func (s *Scanner) Peek() byte {
	c := s.next()
	s.untake()
	return c
}

// Skip takes any value.
func (s *Scanner) Skip() { s.rest(s.next()) }

// malformed says that the last byte taken is wrong. The error quotes nothing: the
// stream may be private.
func (s *Scanner) malformed() {
	s.Fail(fmt.Errorf("malformed JSON at byte %d", s.before+int64(s.pos)))
}

// fill reads on. It must be called only when all that was read is used up.
func (s *Scanner) fill() bool {
	if s.err != nil {
		return false
	}
	kept := 0
	switch n := s.end - s.mark; {
	case n <= s.limit:
		kept = copy(s.buf, s.buf[s.mark:s.end])
	case s.limit > 0 && s.spill:
		kept = copy(s.buf, s.long.write(s.buf[s.mark:s.end], false))
	default:
		s.limit = 0
	}
	s.before += int64(s.end - kept)
	s.mark, s.pos, s.end = 0, kept, kept
	for range maxEmptyReads {
		n, err := s.src.Read(s.buf[kept:])
		if n > 0 {
			s.end += n
			return true // an error comes again
		}
		if errors.Is(err, io.EOF) {
			s.atEnd, err = true, io.ErrUnexpectedEOF
		}
		if err != nil {
			s.Fail(fmt.Errorf("incomplete JSON: %w", err))
			return false
		}
	}
	s.Fail(fmt.Errorf("incomplete JSON: %w", io.ErrNoProgress))
	return false
}

// hold keeps what is read from here on, up to limit.
func (s *Scanner) hold(limit int, spill bool) { s.mark, s.limit, s.spill = s.pos, limit, spill }

// release ends hold. The token is what was held without its last bytes: the last
// piece of what went to long, and nothing of what was dropped.
func (s *Scanner) release(without int) {
	s.first, s.last = s.mark, s.pos-without
	if s.limit == 0 || s.err != nil || !s.spill && s.last-s.first > s.limit {
		s.first, s.last = 0, 0
	}
	s.limit = 0
}

// token returns the string that was held, without its quotes and with its escapes
// as written, or the number. It is part of the buffer.
func (s *Scanner) token() []byte { return s.buf[s.first:s.last] }

// take returns the next byte; 0 after an error, which is valid nowhere.
func (s *Scanner) take() byte {
	if s.pos == s.end && !s.fill() {
		return 0
	}
	c := s.buf[s.pos]
	s.pos++
	return c
}

// untake gives back the byte that the last call of take returned.
func (s *Scanner) untake() {
	if s.err == nil {
		s.pos--
	}
}

// next returns the next byte that is no white space.
func (s *Scanner) next() byte {
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

// finish requires that nothing but white space follows.
func (s *Scanner) finish() {
	if s.err != nil {
		return
	}
	s.next()
	if s.atEnd {
		s.err = nil
		return
	}
	s.malformed()
}

// enter goes into the next value if it begins with open. Any other value is
// skipped, and false returned.
func (s *Scanner) enter(open byte) bool {
	c := s.next()
	if c != open {
		s.rest(c)
		return false
	}
	s.deeper()
	return true
}

func (s *Scanner) deeper() {
	if s.depth++; s.depth > maxDepth {
		s.malformed()
	}
}

// member goes to the value of the next member of an object, and returns its
// key. It returns false at the end of the object.
func (s *Scanner) member(first bool) (key []byte, more bool) {
	c, more := s.following('}', first)
	if !more {
		return nil, false
	}
	if c != '"' {
		s.malformed()
	}
	s.hold(maxKey, false)
	s.text()
	s.release(1)
	key = s.token()
	if s.pos < s.end && s.buf[s.pos] == ':' {
		s.pos++
		return key, true
	}
	key = bytes.Clone(key) // reading on may overwrite it
	if s.next() != ':' {
		s.malformed()
	}
	return key, s.err == nil
}

// element goes to the next element of an array. It returns false at the end.
func (s *Scanner) element(first bool) bool {
	_, more := s.following(']', first)
	if more {
		s.untake()
	}
	return more
}

// following takes the comma between two members or elements, and the byte
// after it, or else the end.
func (s *Scanner) following(end byte, first bool) (c byte, more bool) {
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

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
