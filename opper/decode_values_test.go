package opper

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestDecodeTimes(t *testing.T) {
	at := time.Date(2023, 11, 7, 5, 31, 56, 0, time.UTC)
	yearOne := time.Time{}.Add(time.Microsecond) // not the zero time, which is none
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
		`"0001-01-01T00:00:00.000001Z"`:         yearOne,
		`"0000-12-31T23:59:59Z"`:                time.Time{}.Add(-time.Second),
		`"2023-11-07"`:                          {},
		`"yesterday"`:                           {},
		`""`:                                    {},
		`"2023-13-07T05:31:56Z"`:                {},
		`1699335116`:                            {},
		`null`:                                  {},
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{"start_time":`+text+`}]}`), PageSize)
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
		"just behind empty date": {`"start_time":"0001-01-01T00:00:00.000001Z","end_time":"0001-01-01T00:00:00Z"`, -time.Microsecond, true},
		"two empty dates":        {`"start_time":"0001-01-01T00:00:00Z","end_time":"0001-01-01T00:00:00Z"`, 0, true},
		"times too far apart":    {`"start_time":"1023-11-07T05:31:56Z","end_time":"2023-11-07T05:31:55Z"`, 0, false},
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{`+test.fields+`}]}`), PageSize)
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
		strings.Repeat("1", maxNumber+1): -1, "0." + strings.Repeat("0", maxNumber): -1,
		"0": 0, "-0": 0, "123": 123, "123.0": 123, "1.23e2": 123, "9007199254740992": 1 << 53,
		"9007199254740993": -1, "123.5": -1, "-1": -1, "1e999": -1, "1e20": -1, `"5"`: -1, "true": -1, "null": -1, "[5]": -1,
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{"total_tokens":`+number+`}]}`), PageSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := page.Traces[0]; got.Tokens != max(want, 0) || got.HasTokens != (want >= 0) {
			t.Errorf("%s: got %d, %v, want %d", number, got.Tokens, got.HasTokens, want)
		}
	}
}

// Values that are cut remain as distinct as they were.
func TestDecodeKeepsDistinct(t *testing.T) {
	x := strings.Repeat("x", maxValue)
	digest := func(text string) string { return fmt.Sprintf("~%x", sha256.Sum256([]byte(text))) }
	for written, want := range map[string]Trace{
		"a\xff":                  {ID: "a\xff", Name: "a\xff"},
		x[:maxID]:                {ID: x[:maxID], Name: x[:maxID]},
		x[:maxID] + "y":          {ID: x[:maxID] + digest(x[:maxID]+"y"), Name: x[:maxID] + "y"},
		x:                        {ID: x[:maxID] + digest(x), Name: x},
		x + "a":                  {ID: x[:maxID] + digest(x+"a"), Name: x + digest(x+"a")},
		x + `\u0062`:             {ID: x[:maxID] + digest(x+"b"), Name: x + digest(x+"b")},
		strings.Repeat(x, 3):     {ID: x[:maxID] + digest(x+x+x), Name: x + digest(x+x+x)},
		strings.Repeat(x, 3)[1:]: {ID: x[:maxID] + digest(x+x+x[1:]), Name: x + digest(x+x+x[1:])},
	} {
		page, err := DecodePage(strings.NewReader(`{"data":[{"id":"`+written+`","name":"`+written+`","status":"`+written+`"}]}`), 1)
		if err != nil {
			t.Fatal(err)
		}
		want.Status, want.HasStatus = want.Name, true
		if got := page.Traces[0]; got != want {
			t.Errorf("%.40q: got the id %.80q, the name %.80q (%d bytes), the status %.80q", written, got.ID, got.Name, len(got.Name), got.Status)
		}
	}
}
