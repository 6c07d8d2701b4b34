package opper

import (
	"math"
	"strconv"
	"strings"
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
func decimal(text string, places int) (int64, bool) {
	text, negative := cutSign(text)
	exponent := 0
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		size, negative := cutSign(text[i+1:])
		if !isDigits(size) {
			return 0, false
		}
		n, _ := strconv.ParseUint(size, 10, 64) // the maximum if it is out of range
		exponent = int(min(n, maxExponent))
		if negative {
			exponent = -exponent
		}
		text = text[:i]
	}
	whole, fraction, _ := strings.Cut(text, ".")
	if !isDigits(whole + fraction) {
		return 0, false
	}
	digits := strings.TrimLeft(whole+fraction, "0")
	point := len(digits) - len(fraction) + exponent + places // how many digits stand before it
	switch {
	case digits == "" || point < 0:
		return 0, true
	case point > maxDigits:
		return 0, false
	}
	digits = digits[:min(len(digits), maxDigits+1)] + strings.Repeat("0", maxDigits+1)
	n, _ := strconv.ParseUint("0"+digits[:point], 10, 64) // so few digits are in range
	if digits[point] >= '5' {
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

func isDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

func cutSign(text string) (rest string, negative bool) {
	if text != "" && (text[0] == '-' || text[0] == '+') {
		return text[1:], text[0] == '-'
	}
	return text, false
}
