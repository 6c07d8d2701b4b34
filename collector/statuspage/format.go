package statuspage

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"opper_exporter/collector/status"
)

// visible replaces what has no glyph of its own, such as control characters and
// those that change the direction of a text, by its code.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// maxCut is the maximum number of characters of a text in a table.
const maxCut = 160

// cut leaves the beginning of a long text.
func cut(text string) string {
	if runes := []rune(text); len(runes) > maxCut {
		return string(runes[:maxCut]) + "…"
	}
	return text
}

// count writes a number with commas between thousands.
func count(n any) string {
	text := fmt.Sprint(n)
	if f, ok := n.(float64); ok {
		text = strconv.FormatFloat(f, 'f', 0, 64)
	}
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// dollars writes an amount of money with that many digits of a dollar behind the
// point.
func dollars(amount float64, places int) string {
	sign := ""
	if amount < 0 {
		sign, amount = "-", -amount
	}
	whole, rest, _ := strings.Cut(strconv.FormatFloat(amount, 'f', places, 64), ".")
	return sign + "$" + count(whole) + "." + rest
}

func fromCents(n int64) string { return dollars(float64(n)/100, 2) }

// fromNanodollars shows more than cents of less than a dollar.
func fromNanodollars(n int64) string {
	switch {
	case n > 0 && n < status.Dollar/10_000:
		return "< $0.0001"
	case n > 0 && n < status.Dollar:
		return dollars(float64(n)/status.Dollar, 4)
	}
	return dollars(float64(n)/status.Dollar, 2)
}

// rate writes a number that is small most of the time.
func rate(n float64) string {
	if n < 99.95 {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return count(n)
}

// percent writes a share. It says 0 % and 100 % only for none and all.
func percent(part, whole uint64) string {
	tenths := math.Floor(float64(part) / float64(whole) * 1000)
	switch {
	case whole == 0:
		return "–"
	case part == 0 || part == whole:
		return fmt.Sprintf("%d %%", part/whole*100)
	case tenths < 1:
		return "< 0.1 %"
	}
	return strconv.FormatFloat(tenths/10, 'f', 1, 64) + " %"
}

// duration writes a time span with its two largest units.
func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Millisecond:
		return "0 s"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + " s"
	case d < time.Minute:
		return units(d, time.Second, "s", time.Second, "")
	case d < time.Hour:
		return units(d, time.Minute, "min", time.Second, "s")
	case d < day:
		return units(d, time.Hour, "h", time.Minute, "min")
	}
	return units(d, day, "d", time.Hour, "h")
}

// roughly writes an estimate.
func roughly(d time.Duration) string {
	if d < time.Minute {
		return "less than a minute"
	}
	return "about " + duration(d.Round(time.Minute))
}

func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	text := fmt.Sprintf("%d %s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}

// age writes how long ago a time was.
func age(at, now time.Time) string {
	d := now.Sub(at)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		d = d.Truncate(time.Second)
	}
	return duration(d) + " ago"
}

// size writes a number of bytes with about two digits.
func size(n float64) string { return humanize.Bytes(uint64(n)) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
