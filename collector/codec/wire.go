// Package codec writes and reads values one after the other, compactly. What is
// read must be asked for in the order in which it was written.
package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// ErrDamaged says that the bytes are not what was written.
var ErrDamaged = errors.New("not what was written")

// Writer appends values to its bytes. The zero value is empty.
type Writer struct{ b []byte }

// NewWriter returns a Writer that appends to b.
func NewWriter(b []byte) *Writer { return &Writer{b} }

// Bytes returns what was written.
func (w *Writer) Bytes() []byte { return w.b }

// Uint writes an integer that is small, most of the time.
func (w *Writer) Uint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }

// Int writes an integer that is near 0, most of the time.
func (w *Writer) Int(v int64) { w.b = binary.AppendVarint(w.b, v) }

// Float writes a number in full.
func (w *Writer) Float(v float64) {
	w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(v))
}

// Text writes any bytes.
func (w *Writer) Text(s string) {
	w.Uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// Time writes a time to the microsecond.
func (w *Writer) Time(t time.Time) {
	if t.IsZero() {
		w.Int(math.MinInt64)
		return
	}
	w.Int(t.UnixMicro())
}

// Reader reads what a Writer wrote. After an error all values are zero.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader returns a Reader of b, which must not be changed meanwhile.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Close returns an error unless all that was written has been read.
func (r *Reader) Close() error {
	if r.bad || len(r.b) > 0 {
		return ErrDamaged
	}
	return nil
}

// More reports whether there is more to read.
func (r *Reader) More() bool { return len(r.b) > 0 }

// take returns the next n bytes, or nil after an error.
func (r *Reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// Uint reads what Uint wrote.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.take(n) == nil {
		r.take(-1)
		return 0
	}
	return v
}

// Int reads what Int wrote.
func (r *Reader) Int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || r.take(n) == nil {
		r.take(-1)
		return 0
	}
	return v
}

// Len reads a number of things of which each takes a byte at least.
func (r *Reader) Len() int {
	n := r.Uint()
	if n > uint64(len(r.b)) {
		r.take(-1)
		return 0
	}
	return int(n)
}

// Float reads what Float wrote.
func (r *Reader) Float() float64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// Text reads what Text wrote.
func (r *Reader) Text() string { return string(r.take(r.Len())) }

// Time reads what Time wrote, in UTC.
func (r *Reader) Time() time.Time {
	v := r.Int()
	if v == math.MinInt64 || r.bad {
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}
