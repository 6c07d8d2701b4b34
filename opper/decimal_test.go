package opper

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

var decimalShape = regexp.MustCompile(`^([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?$`)

// plainDecimal is what decimal must return, in the words of math/big.
func plainDecimal(text string, places int) (int64, bool) {
	parts := decimalShape.FindStringSubmatch(text)
	if parts == nil {
		return 0, false
	}
	whole, fraction, _ := strings.Cut(parts[2], ".")
	digits := whole + fraction
	n, _ := new(big.Int).SetString(parts[1]+digits, 10)
	exponent := new(big.Int)
	if parts[3] != "" {
		exponent.SetString(parts[3], 10)
	}
	exponent.Add(exponent, big.NewInt(int64(places-len(fraction))))
	limit := big.NewInt(int64(len(digits)) + 100)
	switch {
	case n.Sign() == 0 || new(big.Int).Neg(limit).Cmp(exponent) > 0:
		return 0, true
	case exponent.Cmp(limit) > 0:
		return 0, false
	}
	power := new(big.Int).Exp(big.NewInt(10), new(big.Int).Abs(exponent), nil)
	if exponent.Sign() >= 0 {
		n.Mul(n, power)
	} else {
		sign := int64(n.Sign())
		var rest big.Int
		n.QuoRem(n, power, &rest)
		if rest.Abs(&rest).Lsh(&rest, 1).Cmp(power) >= 0 {
			n.Add(n, big.NewInt(sign))
		}
	}
	return n.Int64(), n.IsInt64()
}

func TestDecimal(t *testing.T) {
	for text, want := range map[string]int64{
		"0.07481650": 74816500, "0": 0, "-0": 0, "-0.0e5": 0, "1": 1e9, "+1": 1e9, "-1": -1e9, ".5": 5e8, "+.5": 5e8, "-.5": -5e8, "-0.5": -5e8, "1.": 1e9,
		"007": 7e9, "1e-7": 100, "1E-7": 100, "1.5e+1": 15e9, "12.5e-00001": 125e7, "0.000000001": 1,
		// Half of the last digit is rounded away from zero.
		"0.0000000005": 1, "-0.0000000005": -1, "0.00000000049999999999": 0, "-0.00000000049999999999": 0, "0.0000000015": 2, "0.0000000025": 3,
		"0.9999999995": 1e9, "1.99999999949999999999": 1999999999, "0.123456789012345678901234567890": 123456789, "0.000000000999999999999999999999": 1,
		// The range ends where that of an int64 does.
		"9223372036.854775807": 1<<63 - 1, "9223372036.8547758074": 1<<63 - 1, "-9223372036.854775808": -1 << 63, "-9223372036.8547758084999": -1 << 63,
		"9223372036854775807e-9": 1<<63 - 1, "0.0000009223372036854775807e16": 1<<63 - 1,
		// However large an exponent is, zeros make up for it.
		"0e999999999999999999999": 0, "1e-999999999999999999999": 0, "1e-18446744073709551616": 0, "1e-10": 0, "5e-10": 1, "0." + strings.Repeat("0", 5000) + "1e5000": 1e8,
		strings.Repeat("0", 5000) + "1": 1e9, "1" + strings.Repeat("0", 5000) + "e-5000": 1e9,
	} {
		if got, ok := decimal(text, 9); got != want || !ok {
			t.Errorf("%.40s: got %d, %t, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "-", "+", ".", "-.", "e", "e5", "1e", "1e+", "1e-", "1e5.", "1e1e1", ".e1", "1.2.3", "--1", "+-1", " 1", "1 ", "1,5", "1_000", "0x10", "Inf", "NaN", "null", "$1", "１",
		"9223372036.8547758075", "9223372036.854775808", "-9223372036.8547758085", "-9223372036.854775809", "9999999999.9999999999", "10000000000", "1e10", "-1e10",
		"1e999999999999999999999", "1e18446744073709551616", "99999999999999999999999999999999",
	} {
		if got, ok := decimal(text, 9); got != 0 || ok {
			t.Errorf("%s: got %d, %t, want none", text, got, ok)
		}
	}
	for text, want := range map[string]int64{"12": 12, "12.0": 12, "1.2e1": 12, "12.5": 13, "-12.5": -13, "0.4": 0, "9223372036854775807": 1<<63 - 1} {
		if got, ok := decimal(text, 0); got != want || !ok {
			t.Errorf("%s: got the integer %d, %t, want %d", text, got, ok, want)
		}
	}
}

// A number of many digits is never made of an exponent.
func TestDecimalAllocatesNoMoreThanTheText(t *testing.T) {
	for _, text := range []string{"1e999999999", "-1e-999999999", "1e99999999999999999999", "0." + strings.Repeat("9", 10000), strings.Repeat("9", 10000)} {
		// What earlier tests have left behind, such as idle connections, may allocate
		// meanwhile.
		fewest := uint64(math.MaxUint64)
		for range 20 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			decimal(text, 9)
			runtime.ReadMemStats(&after)
			fewest = min(fewest, after.TotalAlloc-before.TotalAlloc)
		}
		if limit := uint64(4*len(text) + 1000); fewest > limit {
			t.Errorf("%.30s: %d bytes, want at most %d", text, fewest, limit)
		}
	}
}

// fewestAllocs returns how often f allocates. What earlier tests have left behind, such
// as idle connections, may allocate meanwhile.
func fewestAllocs(f func()) float64 {
	fewest := math.Inf(1)
	for range 20 {
		fewest = min(fewest, testing.AllocsPerRun(1, f))
	}
	return fewest
}

func FuzzDecimal(f *testing.F) {
	for _, seed := range []string{
		"0.07481650", "1e-7", "-0.5", "+.5", "1.", "0.123456789012345678901234567890", "9223372036.8547758075", "-9223372036.8547758084", "1e99999999999999999999", "0e1", "-1.5E+0003", "1e1.", ".", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, places := range []int{0, 9} {
			got, ok := decimal(text, places)
			want, wantOK := plainDecimal(text, places)
			if ok != wantOK || ok && got != want || !ok && got != 0 {
				t.Errorf("%q in units of 10^-%d: got %d, %t, want %d, %t", text, places, got, ok, want, wantOK)
			}
		}
	})
}

// Digits around the ends of the range, which random texts seldom reach.
func FuzzDecimalDigits(f *testing.F) {
	f.Add(int64(1<<63-1), uint64(4999), -3, 0)
	f.Add(int64(-1<<63), uint64(5), -1, 4)
	f.Add(int64(74816500), uint64(0), 0, 25)
	f.Fuzz(func(t *testing.T, n int64, more uint64, exponent, point int) {
		sign, digits := "", fmt.Sprint(n)
		if n < 0 {
			sign, digits = "-", digits[1:]
		}
		digits += fmt.Sprint(more)
		point = min(max(point, 0), len(digits))
		text := fmt.Sprintf("%s%s.%se%d", sign, digits[:point], digits[point:], exponent%64)
		got, ok := decimal(text, 9)
		if want, wantOK := plainDecimal(text, 9); ok != wantOK || ok && got != want {
			t.Errorf("%s: got %d, %t, want %d, %t", text, got, ok, want, wantOK)
		}
	})
}
