package opper

import (
	"encoding/json"
	"errors"
	"io"
	"reflect"
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
			Page{[]Trace{{ID: "a", Name: "é😀\n\uFFFD", HasStatus: true}}, -1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodePage(iotest.OneByteReader(strings.NewReader(test.body)))
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
		if page, err := decodePage(strings.NewReader(body)); err == nil {
			t.Errorf("%.60q: got %+v, want an error", body, page)
		}
	}
	for n := range len(samplePage) {
		if page, err := decodePage(strings.NewReader(samplePage[:n])); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want an error", n, page)
		}
	}
}

func TestDecodeErrorsDoNotQuote(t *testing.T) {
	for _, body := range []string{`{"data":[{"input":"ok" §`, `§`, `{"data":[{"total_tokens":§}]}`} {
		if _, err := decodePage(strings.NewReader(body)); err == nil || strings.Contains(err.Error(), "Â") || strings.Contains(err.Error(), "§") {
			t.Errorf("%s: got %v, want an error without the text", body, err)
		}
	}
}

func TestDecodeReaderError(t *testing.T) {
	cause := errors.New("cause")
	for n := range len(samplePage) {
		_, err := decodePage(io.MultiReader(strings.NewReader(samplePage[:n]), iotest.ErrReader(cause)))
		if !errors.Is(err, cause) {
			t.Fatalf("after %d bytes: got %v, want the reader's error", n, err)
		}
	}
}

func TestDecodeTimes(t *testing.T) {
	at := time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC)
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
		`"2023-11-07"`:                          {},
		`"yesterday"`:                           {},
		`""`:                                    {},
		`"2023-13-07T05:31:56Z"`:                {},
		`1699335116`:                            {},
		`null`:                                  {},
	} {
		page, err := decodePage(strings.NewReader(`{"data":[{"start_time":` + text + `}]}`))
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
		"times too far apart":    {`"start_time":"1023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:55Z"`, 0, false},
	} {
		page, err := decodePage(strings.NewReader(`{"data":[{` + test.fields + `}]}`))
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
		page, err := decodePage(strings.NewReader(`{"data":[{"total_tokens":` + number + `}]}`))
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
	page, err := decodePage(strings.NewReader(`{"input":"` + secret + `","data":[{"input":"` + secret + `","id":"a","output":"` + secret + `","spans":[{"input":"` + secret + `"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Page{[]Trace{{ID: "a"}}, -1}); !reflect.DeepEqual(page, want) {
		t.Errorf("got %d traces, want only an id", len(page.Traces))
	}
}

// plainIDs is what decodePage must find, in the words of encoding/json.
func plainIDs(body []byte) ([]string, bool) {
	var top map[string]json.RawMessage
	if json.Unmarshal(body, &top) != nil {
		return nil, false
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
		return nil, false
	}
	ids := []string{}
	for _, raw := range rows {
		var row map[string]json.RawMessage
		_ = json.Unmarshal(raw, &row)
		var id string
		if json.Unmarshal(row["id"], &id) != nil || id == "" {
			_ = json.Unmarshal(row["uuid"], &id)
		}
		ids = append(ids, id)
	}
	return ids, true
}

func FuzzDecodePage(f *testing.F) {
	for _, seed := range []string{
		samplePage, `{"traces":[{"uuid":"a"}]}`, `{"data":[{"id":"a","id":null},1,[{}]],"meta":{"total":1e3}}`, `{}`, `[]`, `{"data":[]}x`,
		`{"data":[{"start_time":"2023-11-07 05:31:56.1","total_tokens":1.0,"duration_ms":-1e300}]}`, `{"data":[{"id":"\ud800"}`,
		`{"data":{"a":[1,2]},"traces":[],"z":"\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		page, err := decodePage(strings.NewReader(string(body)))
		want, ok := plainIDs(body)
		if ok != (err == nil) {
			t.Fatalf("got error %v, encoding/json accepts it: %v", err, ok)
		}
		got := []string{}
		for _, trace := range page.Traces {
			got = append(got, trace.ID)
			if trace.Tokens < 0 || trace.Tokens > 1<<53 || !trace.HasTokens && trace.Tokens != 0 || trace.Duration%time.Microsecond != 0 {
				t.Errorf("got %+v", trace)
			}
		}
		if err == nil && (!reflect.DeepEqual(got, want) || page.Total < -1) {
			t.Errorf("got ids %q and total %d, want %q", got, page.Total, want)
		}
	})
}

func BenchmarkDecodePage(b *testing.B) {
	var body strings.Builder
	body.WriteString(`{"meta":{"total_count":100},"data":[`)
	for i := range 100 {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteString(`{"id":"3c90c3cc-0d44-4b50-8888-00` + strconv.Itoa(1000000000+i) + `","start_time":"2023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:57Z","duration_ms":1000,"status":"success","name":"agent","total_tokens":123,"input":"` + strings.Repeat("x", 5000) + `","output":"` + strings.Repeat("y", 5000) + `"}`)
	}
	body.WriteString(`]}`)
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodePage(strings.NewReader(body.String())); err != nil {
			b.Fatal(err)
		}
	}
}
