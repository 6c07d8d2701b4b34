package oppertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// write writes the rows as they are sent.
func (u *Usage) write(req Request, a usageAnswer) []byte {
	rng := u.rng(req)
	b := []byte{'['}
	if a.wrapped {
		b = fmt.Appendf(nil, `{"meta":{"total_count":%d},"data":[`, a.total)
	}
	for i, r := range a.rows {
		if i > 0 {
			b = append(b, ',')
		}
		cost := unreadableCosts[i%len(unreadableCosts)]
		if !r.unreadable {
			cost = costShape(rng, r.amounts.Cost, a.t.Shapes)
		}
		fields := []string{`"time_bucket":` + bucketShape(rng, r.bucket, a.t.Shapes), `"cost":` + cost}
		if a.t.Shapes {
			fields = append(fields, `"count":`+numberShape(rng, r.amounts.Calls))
		} else {
			fields = append(fields, fmt.Sprintf(`"count":%d`, r.amounts.Calls))
		}
		for _, field := range req.Usage.Fields {
			n := map[string]int64{
				"prompt_tokens": r.amounts.InputTokens, "completion_tokens": r.amounts.OutputTokens,
				"total_tokens": r.amounts.InputTokens + r.amounts.OutputTokens,
			}[field]
			fields = append(fields, quote(field)+":"+tokenShape(rng, n, a.t.Shapes))
		}
		for j, group := range a.groups {
			if r.values[j] == nil && a.t.NullsAbsent && rng.IntN(2) == 0 {
				continue
			}
			if a.t.Underscores {
				group = strings.ReplaceAll(group, ".", "_")
			}
			value := quoteOr(r.values[j])
			if value == "" {
				value = "null"
			}
			fields = append(fields, quote(group)+":"+value)
		}
		if a.t.UnknownFields {
			fields = append(fields, fmt.Sprintf(`"prompt":%[1]s,%[1]s:{"cost":[%[1]s,{"cost":"9"}]}`, quote(Secret)))
		}
		if a.t.Shapes {
			rng.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		}
		b = append(b, '{')
		b = append(b, strings.Join(fields, ",")...)
		b = append(b, '}')
	}
	b = append(b, ']')
	if a.wrapped {
		b = append(b, '}')
	}
	return b
}

var unreadableCosts = []string{`"NaN"`, `"-Infinity"`, `"1e300"`, `{}`, `"a lot"`, `""`}

func bucketShape(rng *rand.Rand, t time.Time, shapes bool) string {
	layout := "2006-01-02T15:04:05Z"
	if shapes {
		all := []string{layout, "2006-01-02T15:04:05+00:00", "2006-01-02T15:04:05", "2006-01-02T15:04:05.000000Z", "2006-01-02 15:04:05+00:00"}
		layout = all[rng.IntN(len(all))]
	}
	return quote(t.Format(layout))
}

// costShape writes 10⁻⁹ dollars: with 8 decimals, or 9 if it needs them; or as any
// number that rounds to it.
func costShape(rng *rand.Rand, nanos int64, shapes bool) string {
	sign, digits := "", strconv.FormatInt(nanos, 10)
	if nanos < 0 {
		sign, digits = "-", digits[1:]
	}
	digits = strings.Repeat("0", max(0, 10-len(digits))) + digits
	whole, fraction := digits[:len(digits)-9], digits[len(digits)-9:]
	plain := sign + whole + "." + strings.TrimSuffix(fraction, "0")
	if !shapes {
		return quote(plain)
	}
	short := strings.TrimSuffix(sign+whole+"."+strings.TrimRight(fraction, "0"), ".")
	mantissa := strings.TrimLeft(whole+fraction, "0")
	if mantissa == "" {
		mantissa = "0"
	}
	all := []string{
		quote(plain), plain, quote(short), short,
		quote(sign + mantissa + "E-9"), sign + mantissa + "e-09",
		quote(sign + mantissa[:1] + "." + mantissa[1:] + "0e" + strconv.Itoa(len(mantissa)-10)),
		// What is below half of 10⁻⁹ changes nothing.
		quote(fmt.Sprintf("%s%s.%s%d%04d", sign, whole, fraction, rng.IntN(5), rng.IntN(10_000))),
		quote(sign + "00" + plain[len(sign):]),
		quote(sign + strings.TrimPrefix(whole, "0") + "." + fraction + "000"),
	}
	if sign == "" {
		all = append(all, quote("+"+short))
	}
	if nanos == 0 {
		all = append(all, "null", quote("-0.00000000"), quote("0E-8"))
	}
	return all[rng.IntN(len(all))]
}

func tokenShape(rng *rand.Rand, n int64, shapes bool) string {
	switch {
	case n == 0 && (!shapes || rng.IntN(2) == 0):
		return "null"
	case shapes:
		return numberShape(rng, n)
	default:
		return quote(strconv.FormatInt(n, 10))
	}
}

// numberShape writes a whole number.
func numberShape(rng *rand.Rand, n int64) string {
	text := strconv.FormatInt(n, 10)
	all := []string{text, text + ".0", text + "e0"}
	return slices.Concat(all, []string{quote(all[0]), quote(all[1]), quote(all[2])})[rng.IntN(6)]
}
