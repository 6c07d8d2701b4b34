package opper

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"
)

// sampleUsage is an answer as Opper's own clients expect it.
const sampleUsage = `[
  {"time_bucket": "2026-10-01T10:00:00Z", "cost": "0.07481650", "count": 12, "prompt_tokens": "1500", "completion_tokens": null, "model": "openai/gpt-4o", "project.uuid": "p"},
  {"time_bucket": "2026-10-01T11:00:00Z", "cost": "-0.5", "count": "3", "prompt_tokens": 7.0, "completion_tokens": "8", "model": null, "project.uuid": null}
]`

var (
	sampleUsageRows = []Usage{
		{Bucket: usageHour(10), Cost: 74_816_500, Calls: 12, InputTokens: 1500, Model: "openai/gpt-4o", Project: "p"},
		{Bucket: usageHour(11), Cost: -500_000_000, Calls: 3, InputTokens: 7, OutputTokens: 8},
	}
	byModel   = []UsageGroup{GroupModel, GroupProject}
	allGroups = []UsageGroup{GroupModel, GroupProject, GroupTrace}
)

func hoursOf(groups []UsageGroup) *UsageQuery { return &UsageQuery{GroupBy: groups} }

func usageHour(hour int) time.Time { return time.Date(2026, 10, 1, hour, 0, 0, 0, time.UTC) }

func TestUsage(t *testing.T) {
	for base, want := range map[string]string{"": "/v2/analytics/usage", "/v2": "/v2/analytics/usage", "/proxy/v3/": "/proxy/v2/analytics/usage"} {
		var got *http.Request
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			got = r
			answer(200, sampleUsage)(w, r)
		}, func(o *Options) {
			o.URL += base
			o.Name = "an agent" // the filter of traces
		})
		zone := time.FixedZone("", 7200)
		query := UsageQuery{From: usageHour(9).In(zone), To: usageHour(12).In(zone), GroupBy: byModel}
		page, err := f.Usage(t.Context(), query)
		if want := (UsagePage{sampleUsageRows, -1}); err != nil || !reflect.DeepEqual(page, want) {
			t.Errorf("got %+v, %v, want %+v", page, err, want)
		}
		if got.Method != "GET" || got.URL.Path != want || got.Header.Get("Authorization") != "Bearer "+testKey {
			t.Errorf("got %s %s, want GET %s with the key", got.Method, got.URL.Path, want)
		}
		const encoded = "fields=prompt_tokens&fields=completion_tokens&from_date=2026-10-01T09%3A00%3A00Z&granularity=hour&group_by=model&group_by=project.uuid&to_date=2026-10-01T12%3A00%3A00Z"
		if got.URL.RawQuery != encoded {
			t.Errorf("got the query %s, want %s", got.URL.RawQuery, encoded)
		}
	}
}

