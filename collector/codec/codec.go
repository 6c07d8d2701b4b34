// Package codec is the encoding of the state: values one after the other, without
// their names. A type has one method for both directions, so that these can't
// differ.
package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// ErrDamaged says that bytes are not what was encoded.
var ErrDamaged = errors.New("not what was encoded")

// Coder encodes the values that its methods are given, or sets them to what it
// decodes. After an error, it sets them to zero.
type Coder struct {
	b        []byte
	decoding bool
	bad      bool
}

// NewEncoder returns a Coder that appends to b.
func NewEncoder(b []byte) *Coder { return &Coder{b: b} }

// NewDecoder returns a Coder that decodes b, which must not be changed meanwhile.
func NewDecoder(b []byte) *Coder { return &Coder{b: b, decoding: true} }

// Encode returns what f encodes.
func Encode(f func(*Coder)) []byte {
	c := NewEncoder([]byte{})
	f(c)
	return c.b
}

// Decode decodes all of b by f, or returns an error.
func Decode(b []byte, f func(*Coder)) error {
	c := NewDecoder(b)
	f(c)
	return c.Close()
}

// IsDecoding reports in which direction c works.
func (c *Coder) IsDecoding() bool { return c.decoding }

// Bytes returns what has been encoded, or what is left to decode.
func (c *Coder) Bytes() []byte { return c.b }

// Close returns an error unless all has been decoded.
func (c *Coder) Close() error {
	if c.bad || len(c.b) > 0 {
		return ErrDamaged
	}
	return nil
}

// Fail makes Close return an error: what was decoded can't have been encoded.
func (c *Coder) Fail() { c.b, c.bad = nil, true }

// skip takes n bytes off what is left, or fails.
func (c *Coder) skip(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.Fail()
		return nil
	}
	skipped := c.b[:n]
	c.b = c.b[n:]
	return skipped
}

// Integer is what Int encodes.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// Int codes an integer, in the fewer bytes the closer it is to 0.
func Int[T Integer](c *Coder, v *T) {
	signed := ^T(0) < 0
	switch {
	case c.decoding && signed:
		x, n := binary.Varint(c.b)
		decoded(c, v, T(x), n, int64(T(x)) == x)
	case c.decoding:
		x, n := binary.Uvarint(c.b)
		decoded(c, v, T(x), n, uint64(T(x)) == x)
	case signed:
		c.b = binary.AppendVarint(c.b, int64(*v))
	default:
		c.b = binary.AppendUvarint(c.b, uint64(*v))
	}
}

func decoded[T Integer](c *Coder, v *T, x T, size int, fits bool) {
	if *v = x; size <= 0 || !fits {
		c.Fail()
		*v = 0
		return
	}
	c.b = c.b[size:]
}

// Len codes the number of values that follow, each of at least a byte.
func (c *Coder) Len(n int) int {
	u := uint(n)
	if Int(c, &u); c.decoding && u > uint(len(c.b)) {
		c.Fail()
		return 0
	}
	return int(u)
}

// Bools codes up to 64 booleans as the bits of one integer.
func (c *Coder) Bools(values ...*bool) {
	var bits uint64
	for i, v := range values {
		if *v && !c.decoding {
			bits |= 1 << i
		}
	}
	Int(c, &bits)
	for i, v := range values {
		*v = bits>>i&1 == 1
	}
}

// Float codes a number in full.
func (c *Coder) Float(v *float64) {
	if !c.decoding {
		c.b = binary.LittleEndian.AppendUint64(c.b, math.Float64bits(*v))
		return
	}
	*v = 0
	if b := c.skip(8); b != nil {
		*v = math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
}

// Text codes a text, or any bytes.
func (c *Coder) Text(v *string) {
	n := c.Len(len(*v))
	if !c.decoding {
		c.b = append(c.b, *v...)
		return
	}
	*v = string(c.skip(n))
}

// Fixed codes bytes whose number is known.
func (c *Coder) Fixed(v []byte) {
	if !c.decoding {
		c.b = append(c.b, v...)
		return
	}
	clear(v)
	copy(v, c.skip(len(v)))
}

// Times codes times to the microsecond, in the fewer bytes the closer each is to
// the one before it.
func (c *Coder) Times(times ...*time.Time) {
	var before int64
	for _, t := range times {
		var d int64 // 0 is the zero time, so what is not negative moves up by one
		if !c.decoding && !t.IsZero() {
			us := t.UnixMicro()
			if d, before = us-before, us; d >= 0 {
				d++
			}
		}
		if Int(c, &d); !c.decoding {
			continue
		}
		if d == 0 {
			*t = time.Time{}
			continue
		}
		if d > 0 {
			d--
		}
		before += d
		*t = time.UnixMicro(before).UTC()
	}
}

// Slice codes the values of a slice by f.
func Slice[T any](c *Coder, s *[]T, f func(*T)) {
	n := c.Len(len(*s))
	if c.decoding {
		*s = make([]T, n)
	}
	for i := range *s {
		f(&(*s)[i])
	}
}
