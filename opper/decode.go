package opper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"opper_exporter/opper/jsonscan"
)

// A longer value is cut: see jsonscan.Scanner.String.
const (
	maxValue = 64 << 10 // bytes of a name, a status or a time
	maxID    = 256      // bytes of an id
)

// maxInterned is as many names and statuses as an honest page has. A key can be repeated
// within a row for as long as an answer lasts.
const maxInterned = 2 * PageSize

// maxExact is the largest integer that every JSON reader represents exactly.
const maxExact = 1 << 53 // 9007199254740992

var (
	// ErrTooManyRows is a page with more rows than were asked for: limit is
	// ignored, so asking for fewer does not help. Of usage, it is an answer with more
	// than 1<<17 rows, fewer if they are long: a shorter window helps.
	ErrTooManyRows = errors.New("more rows than the limit")

	errNoList = errors.New(`JSON without a list of traces ("data" or "traces")`)
	errNoID   = errors.New("JSON without the id of a trace")
)

// DecodePage reads one page of the list, of either version of the API, to its
// end. A value of the wrong type counts as null, but a body that is not JSON, is
// cut, or holds no list is an error: it must not pass for an empty list. More
// than limit rows are an ErrTooManyRows at once, without reading on. An error of
// r comes back wrapped.
func DecodePage(r io.Reader, limit int) (Page, error) {
	page := Page{Total: -1}
	var data, traces []Trace // nil unless present as a list
	rows := 0
	err := decode(r, func(d *decoder) {
		list := func() []Trace {
			list := d.traces(limit)
			if rows += len(list); rows > 2*limit { // there are two lists, or a key is repeated
				d.tooMany(limit)
			}
			return list
		}
		d.Object(func(key []byte) {
			switch string(key) {
			case "meta":
				page.Total = d.total()
			case "data":
				data = list()
			case "traces":
				traces = list()
			default:
				d.Skip()
			}
		})
	})
	if err != nil {
		return Page{}, err
	}
	if data == nil {
		data = traces
	}
	if data == nil {
		return Page{}, errNoList
	}
	page.Traces = data
	return page, nil
}

// decodeTrace reads one trace, bare or as the "data" of an object.
func decodeTrace(r io.Reader) (Trace, error) {
	var bare, wrapped row
	if err := decode(r, func(d *decoder) { d.row(&bare, &wrapped) }); err != nil {
		return Trace{}, err
	}
	for _, r := range []*row{&bare, &wrapped} {
		if id := r.identifier(); len(id) > 0 {
			r.ID = string(id)
			return r.finish(), nil
		}
	}
	return Trace{}, errNoID
}

// decoder reads what we want of an answer, and remembers what repeats in it.
type decoder struct {
	*jsonscan.Scanner
	interned map[string]string // names and statuses that were read last
	day      string            // the last date that was read, as written
	midnight int64             // its begin in Unix seconds
}

func decode(r io.Reader, visit func(*decoder)) error {
	return jsonscan.Read(r, func(s *jsonscan.Scanner) {
		visit(&decoder{Scanner: s, interned: map[string]string{}})
	})
}

// traces reads a list of rows, at most limit; nil if the value is no list.
func (d *decoder) traces(limit int) []Trace {
	var (
		traces = []Trace{}
		ids    strings.Builder // of the page: one allocation each slows decoding by 5 %
		r      row
	)
	isList := d.Array(func() {
		switch len(traces) {
		case limit:
			d.tooMany(limit)
			return
		case 0:
			expected := min(limit, PageSize)
			traces = make([]Trace, 0, expected)
			ids.Grow(expected * len("3c90c3cc-0d44-4b50-8888-8dd25736052a"))
		}
		r = row{id: r.id[:0], uuid: r.uuid[:0]}
		d.row(&r, nil)
		n, _ := ids.Write(r.identifier()) // never fails
		all := ids.String()
		r.ID = all[len(all)-n:]
		traces = append(traces, r.finish())
	})
	if !isList {
		return nil
	}
	return traces
}

func (d *decoder) tooMany(limit int) { d.Fail(fmt.Errorf("%w of %d", ErrTooManyRows, limit)) }

// row reads a trace. If wrapped is not nil, it gets what is in "data".
func (d *decoder) row(r, wrapped *row) {
	d.Object(func(key []byte) {
		if wrapped != nil && string(key) == "data" {
			*wrapped = row{}
			d.row(wrapped, nil)
		} else {
			d.field(r, key)
		}
	})
}

// total reads the number of traces from the meta object; -1 if there is none.
func (d *decoder) total() int {
	count, total := int64(-1), int64(-1)
	d.Object(func(key []byte) {
		switch string(key) {
		case "total_count":
			count = d.integer()
		case "total":
			total = d.integer()
		default:
			d.Skip()
		}
	})
	if count < 0 {
		count = total
	}
	if count > math.MaxInt {
		count = -1
	}
	return int(count)
}

// row is a trace while its fields arrive, in any order.
type row struct {
	Trace
	id, uuid         []byte
	hasStart, hasEnd bool
	hasMillis        bool // duration_ms is a number, even if one out of range
}