func TestDecodeUsage(t *testing.T) {
	row := func(fields string) string {
		return `[{"time_bucket":"2026-10-01T10:00:00Z","cost":"1"` + fields + `}]`
	}
	plain := Usage{Bucket: usageHour(10), Cost: 1e9}
	with := func(change func(*Usage)) UsagePage {
		u := plain
		change(&u)
		return UsagePage{[]Usage{u}, -1}
	}
	one := with(func(*Usage) {})
	for name, test := range map[string]struct {
		body string
		want UsagePage
	}{
		"sample":             {sampleUsage, UsagePage{sampleUsageRows, -1}},
		"empty":              {`[]`, UsagePage{nil, -1}},
		"empty data":         {`{"data":[]}`, UsagePage{nil, -1}},
		"object":             {`{"meta":{"total_count":70},"data":` + sampleUsage + `}`, UsagePage{sampleUsageRows, 70}},
		"object, meta last":  {`{"data":` + sampleUsage + `,"x":[{"cost":"9"}],"meta":{"total":2}}`, UsagePage{sampleUsageRows, 2}},
		"object without one": {`{"data":` + sampleUsage + `,"meta":null}`, UsagePage{sampleUsageRows, -1}},
		"data twice":         {`{"data":` + row("") + `,"data":` + sampleUsage + `}`, UsagePage{sampleUsageRows, -1}},
		"fields absent":      {row(""), one},
		"fields null":        {row(`,"count":null,"prompt_tokens":null,"completion_tokens":null,"model":null,"project.uuid":null,"trace_uuid":null`), one},
		"cost null":          {row(`,"cost":null`), with(func(u *Usage) { u.Cost = 0 })},
		"cost number":        {row(`,"cost":0.07481650`), with(func(u *Usage) { u.Cost = 74_816_500 })},
		"cost tiny":          {row(`,"cost":1e-7`), with(func(u *Usage) { u.Cost = 100 })},
		"cost escaped":       {row(`,"cost":"\u002b.5"`), with(func(u *Usage) { u.Cost = 5e8 })},
		"numbers": {
			row(`,"count":12.0,"prompt_tokens":1e3,"completion_tokens":9007199254740993`),
			with(func(u *Usage) { u.Calls, u.InputTokens, u.OutputTokens = 12, 1000, 9007199254740993 }),
		},
		"strings": {
			row(`,"count":"12","prompt_tokens":"1000.0","completion_tokens":"9223372036854775807"`),
			with(func(u *Usage) { u.Calls, u.InputTokens, u.OutputTokens = 12, 1000, 1<<63-1 }),
		},
		"trace":                {row(`,"trace_uuid":"t"`), with(func(u *Usage) { u.Trace = "t" })},
		"project of underline": {row(`,"project_uuid":"p"`), with(func(u *Usage) { u.Project = "p" })},
		"wrong types":          {row(`,"model":5,"project.uuid":["p"],"trace_uuid":{"x":"t"}`), one},
		"not asked for":        {row(`,"Model":"m","project.name":"n","function.uuid":"f","":"e","total_tokens":{}`), one},
		"no zone":              {row(`,"time_bucket":"2026-10-01T10:00:00"`), one},
		"another zone":         {row(`,"time_bucket":"2026-10-01T12:00:00+02:00"`), one},
		"blank":                {row(`,"time_bucket":"2026-10-01 10:00:00+00:00"`), one},
		"fraction":             {row(`,"time_bucket":"2026-10-01T10:00:00.000000Z"`), one},
		"within the hour":      {row(`,"time_bucket":"2026-10-01T10:59:59.999999"`), one},
		"before 1970":          {row(`,"time_bucket":"1969-12-31T23:30:00Z"`), with(func(u *Usage) { u.Bucket = time.Date(1969, 12, 31, 23, 0, 0, 0, time.UTC) })},
	} {
		got, err := decodeUsage(strings.NewReader(test.body), hoursOf(allGroups), maxUsageRows)
		if err != nil || !reflect.DeepEqual(got.UsagePage, test.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got.UsagePage, err, test.want)
		}
	}
	got, err := decodeUsage(strings.NewReader(row(`,"model":"m","project.uuid":"p","trace_uuid":"t"`)), hoursOf(nil), maxUsageRows)
	if err != nil || !reflect.DeepEqual(got.UsagePage, one) {
		t.Errorf("no groups: got %+v, %v, want none", got.UsagePage, err)
	}
}

