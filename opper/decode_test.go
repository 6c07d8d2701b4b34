package opper

import (
	"errors"
	"io"
	"reflect"
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
			got, err := DecodePage(iotest.OneByteReader(strings.NewReader(test.body)), PageSize)
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
		if page, err := DecodePage(strings.NewReader(body), PageSize); err == nil {
			t.Errorf("%.60q: got %+v, want an error", body, page)
		}
	}
	for n := range len(samplePage) {
		if page, err := DecodePage(strings.NewReader(samplePage[:n]), PageSize); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want an error", n, page)
		}
	}
}

func TestDecodeErrorsDoNotQuote(t *testing.T) {
	for _, body := range []string{`{"data":[{"input":"ok" §`, `§`, `{"data":[{"total_tokens":§}]}`} {
		if _, err := DecodePage(strings.NewReader(body), PageSize); err == nil || strings.Contains(err.Error(), "Â") || strings.Contains(err.Error(), "§") {
			t.Errorf("%s: got %v, want an error without the text", body, err)
		}
	}
}

func TestDecodeReaderError(t *testing.T) {
	cause := errors.New("cause")
	for n := range len(samplePage) {
		_, err := DecodePage(io.MultiReader(strings.NewReader(samplePage[:n]), iotest.ErrReader(cause)), PageSize)
		if !errors.Is(err, cause) {
			t.Fatalf("after %d bytes: got %v, want the reader's error", n, err)
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
