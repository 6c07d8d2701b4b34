package opper

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/jsonscan/jsonscantest"
)

// maxNumber is the longest number, in bytes, that is read.
const maxNumber = 64 << 10

// plainPage is what DecodePage must find, in the words of encoding/json.
func plainPage(body []byte) (Page, bool) {
	var top map[string]json.RawMessage
	if json.Unmarshal(body, &top) != nil {
		return Page{}, false
	}
	list := func(key string) []json.RawMessage {
		var rows []json.RawMessage
		if json.Unmarshal(top[key], &rows) != nil {
			return nil
		}
		return rows
	}
	rows := list("data")
	if rows == nil {
		rows = list("traces")
	}
	if rows == nil {
		return Page{}, false
	}
	page := Page{Traces: []Trace{}}
	for _, raw := range rows {
		page.Traces = append(page.Traces, plainTrace(raw))
	}
	var meta map[string]json.RawMessage
	_ = json.Unmarshal(top["meta"], &meta)
	page.Total = int(plainWhole(meta["total_count"]))
	if page.Total < 0 {
		page.Total = int(plainWhole(meta["total"]))
	}
	return page, true
}

func plainTrace(raw json.RawMessage) (t Trace) {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(raw, &fields)
	text := func(key string, limit int) string {
		raw := fields[key]
		if len(raw) == 0 || raw[0] != '"' {
			return ""
		}
		return jsonscantest.Text(raw[1:len(raw)-1], limit)
	}
	instant := func(key string) (time.Time, bool) { return plainTime(text(key, maxValue)) }
	if t.ID = text("id", maxID); t.ID == "" {
		t.ID = text("uuid", maxID)
	}
	t.Name, t.Status = text("name", maxValue), text("status", maxValue)
	t.HasStatus = strings.HasPrefix(string(fields["status"]), `"`)
	start, hasStart := instant("start_time")
	end, hasEnd := instant("end_time")
	t.Start, t.End = known(start, hasStart), known(end, hasEnd)
	n := plainWhole(fields["total_tokens"])
	t.Tokens, t.HasTokens = max(n, 0), n >= 0
	var ms json.Number
	isNumber := json.Unmarshal(fields["duration_ms"], &ms) == nil && ms != "" && fields["duration_ms"][0] != '"'
	if isNumber && len(ms) <= maxNumber {
		f, err := ms.Float64()
		if us := math.Round(f * 1000); err == nil && math.Abs(us) < math.MaxInt64/1000 {
			t.Duration, t.HasDuration = time.Duration(us)*time.Microsecond, true
		}
	} else if !isNumber && hasStart && hasEnd {
		if d := end.Sub(start); d != math.MaxInt64 && d != math.MinInt64 {
			t.Duration, t.HasDuration = d.Round(time.Microsecond), true
		}
	}
	return t
}

func plainTime(s string) (time.Time, bool) {
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// plainWhole is exact where a float is not.
func plainWhole(raw json.RawMessage) int64 {
	var number json.Number
	if json.Unmarshal(raw, &number) != nil || number == "" || raw[0] == '"' || len(raw) > maxNumber {
		return -1
	}
	f, err := number.Float64()
	if n, errInt := number.Int64(); errInt == nil && n > maxExact {
		return -1
	}
	if err != nil || f < 0 || f > maxExact || f != math.Trunc(f) {
		return -1
	}
	return int64(f)
}

// Whatever DecodePage and encoding/json both take, they read alike, and what
// the one rejects the other does too.
func FuzzDecodePage(f *testing.F) {
	for _, seed := range []string{
		samplePage, `{"traces":[{"uuid":"a"}]}`, `{"data":[{"id":"a","id":null},1,[{}]],"meta":{"total":1e3}}`, `{}`, `[]`, `{"data":[]}x`,
		`{"data":[{"start_time":"2023-11-07 05:31:56.1","total_tokens":1.0,"duration_ms":-1e300}]}`, `{"data":[{"id":"\ud800"}`,
		`{"data":{"a":[1,2]},"traces":[],"z":"\u0000"}`, `{"d\u0061ta":[{"\u0069d":"\ud800\u0041\ud83d\ude00","ID":"b","n\u0061me":"ÿ\/"}]}`,
		`{"data":[{"name":"` + strings.Repeat("x", 40) + `\","id":"b"}]}`, `{"meta":{"total_count":9007199254740993,"total":-0.0E+2},"data":[{"x":-0,"status":""}]}`,
		`{"data":[{"id":"a","input":"{\"id\":\"no\"}],\"data\":[","output":"\u00e9` + "\u2028\x7f" + `"}, {"duration_ms":0.5e-1,"total_tokens":1e2}]}`,
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(6))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		page, err := DecodePage(&jsonscantest.Pieces{Rest: body, Size: int(size) + 1}, len(body))
		want, ok := plainPage(body)
		if ok != (err == nil) {
			t.Fatalf("got error %v, encoding/json accepts it: %v", err, ok)
		}
		if !reflect.DeepEqual(page, want) {
			t.Errorf("got %+v, want %+v", page, want)
		}
	})
}

// What a string is to the scanner, it is to encoding/json, where values are
// asked for too.
func FuzzDecodeText(f *testing.F) {
	for _, seed := range []string{"", "a", `\"`, `\`, `\u12`, `\uD83D\uDE00 \udc00`, "\xff\xc0é\u2028", strings.Repeat("x", 31) + `\n`, "\x1f", `"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body := []byte(`{"data":[{"input":"` + string(text) + `","name":"` + string(text) + `","` + string(text) + `":"` + string(text) + `"}]}`)
		want, ok := plainPage(body)
		for _, size := range []int{7, len(body)} {
			page, err := DecodePage(&jsonscantest.Pieces{Rest: body, Size: size}, len(body))
			if ok != (err == nil) || !reflect.DeepEqual(page, want) {
				t.Errorf("read %d at once: got %+v, %v, want %+v, %v", size, page, err, want, ok)
			}
		}
	})
}