// A row whose bucket cannot be read is never left out.
func TestDecodeUsageRejects(t *testing.T) {
	const (
		noList   = `JSON without a list of usage rows (expected an array, bare or as "data")`
		noBucket = "usage row 2 without a readable time_bucket (expected a time as in RFC 3339)"
	)
	row := func(fields string) string {
		return `[{"time_bucket":"2026-10-01T10:00:00Z","cost":"1"},{` + fields + `}]`
	}
	for body, want := range map[string]string{
		`{}`: noList, `{"data":null}`: noList, `{"data":{}}`: noList, `"[]"`: noList, `null`: noList, `{"data":[],"data":5}`: noList,
		`{"type":"NotFound","message":"m","detail":[]}`: noList, `{"error":{"code":"x","message":"m"}}`: noList, `{"error":"m"}`: noList,
		row(``): noBucket, row(`"cost":"1"`): noBucket, row(`"time_bucket":null,"cost":"1"`): noBucket, row(`"time_bucket":1790000000,"cost":"1"`): noBucket,
		row(`"time_bucket":"today","cost":"1"`): noBucket, row(`"time_bucket":"","cost":1`): noBucket, row(`"time_bucket":"2026-13-01T00:00:00Z","cost":1`): noBucket,
		strings.Replace(row(``), "{}", "null", 1): noBucket, strings.Replace(row(``), "{}", "[5]", 1): noBucket,
		``: "incomplete JSON: unexpected EOF", `5`: "", `[]x`: "", `[],`: "", `[{"cost":01}]`: "", `<html></html>`: "malformed JSON at byte 1", `[{]`: "",
	} {
		got, err := decodeUsage(strings.NewReader(body), hoursOf(allGroups), maxUsageRows)
		if err == nil || want != "" && err.Error() != want || !reflect.DeepEqual(got, usageAnswer{}) {
			t.Errorf("%.90s: got %+v, %v, want %s", body, got, err, want)
		}
	}
	cause := errors.New("cause")
	for n := range len(sampleUsage) {
		if got, err := decodeUsage(strings.NewReader(sampleUsage[:n]), hoursOf(byModel), maxUsageRows); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: got %+v, %v, want an error for the end", n, got, err)
		}
		if _, err := decodeUsage(io.MultiReader(strings.NewReader(sampleUsage[:n]), iotest.ErrReader(cause)), hoursOf(byModel), maxUsageRows); !errors.Is(err, cause) {
			t.Errorf("after %d bytes: got %v, want the reader's error", n, err)
		}
	}
}

// An amount that cannot be read is 0, and its row says so: the others are read.
func TestDecodeUnreadableUsage(t *testing.T) {
	plain := Usage{Bucket: usageHour(10), Cost: 1e9, Calls: 2, InputTokens: 3, OutputTokens: 4}
	before := `[{"time_bucket":"2026-10-01T10:00:00Z","cost":"1","count":2,"prompt_tokens":3,"completion_tokens":4},{"time_bucket":"2026-10-01T10:00:00Z"`
	for fields, spoil := range map[string]func(*Usage){
		"": func(u *Usage) { *u = Usage{Bucket: u.Bucket, Unreadable: [4]bool{true}} },
		`,"cost":"1","count":"many","prompt_tokens":3,"completion_tokens":4`: func(u *Usage) { u.Calls, u.Unreadable[1] = 0, true },
		`,"cost":"1","count":2,"prompt_tokens":[],"completion_tokens":4`:     func(u *Usage) { u.InputTokens, u.Unreadable[2] = 0, true },
		`,"cost":"1","count":2,"prompt_tokens":3,"completion_tokens":1e19`:   func(u *Usage) { u.OutputTokens, u.Unreadable[3] = 0, true },
	} {
		checkUnreadable(t, before+fields+"}]", plain, spoil)
	}
	for _, cost := range []string{
		`"NaN"`, `"-Infinity"`, `"private"`, `""`, `"1e10"`, `true`, `{"n":1}`, `["1"]`, `"x","cost":"1"`, `1` + strings.Repeat("0", maxNumber), `"0.` + strings.Repeat("0", maxValue) + `"`,
	} {
		checkUnreadable(t, before+`,"count":2,"prompt_tokens":3,"completion_tokens":4,"cost":`+cost+"}]", plain, func(u *Usage) {
			if u.Unreadable[0] = true; !strings.HasSuffix(cost, `"1"`) {
				u.Cost = 0
			}
		})
	}
}

