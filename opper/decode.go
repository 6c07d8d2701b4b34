package opper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"
)

// maxExact is the largest whole number that every reader of JSON agrees on.
const maxExact = 1 << 53 // 9007199254740992

// Decoders are used again. What they keep for the next page is bounded.
const (
	maxKept     = 64 << 10 // bytes of a value
	maxInterned = 1024     // names and statuses
	maxInternee = 256      // bytes of one of them
)

// pageSize is how many rows Opper gives at once.
const pageSize = 100

var (
	errNoList = errors.New(`JSON without a list of traces ("data" or "traces")`)
	errNoID   = errors.New("JSON without the id of a trace")
)

// DecodePage reads one answer to a listing, of either version of the API, to
// its end. A value of the wrong type counts as null, but a body that is not
// JSON, is cut, or holds no list is an error: it must not pass for an empty
// list. An error of r comes back wrapped.
func DecodePage(r io.Reader) (Page, error) {
	page := Page{Total: -1}
	var data, traces []Trace // nil unless there as a list
	err := decodeBody(r, func(d *decoder) error {
		isObject, err := d.enter('{')
		for first := true; isObject && err == nil; first = false {
			var more bool
			if more, err = d.member(first); !more {
				break
			}
			switch string(d.key()) {
			case "meta":
				page.Total, err = d.total()
			case "data":
				data, err = d.traces()
			case "traces":
				traces, err = d.traces()
			default:
				err = d.skip()
			}
		}
		return err
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
	err := decodeBody(r, func(d *decoder) error {
		return d.row(&bare, &wrapped)
	})
	if err != nil {
		return Trace{}, err
	}
	for _, r := range []*row{&bare, &wrapped} {
		if t := r.finish(); t.ID != "" {
			return t, nil
		}
	}
	return Trace{}, errNoID
}

// decoder reads what we want of an answer.
type decoder struct {
	scanner
	interned map[string]string // by how they are written
}

var decoders = sync.Pool{New: func() any {
	return &decoder{scanner: scanner{buf: make([]byte, scanBuffer)}, interned: map[string]string{}}
}}

// decodeBody lets read take the one JSON value that r must hold.
func decodeBody(r io.Reader, read func(*decoder) error) error {
	d := decoders.Get().(*decoder) // there is nothing else in it
	d.scanner = scanner{src: r, buf: d.buf, tok: d.tok[:0]}
	err := read(d)
	if err == nil {
		err = d.close()
	}
	d.src = nil
	if cap(d.tok) > maxKept {
		d.tok = nil
	}
	decoders.Put(d)
	if _, malformed := errors.AsType[syntaxError](err); err == nil || malformed {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("incomplete JSON: %w", err)
}

// key returns the key that member met.
func (d *decoder) key() []byte {
	if bytes.IndexByte(d.tok, '\\') < 0 {
		return d.tok // if it is not valid UTF-8, it is none that we know
	}
	return decoded(d.tok)
}

// traces reads a list of rows; nil if the value is no list.
func (d *decoder) traces() ([]Trace, error) {
	isList, err := d.enter('[')
	if !isList || err != nil {
		return nil, err
	}
	traces := []Trace{}
	for first := true; ; first = false {
		if more, err := d.element(first); !more || err != nil {
			return traces, err
		}
		if first {
			traces = make([]Trace, 0, pageSize)
		}
		var r row
		if err := d.row(&r, nil); err != nil {
			return nil, err
		}
		traces = append(traces, r.finish())
	}
}

// row reads a trace. If wrapped is not nil, it gets what is in "data".
func (d *decoder) row(r, wrapped *row) error {
	isObject, err := d.enter('{')
	for first := true; isObject && err == nil; first = false {
		var more bool
		if more, err = d.member(first); !more {
			break
		}
		if key := d.key(); wrapped != nil && string(key) == "data" {
			*wrapped = row{}
			err = d.row(wrapped, nil)
		} else {
			err = d.field(r, key)
		}
	}
	return err
}

// total reads the number of traces from the meta object; -1 if there is none.
func (d *decoder) total() (int, error) {
	count, total := int64(-1), int64(-1)
	isObject, err := d.enter('{')
	for first := true; isObject && err == nil; first = false {
		var more bool
		if more, err = d.member(first); !more {
			break
		}
		switch string(d.key()) {
		case "total_count":
			count, err = d.whole()
		case "total":
			total, err = d.whole()
		default:
			err = d.skip()
		}
	}
	if count < 0 {
		count = total
	}
	if count > math.MaxInt {
		count = -1
	}
	return int(count), err
}

// row is a trace while its fields arrive, in any order.
type row struct {
	Trace
	uuid      string
	hasMillis bool // duration_ms is a number, even if one out of range
}

// field reads the value of a key. input and output are not among those that it
// knows.
func (d *decoder) field(r *row, key []byte) (err error) {
	switch string(key) {
	case "id":
		r.ID, err = d.id()
	case "uuid":
		r.uuid, err = d.id()
	case "name":
		r.Name, _, err = d.label()
	case "status":
		r.Status, r.HasStatus, err = d.label()
	case "start_time":
		r.Start, err = d.instant()
	case "end_time":
		r.End, err = d.instant()
	case "duration_ms":
		r.Duration, r.HasDuration, r.hasMillis, err = d.millis()
	case "total_tokens":
		var n int64
		n, err = d.whole()
		r.Tokens, r.HasTokens = max(n, 0), n >= 0
	default:
		err = d.skip()
	}
	return err
}

func (r *row) finish() Trace {
	if r.ID == "" {
		r.ID = r.uuid
	}
	if !r.hasMillis && !r.Start.IsZero() && !r.End.IsZero() {
		// Sub does not overflow but stops at the ends of the range.
		if d := r.End.Sub(r.Start); d != math.MaxInt64 && d != math.MinInt64 {
			r.Duration, r.HasDuration = d.Round(time.Microsecond), true
		}
	}
	return r.Trace
}

// id reads a string that no other row has; "" for anything else.
func (d *decoder) id() (string, error) {
	kind, err := d.value()
	if kind != '"' {
		return "", err
	}
	return string(decoded(d.tok)), err
}

// label reads a string that many rows have; false for anything else.
func (d *decoder) label() (string, bool, error) {
	kind, err := d.value()
	if kind != '"' || err != nil {
		return "", false, err
	}
	text, ok := d.interned[string(d.tok)]
	if ok {
		return text, true, nil
	}
	text = string(decoded(d.tok))
	if len(d.tok) <= maxInternee {
		if len(d.interned) == maxInterned {
			clear(d.interned)
		}
		d.interned[string(d.tok)] = text
	}
	return text, true, nil
}

// instant reads a time; zero for anything else.
func (d *decoder) instant() (time.Time, error) {
	kind, err := d.value()
	if kind != '"' || err != nil {
		return time.Time{}, err
	}
	text := decoded(d.tok)
	if len(text) > 10 && text[10] == ' ' {
		text[10] = 'T'
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, string(text)); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, nil
}

// millis reads a number of milliseconds. It reports whether that fits into a
// duration, and whether it is a number at all.
func (d *decoder) millis() (_ time.Duration, fits, number bool, err error) {
	kind, err := d.value()
	if !isNumber(kind) || err != nil {
		return 0, false, false, err
	}
	ms, ok := d.float()
	us := math.Round(ms * 1000)
	if !ok || math.Abs(us) >= math.MaxInt64/1000 {
		return 0, false, true, nil
	}
	return time.Duration(us) * time.Microsecond, true, true, nil
}

// whole reads a whole number from 0 to maxExact; -1 for anything else.
func (d *decoder) whole() (int64, error) {
	kind, err := d.value()
	if !isNumber(kind) || err != nil {
		return -1, err
	}
	f, ok := d.float()
	if !ok || f < 0 || f > maxExact || f != math.Trunc(f) {
		return -1, nil
	}
	// As a float, the first number that is too large rounds to the last that is not.
	if f == maxExact && !bytes.ContainsAny(d.tok, ".eE") && string(d.tok) != "9007199254740992" {
		return -1, nil
	}
	return int64(f), nil
}

// float returns the number that was read; false if it is out of range.
func (d *decoder) float() (float64, bool) {
	f, err := strconv.ParseFloat(string(d.tok), 64)
	return f, err == nil
}

func isNumber(kind byte) bool { return kind == '-' || isDigit(kind) }
