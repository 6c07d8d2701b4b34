package opper

import (
	"bytes"
	"math"
)

const (
	// maxDigits is how many digits the largest int64 has.
	maxDigits = 19
	// maxExponent bounds an exponent. No value is long enough for a larger one to
	// matter, as it would have to be made up for by as many zeros.
	maxExponent = 1 << 27
)

// decimal returns the decimal number that a text is, in units of 10^-places,
// rounded half away from zero. It is false for any other text, and for a number that
// is too large. The time it takes depends on the length of the text alone.
func decimal(text []byte, places int) (int64, bool) {
	text, negative := cutSign(text)
	exponent := 0
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		var ok bool
		if exponent, ok = decimalExponent(text[i+1:]); !ok {
			return 0, false
		}
		text = text[:i]
	}
	// The number is 0.d₁d₂d₃… × 10^whole, and d₁ is not 0. One digit more than fit
	// is needed to round.
	var (
		digits              [maxDigits + 1]byte
		kept, whole         int
		hasDigits, hasPoint bool
	)
	for _, c := range text {
		if c == '.' && !hasPoint {
			hasPoint = true
			continue
		}
		if !isDigit(c) {
			return 0, false
		}
		hasDigits = true
		if kept == 0 && c == '0' {
			if hasPoint {
				whole--
			}
			continue
		}
		if !hasPoint {
			whole++
		}
		if kept < len(digits) {
			digits[kept] = c - '0'
			kept++
		}
	}
	whole += exponent + places
	switch {
	case !hasDigits:
		return 0, false
	case kept == 0 || whole < 0:
		return 0, true
	case whole > maxDigits:
		return 0, false
	}
	var n uint64
	for _, digit := range digits[:whole] {
		n = 10*n + uint64(digit)
	}
	if digits[whole] >= 5 {
		n++
	}
	switch {
	case negative && n <= -math.MinInt64:
		return -int64(n), true
	case !negative && n <= math.MaxInt64:
		return int64(n), true
	}
	return 0, false
}

// decimalExponent returns an exponent, or maxExponent of its sign if that is nearer
// to 0.
func decimalExponent(text []byte) (int, bool) {
	text, negative := cutSign(text)
	exponent := 0
	for _, c := range text {
		if !isDigit(c) {
			return 0, false
		}
		exponent = min(10*exponent+int(c-'0'), maxExponent)
	}
	if negative {
		exponent = -exponent
	}
	return exponent, len(text) > 0
}

func cutSign(text []byte) (rest []byte, negative bool) {
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		return text[1:], text[0] == '-'
	}
	return text, false
}