// field reads the value of a key. It knows neither input nor output.
func (d *decoder) field(r *row, key []byte) {
	switch string(key) {
	case "id":
		r.id = d.id(r.id)
	case "uuid":
		r.uuid = d.id(r.uuid)
	case "name":
		r.Name, _ = d.label(maxValue)
	case "status":
		r.Status, r.HasStatus = d.label(maxValue)
	case "start_time":
		r.Start, r.hasStart = d.time()
	case "end_time":
		r.End, r.hasEnd = d.time()
	case "duration_ms":
		r.Duration, r.HasDuration, r.hasMillis = d.millis()
	case "total_tokens":
		n := d.integer()
		r.Tokens, r.HasTokens = max(n, 0), n >= 0
	default:
		d.Skip()
	}
}

// identifier returns the id of a row; empty if it has none.
func (r *row) identifier() []byte {
	if len(r.id) > 0 {
		return r.id
	}
	return r.uuid
}

func (r *row) finish() Trace {
	if !r.hasMillis && r.hasStart && r.hasEnd {
		// Sub does not overflow but stops at the ends of the range.
		if d := r.End.Sub(r.Start); d != math.MaxInt64 && d != math.MinInt64 {
			r.Duration, r.HasDuration = d.Round(time.Microsecond), true
		}
	}
	r.Start, r.End = known(r.Start, r.hasStart), known(r.End, r.hasEnd)
	return r.Trace
}

// known returns a time that is not the zero time if it was given. The empty date of
// some clients is the zero time, and would make an ended trace an open one: it
// becomes the next microsecond, as that is how precisely times are stored.
func known(t time.Time, given bool) time.Time {
	if given && t.IsZero() {
		return t.Add(time.Microsecond)
	}
	return t
}

// id reads a string that no other row has into buf; nothing for any other value.
func (d *decoder) id(buf []byte) []byte {
	text, _ := d.String(maxID)
	return append(buf[:0], text...)
}

// label reads a string that many rows have; false for any other value.
func (d *decoder) label(limit int) (string, bool) {
	text, ok := d.String(limit)
	if !ok {
		return "", false
	}
	label, ok := d.interned[string(text)]
	if !ok {
		if len(d.interned) == maxInterned {
			clear(d.interned) // what rows hold stays with them
		}
		label = string(text)
		d.interned[label] = label
	}
	return label, true
}

// time reads a time; false for any other value.
func (d *decoder) time() (time.Time, bool) {
	text, _ := d.String(maxValue)
	if t, ok := d.plainTime(text); ok {
		return t, true
	}
	if len(text) > 10 && text[10] == ' ' {
		text[10] = 'T'
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, string(text)); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// plainTime reads a time as most are written, 2006-01-02T15:04:05.999999Z, and
// reports false for any other: time.Parse takes a third of the decoding. Most
// rows of a page are of the same day.
func (d *decoder) plainTime(text []byte) (time.Time, bool) {
	const atT, atZone = len("2006-01-02"), len("2006-01-02T15:04:05")
	n := len(text) - 1
	if n < atZone || text[n] != 'Z' || text[atT] != 'T' || text[atT+3] != ':' || text[atT+6] != ':' {
		return time.Time{}, false
	}
	hour, minute, second := twoDigits(text[atT+1:]), twoDigits(text[atT+4:]), twoDigits(text[atT+7:])
	var nanos int64
	if fraction := text[atZone:n]; len(fraction) > 0 {
		if fraction[0] != '.' || len(fraction) == 1 || len(fraction) > 10 {
			return time.Time{}, false
		}
		for i := 1; i < 10; i++ {
			nanos *= 10
			if i < len(fraction) {
				if !isDigit(fraction[i]) {
					return time.Time{}, false
				}
				nanos += int64(fraction[i] - '0')
			}
		}
	}
	if hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	if string(text[:atT]) != d.day {
		t, err := time.Parse(time.DateOnly, string(text[:atT]))
		if err != nil {
			return time.Time{}, false
		}
		d.day, d.midnight = string(text[:atT]), t.Unix()
	}
	return time.Unix(d.midnight+int64(hour*3600+minute*60+second), nanos).UTC(), true
}

// twoDigits returns the number that text begins with, or more than any such.
func twoDigits(text []byte) int {
	if !isDigit(text[0]) || !isDigit(text[1]) {
		return 100
	}
	return int(text[0]-'0')*10 + int(text[1]-'0')
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// millis reads a number of milliseconds. It reports whether that fits into a
// duration, and whether it is a number at all.
func (d *decoder) millis() (_ time.Duration, fits, number bool) {
	literal, number := d.Number()
	ms, ok := float(literal)
	us := math.Round(ms * 1000)
	if !ok || math.Abs(us) >= math.MaxInt64/1000 {
		return 0, false, number
	}
	return time.Duration(us) * time.Microsecond, true, number
}

// integer reads an integer from 0 to maxExact; -1 for any other value.
func (d *decoder) integer() int64 {
	literal, _ := d.Number()
	f, ok := float(literal)
	if !ok || f < 0 || f > maxExact || f != math.Trunc(f) {
		return -1
	}
	// As a float, the first integer that is too large rounds to the last that is not.
	if f == maxExact && !bytes.ContainsAny(literal, ".eE") && string(literal) != "9007199254740992" {
		return -1
	}
	return int64(f)
}

// float returns the value of a number; false if it is out of range or none.
func float(literal []byte) (float64, bool) {
	if 0 < len(literal) && len(literal) <= 15 { // a float holds so many digits exactly
		var n int64
		for _, c := range literal {
			if !isDigit(c) {
				n = -1
				break
			}
			n = 10*n + int64(c-'0')
		}
		if n >= 0 {
			return float64(n), true
		}
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	return f, err == nil
}