func checkUnreadable(t *testing.T, body string, plain Usage, spoil func(*Usage)) {
	t.Helper()
	want := []Usage{plain, plain}
	spoil(&want[1])
	got, err := decodeUsage(strings.NewReader(body), hoursOf(allGroups), maxUsageRows)
	if err != nil || !slices.Equal(got.Rows, want) {
		t.Errorf("%.250s: got %+v, %v, want %+v", body, got.Rows, err, want)
	}
}

// A window that is not one of hours is read by the minute.
func TestUsageOfMinutes(t *testing.T) {
	for _, test := range []struct {
		from, to    time.Duration
		granularity string
		bucket      time.Time
	}{
		{0, 2 * time.Hour, "hour", usageHour(10)},
		{0, 90 * time.Minute, "minute", usageHour(10).Add(59 * time.Minute)},
		{59 * time.Minute, time.Hour, "minute", usageHour(10).Add(59 * time.Minute)},
	} {
		granularity := ""
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			granularity = r.URL.Query().Get("granularity")
			answer(200, `[{"time_bucket":"2026-10-01T10:59:30Z","cost":"1"}]`)(w, r)
		})
		page, err := f.Usage(t.Context(), UsageQuery{From: usageHour(10).Add(test.from), To: usageHour(10).Add(test.to)})
		if err != nil || granularity != test.granularity || !page.Rows[0].Bucket.Equal(test.bucket) {
			t.Errorf("%v to %v: asked for %s, got %+v, %v", test.from, test.to, granularity, page, err)
		}
	}
}

// A group that Opper does not know is not a group that is null.
func TestUsageWithoutGroup(t *testing.T) {
	row := `{"time_bucket":"2026-10-01T10:00:00Z","cost":"1"`
	for body, want := range map[string]string{
		`[` + row + `}]`: "model", `[` + row + `,"model":null}]`: "project.uuid", `[` + row + `,"model":null,"project_uuid":null}]`: "trace_uuid",
		`[` + row + `,"trace_uuid":null,"project.uuid":"p"},` + row + `}]`:                         "model",
		`{"data":[` + row + `,"model":null,"trace":"t","project.uuid":"p"}]}`:                      "trace_uuid",
		`[` + row + `,"model":null},` + row + `,"project.uuid":null},` + row + `,"trace_uuid":7}]`: "",
		`[]`: "", `{"data":[]}`: "",
	} {
		f := newFixture(t, answer(200, body))
		page, err := f.Usage(t.Context(), UsageQuery{GroupBy: allGroups})
		if want == "" {
			if err != nil {
				t.Errorf("%s: got %v", body, err)
			}
			continue
		}
		if text := "read usage: usage without a group that was asked for: " + want; !errors.Is(err, ErrNoGroup) || err.Error() != text || !Permanent(err) || Unreadable(err) {
			t.Errorf("%s: got %v, want %s", body, err, text)
		}
		if !reflect.DeepEqual(page, UsagePage{}) || f.requests.Load() != 1 || f.observed() != "200" {
			t.Errorf("%s: got %+v after %d requests, observed as %s", body, page, f.requests.Load(), f.observed())
		}
	}
}

