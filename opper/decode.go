package opper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// More than that is not held of a value, however long it is.
const (
	maxValue = 64 << 10 // bytes of a name or a status
	maxID    = 256      // bytes of an identifier
)

// maxExact is the largest whole number that every reader of JSON agrees on.
const maxExact = 1 << 53 // 9007199254740992

// Decoders are used again. What they keep for the next page is bounded.
const (
	maxInterned = 1024 // names and statuses
	maxInternee = 256  // bytes of one of them
)

var (
	// ErrTooManyRows is a page with more rows than were asked for: limit is
	// ignored, so that asking for fewer does not help.
	ErrTooManyRows = errors.New("more rows than the limit")

	errNoList = errors.New(`JSON without a list of traces ("data" or "traces")`)
	errNoID   = errors.New("JSON without the id of a trace")
)

// DecodePage reads one answer to a listing, of either version of the API, to
// its end. A value of the wrong type counts as null, but a body that is not
// JSON, is cut, or holds no list is an error: it must not pass for an empty
// list. More than limit rows are an ErrTooManyRows at once, without reading on.
// An error of r comes back wrapped.
func DecodePage(r io.Reader, limit int) (Page, error) {
	page := Page{Total: -1}
	var data, traces []Trace // nil unless there as a list
	rows := 0
	err := decodeBody(r, func(d *decoder) {
		list := func() []Trace {
			list := d.traces(limit)
			if rows += len(list); rows > 2*limit { // there are two, or one key stands there again and again
				d.tooMany(limit)
			}
			return list
		}
		d.members(func(key []byte) {
			switch string(key) {
			case "meta":
				page.Total = d.total()
			case "data":
				data = list()
			case "traces":
				traces = list()
			default:
				d.skip()
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
	err := decodeBody(r, func(d *decoder) { d.row(&bare, &wrapped) })
	if err != nil {
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

// decoder reads what we want of an answer.
type decoder struct {
	scanner
	long     longText
	interned map[string]string // by how they are written
	ids      strings.Builder   // of one page, so that they are one piece of memory
	day      string            // the last date that was read, as it was written
	midnight int64             // when it began, in Unix seconds
}

var decoders = sync.Pool{New: func() any {
	return &decoder{scanner: scanner{buf: make([]byte, scanBuffer)}, interned: map[string]string{}}
}}

// decodeBody lets read take the one JSON value that r must hold.
func decodeBody(r io.Reader, read func(*decoder)) error {
	d := decoders.Get().(*decoder) // there is nothing else in it
	d.scanner = scanner{src: r, buf: d.buf}
	read(d)
	err := d.close()
	d.src = nil
	d.ids.Reset()
	decoders.Put(d)
	if _, malformed := errors.AsType[syntaxError](err); err == nil || malformed || errors.Is(err, ErrTooManyRows) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("incomplete JSON: %w", err)
}

// members calls read with the key of each member of an object, to read its
// value. If the next value is no object, it is skipped.
func (d *decoder) members(read func(key []byte)) {
	if !d.enter('{') {
		return
	}
	for key, more := d.member(true); more; key, more = d.member(false) {
		key, _ = unescape(key, true)
		read(key)
	}
}

// traces reads a list of rows, no more than limit; nil if the value is no list.
func (d *decoder) traces(limit int) []Trace {
	if !d.enter('[') {
		return nil
	}
	traces := []Trace{}
	var r row
	for first := true; d.element(first); first = false {
		if len(traces) == limit {
			d.tooMany(limit)
			return nil
		}
		if first {
			traces = pages.Get().(*[pageSize]Trace)[:0] // there is nothing else in it
			d.ids.Grow(pageSize * len("3c90c3cc-0d44-4b50-8888-8dd25736052a"))
		}
		r = row{id: r.id[:0], uuid: r.uuid[:0]}
		d.row(&r, nil)
		n, _ := d.ids.Write(r.identifier()) // never fails
		all := d.ids.String()
		r.ID = all[len(all)-n:]
		traces = append(traces, r.finish())
	}
	return traces
}

func (d *decoder) tooMany(limit int) { d.fail(fmt.Errorf("%w of %d", ErrTooManyRows, limit)) }

// row reads a trace. If wrapped is not nil, it gets what is in "data".
func (d *decoder) row(r, wrapped *row) {
	d.members(func(key []byte) {
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
	d.members(func(key []byte) {
		switch string(key) {
		case "total_count":
			count = d.whole()
		case "total":
			total = d.whole()
		default:
			d.skip()
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
	id, uuid  []byte
	hasMillis bool // duration_ms is a number, even if one out of range
}

// field reads the value of a key. input and output are not among those that it
// knows.
func (d *decoder) field(r *row, key []byte) {
	switch string(key) {
	case "id":
		r.id = d.id(r.id)
	case "uuid":
		r.uuid = d.id(r.uuid)
	case "name":
		r.Name, _ = d.label()
	case "status":
		r.Status, r.HasStatus = d.label()
	case "start_time":
		r.Start = d.instant()
	case "end_time":
		r.End = d.instant()
	case "duration_ms":
		r.Duration, r.HasDuration, r.hasMillis = d.millis()
	case "total_tokens":
		n := d.whole()
		r.Tokens, r.HasTokens = max(n, 0), n >= 0
	default:
		d.skip()
	}
}

// identifier returns the identifier of a row; empty if it has none.
func (r *row) identifier() []byte {
	if len(r.id) > 0 {
		return r.id
	}
	return r.uuid
}

func (r *row) finish() Trace {
	if !r.hasMillis && !r.Start.IsZero() && !r.End.IsZero() {
		// Sub does not overflow but stops at the ends of the range.
		if d := r.End.Sub(r.Start); d != math.MaxInt64 && d != math.MinInt64 {
			r.Duration, r.HasDuration = d.Round(time.Microsecond), true
		}
	}
	return r.Trace
}

// text reads a string, of which it returns no more than limit bytes and what
// tells it from others: see longText. They are good until more is read. It
// returns false for anything but a string.
func (d *decoder) text(limit int) ([]byte, bool) {
	if !d.string() {
		return nil, false
	}
	return d.decoded(limit), true
}

// string reads a string into tok and long; false for anything else.
func (d *decoder) string() bool {
	d.long.size = 0
	return d.value(&d.long) == '"'
}

// decoded returns the string that was read.
func (d *decoder) decoded(limit int) []byte {
	if d.long.size == 0 {
		text, _ := unescape(d.tok(), true)
		if len(text) <= limit {
			return text
		}
		d.long.add(text)
	} else {
		d.long.write(d.tok(), true)
	}
	return d.long.text(limit)
}

// id reads a string that no other row has into buf; nothing for anything else.
func (d *decoder) id(buf []byte) []byte {
	text, _ := d.text(maxID)
	return append(buf[:0], text...)
}

// label reads a string that many rows have; false for anything else.
func (d *decoder) label() (string, bool) {
	if !d.string() {
		return "", false
	}
	if d.long.size > 0 || len(d.tok()) > maxInternee {
		return string(d.decoded(maxValue)), true
	}
	text, ok := d.interned[string(d.tok())]
	if !ok {
		written := string(d.tok())
		text = string(d.decoded(maxValue))
		if len(d.interned) == maxInterned {
			clear(d.interned)
		}
		d.interned[written] = text
	}
	return text, true
}

// instant reads a time; zero for anything else. The empty date of a client is
// the zero time. It is a time all the same, or what has ended would be taken for
// running: it becomes the next nanosecond, which Opper can't write.
func (d *decoder) instant() time.Time {
	t, ok := d.readInstant()
	if ok && t.IsZero() {
		t = t.Add(time.Nanosecond)
	}
	return t
}

func (d *decoder) readInstant() (time.Time, bool) {
	if !d.string() {
		return time.Time{}, false
	}
	if d.long.size == 0 {
		if t, ok := d.plainInstant(d.tok()); ok {
			return t, true
		}
	}
	text := d.decoded(maxValue)
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

// plainInstant reads a time as most are written, 2006-01-02T15:04:05.999999Z,
// and reports false for any other. Most rows of a page are of the same day.
func (d *decoder) plainInstant(text []byte) (time.Time, bool) {
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

// millis reads a number of milliseconds. It reports whether that fits into a
// duration, and whether it is a number at all.
func (d *decoder) millis() (_ time.Duration, fits, number bool) {
	if !isNumber(d.value(nil)) {
		return 0, false, false
	}
	ms, ok := d.float()
	us := math.Round(ms * 1000)
	if !ok || math.Abs(us) >= math.MaxInt64/1000 {
		return 0, false, true
	}
	return time.Duration(us) * time.Microsecond, true, true
}

// whole reads a whole number from 0 to maxExact; -1 for anything else.
func (d *decoder) whole() int64 {
	if !isNumber(d.value(nil)) {
		return -1
	}
	f, ok := d.float()
	if !ok || f < 0 || f > maxExact || f != math.Trunc(f) {
		return -1
	}
	// As a float, the first number that is too large rounds to the last that is not.
	if f == maxExact && !bytes.ContainsAny(d.tok(), ".eE") && string(d.tok()) != "9007199254740992" {
		return -1
	}
	return int64(f)
}

// float returns the number that was read; false if it is out of range.
func (d *decoder) float() (float64, bool) {
	tok := d.tok()
	if len(tok) <= 15 { // each of so many digits counts in a float
		var n int64
		for _, c := range tok {
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
	f, err := strconv.ParseFloat(string(tok), 64)
	return f, err == nil
}

func isNumber(kind byte) bool { return kind == '-' || isDigit(kind) }
