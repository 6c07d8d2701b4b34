package opper

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const samplePage = `{
  "meta": {"total_count": 1},
  "data": [
    {
      "id": "3c90c3cc-0d44-4b50-8888-8dd25736052a",
      "start_time": "2023-11-07T05:31:56Z",
      "end_time": "2023-11-07T05:31:56Z",
      "duration_ms": 123,
      "status": "<string>",
      "name": "<string>",
      "input": "<string>",
      "output": "<string>",
      "total_tokens": 123
    }
  ]
}`

var sampleTrace = Trace{
	ID:          "3c90c3cc-0d44-4b50-8888-8dd25736052a",
	Name:        "<string>",
	Status:      "<string>",
	HasStatus:   true,
	Start:       time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC),
	End:         time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC),
	Duration:    123 * time.Millisecond,
	HasDuration: true,
	Tokens:      123,
	HasTokens:   true,
}

func TestDecodePage(t *testing.T) {
	rows := func(ids ...string) []Trace {
		traces := []Trace{}
		for _, id := range ids {
			traces = append(traces, Trace{ID: id})
		}
		return traces
	}
	for name, test := range map[string]struct {
		body string
		want Page
	}{
		"documented sample": {samplePage, Page{[]Trace{sampleTrace}, 1}},
		"v3": {
			`{"data":[{"id":"a","span_count":2,"name":"n","status":"ok","duration_ms":1.5}],"meta":{"total":7}}`,
			Page{[]Trace{{ID: "a", Name: "n", Status: "ok", HasStatus: true, Duration: 1500 * time.Microsecond, HasDuration: true}}, 7},
		},
		"v3 tool":                 {`{"traces":[{"uuid":"a"},{"uuid":"b"}]}`, Page{rows("a", "b"), -1}},
		"empty list":              {`{"meta":{"total_count":0},"data":[]}`, Page{rows(), 0}},
		"id before uuid":          {`{"data":[{"uuid":"b","id":"a"},{"id":null,"uuid":"c"}]}`, Page{rows("a", "c"), -1}},
		"rows without an id":      {`{"data":[{},{"id":7},{"id":null},{"id":["x"]},{"id":""},null,3,"x",[1,{"id":"no"}]]}`, Page{rows("", "", "", "", "", "", "", "", ""), -1}},
		"no total":                {`{"meta":{},"data":[]}`, Page{rows(), -1}},
		"null meta":               {`{"meta":null,"data":[]}`, Page{rows(), -1}},
		"null total":              {`{"meta":{"total_count":null},"data":[]}`, Page{rows(), -1}},
		"null total_count, total": {`{"meta":{"x":[9],"total":3,"total_count":null},"data":[]}`, Page{rows(), 3}},
		"negative total":          {`{"meta":{"total_count":-5},"data":[]}`, Page{rows(), -1}},
		"total of another type":   {`{"meta":{"total_count":"5"},"data":[]}`, Page{rows(), -1}},
		"meta of another type":    {`{"meta":[{"total_count":5}],"data":[]}`, Page{rows(), -1}},
		"both total and list":     {`{"traces":[{"id":"b"}],"data":[{"id":"a"}],"meta":{"total":1,"total_count":2}}`, Page{rows("a"), 2}},
		"null data, traces":       {`{"data":null,"traces":[{"uuid":"a"}]}`, Page{rows("a"), -1}},
		"last key wins":           {`{"data":[{"id":"x"}],"meta":{"total_count":1},"meta":{},"data":[{"id":"a","id":"b","name":"n","name":null}]}`, Page{rows("b"), -1}},
		"names are exact":         {`{"DATA":1,"data":[{"id":"a","ID":"b","Name":"n"}],"Data":[]}`, Page{rows("a"), -1}},
		"null and skipped fields": {
			`{"x":{"data":[1,{"y":[]}]},"data":[{"spans":[{"id":"z","data":{"total_tokens":9}}],"start_time":null,"end_time":null,"duration_ms":null,"status":null,"name":null,"input":null,"output":{"id":"no"},"total_tokens":null,"id":"a","n":1e999}],"z":1e999}`,
			Page{rows("a"), -1},
		},
		"numbers out of range for a row": {`{"data":[1e999]}`, Page{rows(""), -1}},
		"fields of another type": {
			`{"data":[{"id":"a","name":1,"status":{"s":"ok"},"start_time":5,"end_time":["2023-11-07T05:31:56Z"],"duration_ms":"5","total_tokens":"5"}]}`,
			Page{rows("a"), -1},
		},
		"text in other scripts, and broken": {
			"{\"data\":[{\"id\":\"a\",\"name\":\"\\u00e9\\ud83d\\ude00\\n\xff\",\"status\":\"\"}]}",
			Page{[]Trace{{ID: "a", Name: "é😀\n\xff", HasStatus: true}}, -1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodePage(iotest.OneByteReader(strings.NewReader(test.body)), pageSize)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestDecodePageRejects(t *testing.T) {
	for _, body := range []string{
		``, ` `, `{}`, `{"data":null}`, `{"data":{}}`, `{"data":"[]"}`, `{"data":[],"data":null}`, `{"data":[],"data":{"a":[]}}`,
		`[]`, `[{"id":"a"}]`, `"x"`, `null`, `5`, `<html><body>{"data":[]}</body></html>`, `{"error":{"code":"x"}}`,
		`{"data":[]}x`, `{"data":[]}{}`, `{"data":[]},`, `{"data":[]} null`, `{"data":[],}`, `{"data":[{"id":"a"},]}`,
		`{"data":[,{}]}`, `{"data":[{"id":"a"} {}]}`, `{"data":[{"id" "a"}]}`, `{"data":[{"id":"a",}]}`, `{"data":[}`,
		`{"data":[{]}`, `{data:[]}`, `{"data":[{"id":01}]}`, `{"data":[{"id":"a` + "\n" + `"}]}`, `{1:2,"data":[]}`,
		`{"data":[{"input":nul}]}`, `{"data":[{"input":"\x"}]}`, `{"data":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	} {
		if page, err := DecodePage(strings.NewReader(body), pageSize); err == nil {
			t.Errorf("%.60q: got %+v, want an error", body, page)
		}
	}
	for n := range len(samplePage) {
		if page, err := DecodePage(strings.NewReader(samplePage[:n]), pageSize); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want an error", n, page)
		}
	}
}

func TestDecodeErrorsDoNotQuote(t *testing.T) {
	for _, body := range []string{`{"data":[{"input":"ok" §`, `§`, `{"data":[{"total_tokens":§}]}`} {
		if _, err := DecodePage(strings.NewReader(body), pageSize); err == nil || strings.Contains(err.Error(), "Â") || strings.Contains(err.Error(), "§") {
			t.Errorf("%s: got %v, want an error without the text", body, err)
		}
	}
}

func TestDecodeReaderError(t *testing.T) {
	cause := errors.New("cause")
	for n := range len(samplePage) {
		_, err := DecodePage(io.MultiReader(strings.NewReader(samplePage[:n]), iotest.ErrReader(cause)), pageSize)
		if !errors.Is(err, cause) {
			t.Fatalf("after %d bytes: got %v, want the reader's error", n, err)
		}
	}
}

func TestDecodeTimes(t *testing.T) {
	at := time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC)
	yearOne := time.Time{}.Add(1) // not the zero time, which is none
	for text, want := range map[string]time.Time{
		`"2023-11-07T05:31:56Z"`:                at,
		`"2023-11-07T05:31:56+00:00"`:           at,
		`"2023-11-07T07:31:56.5+02:00"`:         at.Add(500 * time.Millisecond),
		`"2023-11-07T05:31:56.123456Z"`:         at.Add(123456 * time.Microsecond),
		`"2023-11-07T05:31:56.123456789Z"`:      at.Add(123456789),
		`"2023-11-07T05:31:56"`:                 at,
		`"2023-11-07T05:31:56.25"`:              at.Add(250 * time.Millisecond),
		`"2023-11-07 05:31:56"`:                 at,
		`"2023-11-07 06:31:56.000000001+01:00"`: at.Add(1),
		`"0001-01-01T00:00:00Z"`:                yearOne,
		`"0001-01-01 00:00:00"`:                 yearOne,
		`"0001-01-01T02:00:00+02:00"`:           yearOne,
		`"0001-01-01T00:00:00.000001Z"`:         yearOne.Add(time.Microsecond - 1),
		`"0000-12-31T23:59:59Z"`:                yearOne.Add(-time.Second - 1),
		`"2023-11-07"`:                          {},
		`"yesterday"`:                           {},
		`""`:                                    {},
		`"2023-13-07T05:31:56Z"`:                {},
		`1699335116`:                            {},
		`null`:                                  {},
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{"start_time":`+text+`}]}`), pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := page.Traces[0].Start; got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestDecodeDuration(t *testing.T) {
	const times = `,"start_time":"2023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:58.0000015Z"`
	for name, test := range map[string]struct {
		fields string
		want   time.Duration
		ok     bool
	}{
		"whole":                  {`"duration_ms":123`, 123 * time.Millisecond, true},
		"rounded":                {`"duration_ms":0.0016`, 2 * time.Microsecond, true},
		"zero":                   {`"duration_ms":0` + times, 0, true},
		"negative":               {`"duration_ms":-1.5`, -1500 * time.Microsecond, true},
		"exponent":               {`"duration_ms":1.5e3`, 1500 * time.Millisecond, true},
		"the number, not times":  {`"duration_ms":5` + times, 5 * time.Millisecond, true},
		"too large":              {`"duration_ms":1e13` + times, 0, false},
		"too small":              {`"duration_ms":-9223372036855` + times, 0, false},
		"the largest":            {`"duration_ms":9223372036854`, 9223372036854 * time.Millisecond, true},
		"too large for a float":  {`"duration_ms":1e999` + times, 0, false},
		"null":                   {`"duration_ms":null` + times, 2*time.Second + 2*time.Microsecond, true},
		"absent":                 {`"x":1` + times, 2*time.Second + 2*time.Microsecond, true},
		"text":                   {`"duration_ms":"5"` + times, 2*time.Second + 2*time.Microsecond, true},
		"a number and then null": {`"duration_ms":5,"duration_ms":null` + times, 2*time.Second + 2*time.Microsecond, true},
		"no end":                 {`"start_time":"2023-11-07T05:31:56Z"`, 0, false},
		"end before start":       {`"start_time":"2023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:55Z"`, -time.Second, true},
		"from an empty date":     {`"start_time":"0001-01-01T00:00:00Z","end_time":"0001-01-01T00:00:01Z"`, time.Second, true},
		"to an empty date":       {`"start_time":"0000-12-31T23:59:59Z","end_time":"0001-01-01T00:00:00Z"`, time.Second, true},
		"two empty dates":        {`"start_time":"0001-01-01T00:00:00Z","end_time":"0001-01-01T00:00:00Z"`, 0, true},
		"times too far apart":    {`"start_time":"1023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:55Z"`, 0, false},
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{`+test.fields+`}]}`), pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := page.Traces[0]; got.Duration != test.want || got.HasDuration != test.ok {
			t.Errorf("%s: got %v, %v, want %v, %v", name, got.Duration, got.HasDuration, test.want, test.ok)
		}
	}
}

func TestDecodeTokens(t *testing.T) {
	for number, want := range map[string]int64{
		"0": 0, "-0": 0, "123": 123, "123.0": 123, "1.23e2": 123, "9007199254740992": 1 << 53,
		"9007199254740993": -1, "123.5": -1, "-1": -1, "1e999": -1, "1e20": -1, `"5"`: -1, "true": -1, "null": -1, "[5]": -1,
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{"total_tokens":`+number+`}]}`), pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := page.Traces[0]; got.Tokens != max(want, 0) || got.HasTokens != (want >= 0) {
			t.Errorf("%s: got %d, %v, want %d", number, got.Tokens, got.HasTokens, want)
		}
	}
}

func TestDecodeTrace(t *testing.T) {
	for _, body := range []string{
		`{"id":"a","name":"n","spans":[{"id":"s","name":"x","data":{"model":"m"}}]}`,
		`{"data":{"name":"n","uuid":"a","data":{"id":"x"}}}`,
		`{"data":{"id":"x","name":"x"},"name":"n","id":"a"}`,
		`{"data":{"id":"x","status":"x"},"data":{"name":"n","id":"a"}}`,
		`{"data":[{"id":"x"}],"name":"n","id":"a"}`,
	} {
		got, err := decodeTrace(strings.NewReader(body))
		if want := (Trace{ID: "a", Name: "n"}); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", body, got, err, want)
		}
	}
	for _, body := range []string{
		``, `{}`, `[]`, `null`, `"a"`, `{"name":"n"}`, `{"id":5}`, `{"data":{}}`, `{"data":null}`, `{"data":[{"id":"a"}]}`,
		`{"id":"a"`, `{"id":"a"} x`, `{"id":"a"}{}`, `<html></html>`,
	} {
		if got, err := decodeTrace(strings.NewReader(body)); err == nil {
			t.Errorf("%s: got %+v, want an error", body, got)
		}
	}
}

// No field of what is kept may hold a body: only the known strings are there.
func TestDecodeKeepsNoBodies(t *testing.T) {
	secret := strings.Repeat("private", 1<<20)
	page, err := DecodePage(strings.NewReader(`{"input":"`+secret+`","data":[{"input":"`+secret+`","id":"a","output":"`+secret+`","spans":[{"input":"`+secret+`"}]}]}`), pageSize)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Page{[]Trace{{ID: "a"}}, -1}); !reflect.DeepEqual(page, want) {
		t.Errorf("got %d traces, want only an id", len(page.Traces))
	}
}

// However an answer is made, decoding it takes little memory: what nobody asked
// for is gone past without being held, and of the rest there is a bound.
func TestDecodeIsBounded(t *testing.T) {
	const size = 2 << 20
	long := strings.Repeat("name", maxValue/4)
	for name, of := range map[string]struct {
		before, piece, after string
		most                 uint64 // bytes, in all
		unusable             bool
	}{
		"body":               {`{"data":[{"id":"a","input":"`, strings.Repeat("private ", 1<<10), `"}]}`, 1 << 20, false},
		"escapes":            {`{"data":[{"id":"a","output":"`, strings.Repeat(`\"\u00e9\n`, 1<<10), `"}]}`, 1 << 20, false},
		"key":                {`{"data":[{"id":"a","input`, strings.Repeat("private ", 1<<10), `":1}]}`, 1 << 20, false},
		"escaped key":        {`{"data":[{"id":"a","input`, strings.Repeat(`\u0069`, 1<<10), `":1}]}`, 1 << 20, false},
		"number":             {`{"data":[{"id":"a","input":1`, strings.Repeat("1234567890", 1<<10), `}]}`, 1 << 20, false},
		"array":              {`{"data":[{"id":"a","input":[1`, strings.Repeat(`,{"private":[true,null]}`, 1<<10), `]}]}`, 1 << 20, false},
		"space":              {`{"data":[{"id":"a","input":`, strings.Repeat(" \t\r\n", 1<<10), `1}]}`, 1 << 20, false},
		"space around":       {`{"data":[{"id":"a"}]`, strings.Repeat(" \t\r\n", 1<<10), `}`, 1 << 20, false},
		"name":               {`{"data":[{"id":"a","name":"`, strings.Repeat("private ", 1<<10), `"}]}`, 2 << 20, false},
		"escaped name":       {`{"data":[{"id":"a","name":"`, strings.Repeat(`\ud83d\ude00`, 1<<10), `"}]}`, 2 << 20, false},
		"status":             {`{"data":[{"id":"a","status":"`, strings.Repeat(`\n`, 1<<10), `"}]}`, 2 << 20, false},
		"id":                 {`{"data":[{"uuid":"a","id":"`, strings.Repeat("private ", 1<<10), `"}]}`, 2 << 20, false},
		"time":               {`{"data":[{"id":"a","start_time":"2026-01-01T00:00:00.`, strings.Repeat("0", 1<<13), `Z"}]}`, 2 << 20, false},
		"digits":             {`{"data":[{"id":"a","total_tokens":1`, strings.Repeat("0", 1<<13), `,"duration_ms":2}]}`, 1 << 20, false},
		"fraction":           {`{"data":[{"id":"a","duration_ms":0.`, strings.Repeat("0", 1<<13), `}]}`, 1 << 20, false},
		"total":              {`{"data":[{"id":"a"}],"meta":{"total_count":1e`, strings.Repeat("0", 1<<13), `}}`, 1 << 20, false},
		"ids of one row":     {`{"data":[{"id":"a"`, `,"id":"` + long[:maxID] + `"`, `}]}`, 1 << 20, false},
		"lists":              {`{"data":[{"id":"a"}]`, `,"data":[{"id":"` + long[:maxID] + `"}]`, `}`, 5 << 20, true},
		"empty lists":        {`{"data":[{"id":"a"}]`, `,"traces":[]`, `}`, 1 << 20, false},
		"totals":             {`{"data":[{"id":"a"}]`, `,"meta":{"total_count":1}`, `}`, 1 << 20, false},
		"open arrays":        {`{"data":[{"id":"a"}],"x":`, "[", ``, 8 << 20, true},
		"open objects":       {`{"data":[{"id":"a"}],"x":`, `{"":`, ``, 8 << 20, true},
		"open rows":          {`{"data":[`, `[`, ``, 8 << 20, true},
		"empty rows":         {`{"data":[{}`, `,{}`, `]}`, 1 << 20, true},
		"rows that are none": {`{"traces":[0`, `,0`, `]}`, 1 << 20, true},
		"rows":               {`{"data":[{"id":"b"}`, `,{"name":"` + long[:1000] + `","id":"a"}`, `]}`, 1 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			for what, decode := range map[string]func(io.Reader) (held any, err error){
				"page":  func(r io.Reader) (any, error) { return DecodePage(r, pageSize) },
				"trace": func(r io.Reader) (any, error) { return decodeTrace(r) },
			} {
				before, after := of.before, of.after
				if what == "trace" && strings.HasPrefix(before, `{"data":[{`) && !of.unusable {
					before, after = strings.Replace(before, "[", "", 1), strings.Replace(after, "]", "", 1)
				}
				body := io.MultiReader(strings.NewReader(before), &repeated{of.piece, size / len(of.piece), 0}, strings.NewReader(after))
				_, _ = decode(strings.NewReader(samplePage)) // so that there is a decoder
				var start, end runtime.MemStats
				runtime.ReadMemStats(&start)
				held, err := decode(body)
				runtime.ReadMemStats(&end)
				if of.unusable != (err != nil) && what == "page" {
					t.Errorf("%s: got %v, want an error: %t", what, err, of.unusable)
				}
				if took := end.TotalAlloc - start.TotalAlloc; took > of.most {
					t.Errorf("%s: %d bytes were allocated", what, took)
				}
				runtime.GC()
				runtime.ReadMemStats(&end)
				if holds := int64(end.HeapAlloc) - int64(start.HeapAlloc); holds > 2<<20 {
					t.Errorf("%s: %d bytes are held", what, holds)
				}
				runtime.KeepAlive(held)
			}
		})
	}
}

// A page holds no more than its rows may, and a release gives that back.
func TestDecodeFullPage(t *testing.T) {
	row := `{"id":"` + strings.Repeat("i", 1000) + `","name":"` + strings.Repeat(`\u00e9`, maxValue) + `","status":"` + strings.Repeat("s", 2*maxValue) + `"}`
	page, err := DecodePage(strings.NewReader(`{"data":[`+row+strings.Repeat(","+row, pageSize-1)+`]}`), pageSize)
	if err != nil || len(page.Traces) != pageSize {
		t.Fatal(len(page.Traces), err)
	}
	const digest = 1 + 2*sha256.Size
	for _, trace := range page.Traces {
		if len(trace.ID) != maxID+digest || len(trace.Name) != maxValue+digest || len(trace.Status) != maxValue+digest {
			t.Fatalf("got %d, %d and %d bytes", len(trace.ID), len(trace.Name), len(trace.Status))
		}
	}
}

func TestDecodeTooManyRows(t *testing.T) {
	for _, list := range []string{"data", "traces"} {
		for _, limit := range []int{1, 7, pageSize, pageSize + 1} {
			body := `{"` + list + `":[{"id":"a"}` + strings.Repeat(`,{"id":"a"}`, limit-1)
			page, err := DecodePage(strings.NewReader(body+`]}`), limit)
			if err != nil || len(page.Traces) != limit {
				t.Errorf("%d: got %d rows, %v", limit, len(page.Traces), err)
			}
			// Nothing is read after the row that is too many.
			_, err = DecodePage(iotest.OneByteReader(io.MultiReader(strings.NewReader(body+`,{`), iotest.ErrReader(errors.New("read on")))), limit)
			if want := fmt.Sprintf("more rows than the limit of %d", limit); !errors.Is(err, ErrTooManyRows) || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
}

// Values that are cut, or are no text at all, remain as distinct as they were,
// however they are written.
func TestDecodeKeepsDistinct(t *testing.T) {
	x := strings.Repeat("x", maxValue)
	digest := func(text string) string { return fmt.Sprintf("~%x", sha256.Sum256([]byte(text))) }
	for _, test := range []struct {
		written []string
		want    string
		id      string // if it is another
	}{
		{[]string{"a\xff", "\\u0061\xff"}, "a\xff", ""},
		{[]string{"a\xfe"}, "a\xfe", ""},
		{[]string{"a\uFFFD", `a\ufffd`, `a\uFFFD`}, "a\uFFFD", ""},
		{[]string{`\ud800`, `\uD800`}, "\xed\xa0\x80", ""},
		{[]string{`\ud801`}, "\xed\xa0\x81", ""},
		{[]string{`\udfff`}, "\xed\xbf\xbf", ""},
		{[]string{`\ud83d\ud83d\ude00\ude00`}, "\xed\xa0\xbd😀\xed\xb8\x80", ""},
		{[]string{`\ud83d\n\ude00`}, "\xed\xa0\xbd\n\xed\xb8\x80", ""},
		{[]string{`\ude00\ud83d`}, "\xed\xb8\x80\xed\xa0\xbd", ""},
		{[]string{"\xf0\x9f"}, "\xf0\x9f", ""},
		{[]string{`\"\\\/\b\f\n\r\t\u0000😀`, `\u0022\u005c\u002f\u0008\u000C\u000a\u000d\u0009\u0000\ud83d\uDE00`}, "\"\\/\b\f\n\r\t\x00😀", ""},
		{[]string{x[:maxID], strings.Repeat(`\u0078`, maxID)}, x[:maxID], ""},
		{[]string{x[:maxID] + "y", strings.Repeat(`\u0078`, maxID) + "y"}, x[:maxID] + "y", x[:maxID] + digest(x[:maxID]+"y")},
		{[]string{x, strings.Repeat(`\u0078`, maxValue)}, x, x[:maxID] + digest(x)},
		{[]string{x + "a", strings.Repeat(`\u0078`, maxValue) + "a"}, x + digest(x+"a"), x[:maxID] + digest(x+"a")},
		{[]string{x + "b", x + `\u0062`}, x + digest(x+"b"), x[:maxID] + digest(x+"b")},
		{
			[]string{strings.Repeat("😀", 5*maxValue), strings.Repeat(`\ud83d\ude00`, 5*maxValue)},
			strings.Repeat("😀", maxValue/4) + digest(strings.Repeat("😀", 5*maxValue)),
			strings.Repeat("😀", maxID/4) + digest(strings.Repeat("😀", 5*maxValue)),
		},
	} {
		for _, written := range test.written {
			for _, size := range []int{1001, maxToken, scanBuffer, 1 << 30} {
				for pad := range 3 {
					body := []byte(`{"data":[` + strings.Repeat(" ", 5*pad) + `{"id":"` + written + `","name":"` + written + `","status":"` + written + `"}]}`)
					page, err := DecodePage(&pieces{body, size}, 1)
					if err != nil {
						t.Fatal(err)
					}
					got := page.Traces[0]
					if got.ID != cmp.Or(test.id, test.want) || got.Name != test.want || got.Status != test.want {
						t.Errorf("%.40q, read %d at once: got the id %.80q, the name %.80q (%d bytes), the status %.80q", written, size, got.ID, got.Name, len(got.Name), got.Status)
					}
				}
			}
		}
	}
}

// repeated reads a text several times.
type repeated struct {
	text string
	left int
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.at == len(r.text) {
		r.left, r.at = r.left-1, 0
	}
	if r.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:])
	r.at += n
	return n, nil
}

// A decoder that has met a huge value or many names does not keep them.
func TestDecoderKeepsLittle(t *testing.T) {
	d := decoders.New().(*decoder)
	for i := range 10 * maxInterned {
		d.scanner = scanner{src: strings.NewReader(strconv.Quote("name " + strconv.Itoa(i))), buf: d.buf}
		if name, ok := d.label(); name != "name "+strconv.Itoa(i) || !ok || d.err != nil {
			t.Fatal(name, ok, d.err)
		}
	}
	d.scanner = scanner{src: strings.NewReader(`"` + strings.Repeat("x", 10*maxInternee) + `"`), buf: d.buf}
	if name, _ := d.label(); len(name) != 10*maxInternee || d.err != nil {
		t.Fatal(len(name), d.err)
	}
	size := 0
	for written, name := range d.interned {
		size += len(written) + len(name)
	}
	if len(d.interned) > maxInterned || size > 2*maxInterned*maxInternee {
		t.Errorf("%d names of %d bytes are kept", len(d.interned), size)
	}
}

// A page takes one allocation for the id of each trace, and few others.
func TestDecodeAllocations(t *testing.T) {
	const rows = 100
	row := samplePage[strings.Index(samplePage, "{\n      "):strings.LastIndex(samplePage, "\n  ]")]
	row = strings.Replace(row, `"input": "<string>"`, `"input": "`+strings.Repeat(`é\n\"`, 1000)+`"`, 1)
	body := `{"data":[` + row + strings.Repeat(","+row, rows-1) + `]}`
	allocs := testing.AllocsPerRun(20, func() {
		if page, err := DecodePage(strings.NewReader(body), pageSize); err != nil || len(page.Traces) != rows {
			t.Fatal(len(page.Traces), err)
		}
	})
	if allocs > 2*rows {
		t.Errorf("%v allocations for %d traces", allocs, rows)
	}
}

// Values may be nested as deep as encoding/json lets them be.
func TestDecodeDepth(t *testing.T) {
	for _, kind := range [][2]string{{"[", "]"}, {`{"x":`, "}"}} {
		for depth, want := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
			value := strings.Repeat(kind[0], depth-1) + "1" + strings.Repeat(kind[1], depth-1)
			body := `{"data":[],"x":` + value + `}`
			_, err := DecodePage(strings.NewReader(body), pageSize)
			if valid := json.Valid([]byte(body)); valid != want || (err == nil) != want {
				t.Errorf("%d deep: got %v, encoding/json takes it: %v", depth, err, valid)
			}
		}
	}
	// Siblings are not nested.
	if _, err := DecodePage(strings.NewReader(`{"data":[{}`+strings.Repeat(`,{"x":[]}`, 2*maxDepth)+`]}`), 2*maxDepth+1); err != nil {
		t.Error(err)
	}
}

// Each byte, at each place of a word or a block, is inside a string what it is
// to encoding/json.
func TestDecodeBytes(t *testing.T) {
	for c := range 256 {
		for at := range 80 {
			text := []byte(strings.Repeat("x", 80))
			text[at] = byte(c)
			body := `{"data":[{"input":"` + string(text) + `"}]}`
			_, err := DecodePage(strings.NewReader(body), pageSize)
			if want := json.Valid([]byte(body)); (err == nil) != want {
				t.Fatalf("byte %#x in place %d: got %v, encoding/json takes it: %v", c, at, err, want)
			}
		}
	}
}

// Wherever an escape or a special byte stands, and wherever the reader stops, a
// string is what it is to encoding/json.
func TestDecodePlaces(t *testing.T) {
	const length = 140
	for _, unit := range []string{
		`\"`, `\\`, `\\\"`, `\\"`, `\n`, `\n\t`, `\x`, `\u00e9`, `\u12g4`, `\`, `"`, "\x00", "\x1f", `é"`, `é\"`, "é\x1f", "\xff\"", "\xff\\", "\xff \xff",
	} {
		for at := range length {
			text := strings.Repeat("x", at) + unit + strings.Repeat("y", length-at)
			body := []byte(`{"data":[{"input":"` + text + `","name":"` + text + `","id":"a"}]}`)
			want, ok := plainPage(body)
			for _, size := range []int{13, 64, len(`{"data":[{"input":"`) + at + 1, len(body)} {
				page, err := DecodePage(&pieces{body, size}, pageSize)
				if ok != (err == nil) || !reflect.DeepEqual(page, want) {
					t.Fatalf("%q in place %d, read %d at once: got %+v, %v, want %+v, %v", unit, at, size, page, err, want, ok)
				}
			}
		}
	}
}

// What is given up holds on to no identifier, and a page that was never ours is
// left alone.
func TestRelease(t *testing.T) {
	page, err := DecodePage(strings.NewReader(samplePage), pageSize)
	if err != nil {
		t.Fatal(err)
	}
	traces := page.Traces
	page.Release()
	if page.Traces != nil || traces[0] != (Trace{}) {
		t.Errorf("after its release a page has %+v", traces)
	}
	foreign := Page{Traces: []Trace{{ID: "a"}}}
	traces = foreign.Traces
	foreign.Release()
	if traces[0].ID != "a" {
		t.Error("a page of another source was emptied")
	}
}

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
		s := plainText(raw[1 : len(raw)-1])
		if len(s) > limit {
			s = fmt.Sprintf("%s~%x", s[:limit], sha256.Sum256([]byte(s)))
		}
		return s
	}
	instant := func(key string) time.Time {
		s := text(key, maxValue)
		if len(s) > 10 && s[10] == ' ' {
			s = s[:10] + "T" + s[11:]
		}
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
			if t, err := time.Parse(layout, s); err == nil {
				if t.IsZero() {
					t = t.Add(time.Nanosecond)
				}
				return t.UTC()
			}
		}
		return time.Time{}
	}
	if t.ID = text("id", maxID); t.ID == "" {
		t.ID = text("uuid", maxID)
	}
	t.Name, t.Status = text("name", maxValue), text("status", maxValue)
	t.HasStatus = strings.HasPrefix(string(fields["status"]), `"`)
	t.Start, t.End = instant("start_time"), instant("end_time")
	n := plainWhole(fields["total_tokens"])
	t.Tokens, t.HasTokens = max(n, 0), n >= 0
	var ms json.Number
	isNumber := json.Unmarshal(fields["duration_ms"], &ms) == nil && ms != "" && fields["duration_ms"][0] != '"'
	if isNumber && len(ms) <= maxToken {
		f, err := ms.Float64()
		if us := math.Round(f * 1000); err == nil && math.Abs(us) < math.MaxInt64/1000 {
			t.Duration, t.HasDuration = time.Duration(us)*time.Microsecond, true
		}
	} else if !isNumber && !t.Start.IsZero() && !t.End.IsZero() {
		if d := t.End.Sub(t.Start); d != math.MaxInt64 && d != math.MinInt64 {
			t.Duration, t.HasDuration = d.Round(time.Microsecond), true
		}
	}
	return t
}

