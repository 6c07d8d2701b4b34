package oppertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// listed is a row on its way out, so that nothing is written under the lock.
type listed struct {
	place
	version
}

type answer struct {
	status int
	v3     bool
	error  string // the message of a refusal; "" with a status that is not 200 is an empty body
	one    bool
	rows   []listed
	total  *int
	text   []byte // the whole body, of other endpoints than that of traces
}

func (a *answer) refuse(status int, message string) {
	a.status, a.error = status, message
	if status == http.StatusUnauthorized && a.v3 {
		a.error = ""
	}
}

func (a *answer) take(lives []*life) {
	a.rows = make([]listed, len(lives))
	for i, l := range lives {
		a.rows[i] = listed{l.place, l.version}
	}
}

// write sends the body row by row: a page with large bodies is never whole
// in memory. An error of w means that the client went away.
func (a *answer) write(w io.Writer, body []byte) {
	if a.status != http.StatusOK {
		_, _ = io.WriteString(w, a.refusal())
		return
	}
	if a.text != nil {
		_, _ = w.Write(a.text)
		return
	}
	if a.one {
		_, _ = w.Write(a.rows[0].append(nil, a.v3, body, true))
		return
	}
	b := []byte(`{"meta":{`)
	if a.total != nil {
		b = fmt.Appendf(b, `"total_count":%d`, *a.total)
	}
	b = append(b, `},"data":[`...)
	for i := range a.rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.rows[i].append(b, a.v3, body, false)
		if len(b) < 32<<10 {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return
		}
		b = b[:0]
	}
	_, _ = w.Write(append(b, `]}`...))
}

func (a *answer) refusal() string {
	code, message := quote(http.StatusText(a.status)), quote(a.error)
	switch {
	case a.error == "":
		return ""
	case a.v3:
		return fmt.Sprintf(`{"error":{"code":%s,"message":%s}}`, code, message)
	default:
		return fmt.Sprintf(`{"type":%s,"message":%s,"detail":%s}`, code, message, message)
	}
}

func (l *listed) append(b []byte, v3 bool, body []byte, spans bool) []byte {
	if l.raw != nil {
		return append(b, *l.raw...)
	}
	b = append(b, '{')
	var v [64]byte // most values are short, and there are very many
	field := func(name string, value []byte) {
		if len(value) == 0 {
			if v3 {
				return
			}
			value = null
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
		b = append(b, value...)
	}
	// A trace without an id has no key for one, in both versions.
	if l.id != "" {
		field("id", appendQuoted(v[:0], &l.id))
	}
	field("start_time", l.appendTime(v[:0], l.start, hasStart))
	field("end_time", l.appendTime(v[:0], l.end, hasEnd))
	field("duration_ms", l.appendNumber(v[:0], l.ms, hasMS))
	field("status", appendQuoted(v[:0], l.status))
	field("name", appendQuoted(v[:0], l.name))
	if v3 {
		field("span_count", []byte("1"))
	} else {
		field("input", body)
		field("output", body)
		field("total_tokens", l.appendNumber(v[:0], float64(l.tokens), hasTokens))
	}
	if spans {
		private := quote("span " + Secret)
		field("spans", []byte(`[{"id":`+quote(l.id+"-0")+`,"parent_id":null,"type":"generation","name":"root","error":null,"input":`+
			private+`,"output":`+private+`,"data":{"model":"oppertest/model","prompt":`+private+`}}]`))
	}
	return append(b, '}')
}

var null = []byte("null")

// appendTime writes a time in one of the shapes that occur, always the same one
// for the same trace.
func (l *listed) appendTime(b []byte, us int64, has uint8) []byte {
	if l.has&has == 0 {
		return b
	}
	zone := [...]string{`Z"`, `+00:00"`, `"`}[l.seq%3]
	return append(fromMicros(us).AppendFormat(append(b, '"'), "2006-01-02T15:04:05.999999"), zone...)
}

func (l *listed) appendNumber(b []byte, f float64, has uint8) []byte {
	if l.has&has == 0 {
		return b
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

func appendQuoted(b []byte, s *string) []byte {
	switch {
	case s == nil:
		return b
	case strings.IndexFunc(*s, isEscaped) >= 0:
		return append(b, quote(*s)...)
	}
	return append(append(append(b, '"'), *s...), '"')
}

// isEscaped reports whether the character may not stand for itself.
func isEscaped(c rune) bool {
	return c < ' ' || c > '~' || strings.ContainsRune(`"\<>&`, c)
}

func quoteOr(s *string) string {
	if s == nil {
		return ""
	}
	return quote(*s)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be marshaled
	}
	return string(b)
}

// body makes one input or output of at least n bytes, as JSON: with escapes,
// with UTF-8 of every length, and with text that looks like a row.
func body(n int) []byte {
	if n == 0 {
		return nil
	}
	const piece = Secret + ` "quoted" \ back, é, 日本, 🙂, ` + "tab\tline\n\u2028" +
		`{"id":"not-a-trace","total_tokens":999999999}],"data":[` + " "
	pieces := slices.Repeat([]string{piece}, n/len(piece)+1)
	return []byte(quote(strings.Join(pieces, "")))
}