func TestUsageTooManyRows(t *testing.T) {
	const row = `{"time_bucket":"2026-10-01T10:00:00Z","cost":"1"}`
	for _, limit := range []int{1, 7} {
		for before, after := range map[string]string{`[`: `]`, `{"data":[`: `]}`, `{"data":[` + row + `],"data":[`: `]}`} {
			rows := limit - strings.Count(before, row)
			body := before + strings.Repeat(row+",", rows)
			if got, err := decodeUsage(strings.NewReader(strings.TrimSuffix(body, ",")+after), hoursOf(nil), limit); err != nil || len(got.Rows) != rows {
				t.Errorf("%d: got %d rows, %v", limit, len(got.Rows), err)
			}
			// Nothing is read after the row that is too many.
			_, err := decodeUsage(iotest.OneByteReader(io.MultiReader(strings.NewReader(body+`{`), iotest.ErrReader(errors.New("read on")))), hoursOf(nil), limit)
			if want := fmt.Sprintf("more rows than the limit of %d", limit); !errors.Is(err, ErrTooManyRows) || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	for extra, want := range map[int]string{0: "", 1: "read usage: more rows than the limit of 131072"} {
		f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader("["+row), &repeated{"," + row, maxUsageRows - 1 + extra, 0}, strings.NewReader("]")))
		})
		page, err := f.Usage(t.Context(), UsageQuery{})
		if want == "" && (err != nil || len(page.Rows) != maxUsageRows) || want != "" && (!errors.Is(err, ErrTooManyRows) || err.Error() != want) || f.requests.Load() != 1 {
			t.Errorf("%d rows more than the maximum: got %d, %v after %d requests", extra, len(page.Rows), err, f.requests.Load())
		}
	}
}

// Long texts count as several rows.
func TestUsageTooLong(t *testing.T) {
	row := func(length int) string {
		return `{"time_bucket":"2026-10-01T10:00:00Z","cost":"1","model":"m","trace_uuid":"` + strings.Repeat("t", length) + `"}`
	}
	for length, want := range map[int]error{63: nil, 64: ErrTooManyRows} {
		body := "[" + strings.Repeat(row(length)+",", 9) + row(length) + "]"
		if answer, err := decodeUsage(strings.NewReader(body), hoursOf(allGroups), 10); !errors.Is(err, want) || err == nil && len(answer.Rows) != 10 {
			t.Errorf("%d bytes: got %d rows, %v, want %v", length, len(answer.Rows), err, want)
		}
	}
}

// Rows keep their groups alone, and what repeats of them once.
func TestUsageKeepsLittle(t *testing.T) {
	secret := strings.Repeat("private", 1<<10)
	row := `{"block_reason":"` + secret + `","time_bucket":"2026-10-01T10:00:00Z","cost":"1","model":"openai/gpt-4o","project.uuid":"p","trace_uuid":"t","` + secret + `":1}`
	body := func(rows int) io.Reader { return &repeated{row + ",", rows, 0} }
	read := func(rows int) usageAnswer {
		answer, err := decodeUsage(io.MultiReader(strings.NewReader("["), body(rows), strings.NewReader(row+"]")), hoursOf(allGroups), maxUsageRows)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	rows := read(1).Rows
	if unsafe.StringData(rows[0].Model) != unsafe.StringData(rows[1].Model) || unsafe.StringData(rows[0].Project) != unsafe.StringData(rows[1].Project) {
		t.Error("a group of two rows is held twice")
	}
	var start, end runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	held := read(4000)
	runtime.GC()
	runtime.ReadMemStats(&end)
	if holds := int64(end.HeapAlloc) - int64(start.HeapAlloc); holds > 2<<20 {
		t.Errorf("%d bytes are held of %d rows", holds, len(held.Rows))
	}
	runtime.KeepAlive(held)

	long := strings.Repeat("m", maxValue)
	answer, err := decodeUsage(strings.NewReader(`[{"time_bucket":"2026-10-01T10:00:00Z","cost":"1","model":"`+long+`","project.uuid":"`+long+`","trace_uuid":"`+long+`"}]`), hoursOf(allGroups), 1)
	page, _ := DecodePage(strings.NewReader(`{"data":[{"id":"`+long+`"}]}`), 1)
	if want := page.Traces[0].ID; err != nil || answer.Rows[0].Trace != want || answer.Rows[0].Model != want || answer.Rows[0].Project != want {
		t.Errorf("got %.500v, %v, want long groups cut as an id is", answer.Rows, err)
	}
}
