package opper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// maxExact is the largest whole number that every reader of JSON agrees on.
const maxExact = 1 << 53

var (
	errNoList = errors.New(`JSON without a list of traces ("data" or "traces")`)
	errNoID   = errors.New("JSON without the id of a trace")
)

// decodePage reads one answer to a listing, of either version of the API, to
// its end. A value of the wrong type counts as null, but a body that is not
// JSON, is cut, or holds no list is an error: it must not pass for an empty
// list. An error of r comes back wrapped.
func decodePage(r io.Reader) (Page, error) {
	page := Page{Total: -1}
	var data, traces []Trace // nil unless there as a list
	err := decodeBody(r, func(d *decoder) error {
		_, err := d.object(func(key string) (err error) {
			switch key {
			case "meta":
				page.Total, err = d.total()
			case "data":
				data, err = d.traces()
			case "traces":
				traces, err = d.traces()
			default:
				err = d.skip()
			}
			return err
		})
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
		_, err := d.object(func(key string) error {
			if key != "data" {
				return d.field(&bare, key)
			}
			wrapped = row{}
			_, err := d.object(func(key string) error { return d.field(&wrapped, key) })
			return err
		})
		return err
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

// decodeBody lets read take the one JSON value that r must hold.
func decodeBody(r io.Reader, read func(*decoder) error) error {
	d := &decoder{Decoder: json.NewDecoder(r)}
	// As floats, numbers out of range would be errors even where they are skipped.
	d.UseNumber()
	err := read(d)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = &json.SyntaxError{Offset: d.InputOffset()}
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	// The decoder's own text quotes the body.
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("malformed JSON at byte %d", syntax.Offset)
	}
	return fmt.Errorf("incomplete JSON: %w", err)
}

// decoder reads values one by one, so that of the large ones that nobody asked
// for at most one is in memory, in the buffer of the json.Decoder.
type decoder struct {
	*json.Decoder
	raw json.RawMessage // the field being read
}

// skipped takes any JSON value and keeps nothing.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }

func (d *decoder) skip() error { return d.Decode(&skipped{}) }

// object calls field for each key of the next value; field reads what belongs
// to the key. A value that is no object is skipped, and false returned.
func (d *decoder) object(field func(key string) error) (bool, error) {
	return d.container('{', func() error {
		key, err := d.Token()
		if err != nil {
			return err
		}
		return field(key.(string)) // Token returns nothing else in the place of a key
	})
}

// array calls element for each element of the next value, which it reads. A
// value that is no array is skipped, and false returned.
func (d *decoder) array(element func() error) (bool, error) {
	return d.container('[', element)
}

func (d *decoder) container(want json.Delim, next func() error) (bool, error) {
	open, err := d.Token()
	if err != nil {
		return false, err
	}
	found := open == json.Token(want)
	switch {
	case found:
	case open == json.Token(json.Delim('{')):
		next = func() error {
			if _, errKey := d.Token(); errKey != nil {
				return errKey
			}
			return d.skip()
		}
	case open == json.Token(json.Delim('[')):
		next = d.skip
	default:
		return false, nil
	}
	for d.More() {
		if err = next(); err != nil {
			return found, err
		}
	}
	_, err = d.Token()
	return found, err
}

// traces reads a list of rows; nil if the value is no list.
func (d *decoder) traces() ([]Trace, error) {
	traces := []Trace{}
	isList, err := d.array(func() error {
		var r row
		_, err := d.object(func(key string) error { return d.field(&r, key) })
		traces = append(traces, r.finish())
		return err
	})
	if !isList {
		return nil, err
	}
	return traces, err
}

// total reads the number of traces from the meta object; -1 if there is none.
func (d *decoder) total() (int, error) {
	count, total := int64(-1), int64(-1)
	_, err := d.object(func(key string) error {
		switch key {
		case "total_count":
			return d.whole(&count)
		case "total":
			return d.whole(&total)
		}
		return d.skip()
	})
	if count < 0 {
		count = total
	}
	if count > math.MaxInt {
		count = -1
	}
	return int(count), err
}

// whole reads a whole number from 0 to maxExact, or -1 for anything else.
func (d *decoder) whole(n *int64) error {
	err := d.Decode(&d.raw)
	if err == nil {
		*n = whole(d.raw)
	}
	return err
}

// row is a trace while its fields arrive, in any order.
type row struct {
	Trace
	uuid      string
	hasMillis bool // duration_ms is a number, even if one out of range
}

// fields are those read. There is none for input and output.
var fields = map[string]func(*row, []byte){
	"id":         func(r *row, raw []byte) { r.ID, _ = text(raw) },
	"uuid":       func(r *row, raw []byte) { r.uuid, _ = text(raw) },
	"name":       func(r *row, raw []byte) { r.Name, _ = text(raw) },
	"status":     func(r *row, raw []byte) { r.Status, r.HasStatus = text(raw) },
	"start_time": func(r *row, raw []byte) { r.Start = instant(raw) },
	"end_time":   func(r *row, raw []byte) { r.End = instant(raw) },
	"duration_ms": func(r *row, raw []byte) {
		r.hasMillis = isNumber(raw)
		r.Duration, r.HasDuration = millis(raw)
	},
	"total_tokens": func(r *row, raw []byte) {
		n := whole(raw)
		r.Tokens, r.HasTokens = max(n, 0), n >= 0
	},
}

func (d *decoder) field(r *row, key string) error {
	set, ok := fields[key]
	if !ok {
		return d.skip()
	}
	if err := d.Decode(&d.raw); err != nil {
		return err
	}
	set(r, d.raw)
	return nil
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

func text(raw []byte) (string, bool) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

func instant(raw []byte) time.Time {
	s, _ := text(raw)
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

func isNumber(raw []byte) bool { return raw[0] == '-' || '0' <= raw[0] && raw[0] <= '9' }

func millis(raw []byte) (time.Duration, bool) {
	if !isNumber(raw) {
		return 0, false
	}
	ms, err := strconv.ParseFloat(string(raw), 64)
	us := math.Round(ms * 1000)
	if err != nil || math.Abs(us) >= math.MaxInt64/1000 {
		return 0, false
	}
	return time.Duration(us) * time.Microsecond, true
}

func whole(raw []byte) int64 {
	if !isNumber(raw) {
		return -1
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > maxExact || f != math.Trunc(f) {
		return -1
	}
	// As a float, the first number that is too large rounds to the last that is not.
	if f == maxExact && !strings.ContainsAny(string(raw), ".eE") {
		if n, err := strconv.ParseInt(string(raw), 10, 64); err != nil || n > maxExact {
			return -1
		}
	}
	return int64(f)
}