var plainPiece = regexp.MustCompile(`(?s)\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|[^\\]+`)

// plainText reads what is between the quotes of a string. encoding/json makes the
// same of all that is not Unicode, so it sees none of that.
func plainText(written []byte) string {
	var text []byte
	for _, piece := range plainPiece.FindAll(written, -1) {
		var s string
		code, _ := strconv.ParseUint(string(piece[min(2, len(piece)):]), 16, 16)
		switch {
		case piece[0] != '\\':
			s = string(piece)
		case len(piece) == 6 && 0xd800 <= code && code < 0xe000:
			s = string([]byte{0xed, 0x80 | byte(code>>6&0x3f), 0x80 | byte(code&0x3f)})
		default:
			_ = json.Unmarshal([]byte(`"`+string(piece)+`"`), &s)
		}
		text = append(text, s...)
	}
	return string(text)
}

// plainWhole is exact where a float is not.
func plainWhole(raw json.RawMessage) int64 {
	var number json.Number
	if json.Unmarshal(raw, &number) != nil || number == "" || raw[0] == '"' || len(raw) > maxToken {
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

// pieces gives a body in reads of a few bytes, so that every value is cut
// somewhere.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
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
		page, err := DecodePage(&pieces{body, int(size) + 1}, len(body))
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
			page, err := DecodePage(&pieces{body, size}, len(body))
			if ok != (err == nil) || !reflect.DeepEqual(page, want) {
				t.Errorf("read %d at once: got %+v, %v, want %+v, %v", size, page, err, want, ok)
			}
		}
	})
}
