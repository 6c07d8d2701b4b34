package codec

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

type sample struct {
	Small          uint8
	Signed         int32
	Wide           int64
	Unsigned       uint64
	A, B, C        bool
	Float          float64
	Text           string
	Fixed          [3]byte
	One, Two, Last time.Time
	Slice          []uint16
}

func (s *sample) code(c *Coder) {
	Int(c, &s.Small)
	Int(c, &s.Signed)
	Int(c, &s.Wide)
	Int(c, &s.Unsigned)
	c.Bools(&s.A, &s.B, &s.C)
	c.Float(&s.Float)
	c.Text(&s.Text)
	c.Fixed(s.Fixed[:])
	c.Times(&s.One, &s.Two, &s.Last)
	Slice(c, &s.Slice, func(v *uint16) { Int(c, v) })
}

func randomSample(rng *rand.Rand) sample {
	yes := func() bool { return rng.IntN(2) == 0 }
	at := func() time.Time {
		switch rng.IntN(4) {
		case 0:
			return time.Time{}
		case 1:
			return time.UnixMicro(rng.Int64N(5) - 2).UTC() // around the one that is encoded as none
		case 2:
			return time.UnixMicro(-rng.Int64N(1 << 54)).UTC()
		}
		return time.UnixMicro(rng.Int64N(1 << 54)).UTC()
	}
	s := sample{
		Small: uint8(rng.Uint32()), Signed: int32(rng.Uint32()), Wide: rng.Int64()>>rng.IntN(64) - 5, Unsigned: rng.Uint64() >> rng.IntN(64),
		A: yes(), B: yes(), C: yes(), Float: math.Exp(100 * rng.NormFloat64()), Text: string(make([]byte, rng.IntN(200))),
		Fixed: [3]byte{1, byte(rng.Uint32()), 255}, One: at(), Two: at(), Last: at(), Slice: make([]uint16, rng.IntN(9)),
	}
	for i := range s.Slice {
		s.Slice[i] = uint16(rng.Uint32())
	}
	return s
}

// What is decoded is what was encoded, and bytes that are cut or continued are an
// error.
func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		want := randomSample(rng)
		encoded := Encode(want.code)
		var got sample
		if err := Decode(encoded, got.code); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, decoded %+v, want %+v", err, got, want)
		}
		for n := range encoded {
			if err := Decode(encoded[:n], new(sample).code); err == nil {
				t.Fatalf("no error for the first %d of %d bytes", n, len(encoded))
			}
		}
		if err := Decode(append(encoded, 0), new(sample).code); err == nil {
			t.Fatal("no error for a byte too many")
		}
	}
}

// An integer that does not fit, and a number of values that can't be there, are
// errors.
func TestOutOfRange(t *testing.T) {
	big, negative := uint64(256), int64(math.MinInt32-1)
	for name, err := range map[string]error{
		"unsigned": Decode(Encode(func(c *Coder) { Int(c, &big) }), func(c *Coder) { Int(c, new(uint8)) }),
		"signed":   Decode(Encode(func(c *Coder) { Int(c, &negative) }), func(c *Coder) { Int(c, new(int32)) }),
		"length":   Decode([]byte{200, 1, 0}, func(c *Coder) { Slice(c, new([]bool), func(*bool) {}) }),
		"overlong": Decode(bytes.Repeat([]byte{0xff}, 11), func(c *Coder) { Int(c, new(uint64)) }),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzDecode decodes arbitrary bytes, which are an error or a value that stays the
// same when it is encoded and decoded again.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 8 {
		s := randomSample(rng)
		f.Add(Encode(s.code))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second sample
		if Decode(b, first.code) != nil {
			return
		}
		encoded := Encode(first.code)
		if err := Decode(encoded, second.code); err != nil || !bytes.Equal(Encode(second.code), encoded) {
			t.Errorf("%v, decoded %+v, then %+v", err, first, second)
		}
	})
}
