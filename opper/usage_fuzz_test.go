package opper

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/jsonscan/jsonscantest"
)

// plainMembers calls visit with each member of an object, in order.
func plainMembers(object []byte, visit func(key string, value json.RawMessage)) {
	d := json.NewDecoder(bytes.NewReader(object))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return
		}
		visit(key.(string), value)
	}
}

// plainText returns a string of valid JSON; empty for any other value.
func plainText(value json.RawMessage, limit int) string {
	if value[0] != '"' {
		return ""
	}
	return jsonscantest.Text(value[1:len(value)-1], limit)
}

// plainNumber reads a number, quoted or not.
func plainNumber(value json.RawMessage, places int) (int64, bool) {
	if value[0] == '"' {
		return plainDecimal(plainText(value, maxValue), places)
	}
	return plainDecimal(string(value), places)
}

// plainUsage is what decodeUsage must find, in the words of encoding/json.
func plainUsage(body []byte) (usageAnswer, bool) {
	answer := usageAnswer{groups: map[UsageGroup]bool{}}
	answer.Total = -1
	body = bytes.Trim(body, " \t\r\n")
	if !json.Valid(body) {
		return usageAnswer{}, false
	}
	hasList, readable := false, true
	list := func(value json.RawMessage) {
		answer.Rows = nil
		var rows []json.RawMessage
		if hasList = value[0] == '[' && json.Unmarshal(value, &rows) == nil; !hasList {
			return
		}
		for _, row := range rows {
			u, ok := plainUsageRow(row, answer.groups)
			readable = readable && ok
			answer.Rows = append(answer.Rows, u)
		}
	}
	if body[0] == '[' {
		list(body)
	}
	plainMembers(body, func(key string, value json.RawMessage) {
		switch key {
		case "data":
			list(value)
		case "meta":
			var meta map[string]json.RawMessage
			_ = json.Unmarshal(value, &meta)
			answer.Total = int(plainWhole(meta["total_count"]))
			if answer.Total < 0 {
				answer.Total = int(plainWhole(meta["total"]))
			}
		}
	})
	if !hasList || !readable {
		return usageAnswer{}, false
	}
	return answer, true
}

func plainUsageRow(row json.RawMessage, groups map[UsageGroup]bool) (u Usage, readable bool) {
	hasBucket, hasCost := false, false
	amount := func(value json.RawMessage, field, places int) int64 {
		if value[0] == 'n' {
			return 0
		}
		n, ok := plainNumber(value, places)
		if !ok {
			u.Unreadable[field] = true
			return 0
		}
		return n
	}
	plainMembers(row, func(key string, value json.RawMessage) {
		switch key {
		case "time_bucket":
			u.Bucket, hasBucket = plainTime(plainText(value, maxValue))
			u.Bucket = u.Bucket.Truncate(time.Hour)
		case "cost":
			u.Cost, hasCost = amount(value, 0, 9), true
		case "count":
			u.Calls = amount(value, 1, 0)
		case "prompt_tokens":
			u.InputTokens = amount(value, 2, 0)
		case "completion_tokens":
			u.OutputTokens = amount(value, 3, 0)
		case "model":
			u.Model, groups[GroupModel] = plainText(value, maxID), true
		case "project.uuid", "project_uuid":
			u.Project, groups[GroupProject] = plainText(value, maxID), true
		case "trace_uuid":
			u.Trace, groups[GroupTrace] = plainText(value, maxID), true
		}
	})
	u.Unreadable[0] = u.Unreadable[0] || !hasCost
	return u, hasBucket
}

// Whatever decodeUsage and encoding/json both take, they read alike, and what the one
// rejects the other does too.
func FuzzDecodeUsage(f *testing.F) {
	for _, seed := range []string{
		sampleUsage, `{"data":` + sampleUsage + `,"meta":{"total_count":7}}`, `[]`, `{}`, `{"data":[],"data":null}`, `[5]`, ` [{"time_bucket":"2026-10-01 10:30:00.5+05:30","cost":1e-7}]`,
		`[{"c\u006fst":"\u002e5","cost":null,"time_bucket":"2026-10-01T10:00:00","project_uuid":"a","project.uuid":null,"trace_uuid":"\ud800","model":{"cost":"x"}}]`,
		`[{"time_bucket":"2026-10-01T10:00:00Z","cost":"9223372036.8547758075"}]`, `[{"time_bucket":"2026-10-01T10:00:00Z","cost":"1","count":12.0,"prompt_tokens":"1e99","completion_tokens":[]}]`,
		`[{"time_bucket":"2026-10-01T10:00:00Z","cost":0},{"cost":"1"}]`, `{"error":{"code":"x"}}`, `[{"time_bucket":"2026-10-01T10:00:00Z","cost":"0"}]x`, "\v[]",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(6))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		got, err := decodeUsage(&jsonscantest.Pieces{Rest: body, Size: int(size) + 1}, hoursOf(allGroups), len(body))
		want, ok := plainUsage(body)
		if ok != (err == nil) {
			t.Fatalf("got error %v, encoding/json accepts it: %v", err, ok)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// plainBudget is what decodeBudget must find, in the words of encoding/json.
func plainBudget(body []byte) (b Budget) {
	hasNoLimit := true
	plainMembers(body, func(key string, value json.RawMessage) {
		switch key {
		case "blocked":
			b.Blocked, b.HasBlocked = string(value) == "true", value[0] == 't' || value[0] == 'f'
		case "project_spend":
			b.SpentCents, b.HasSpent, b.LimitCents, b.HasLimit, hasNoLimit = 0, false, 0, false, true
			plainMembers(value, func(key string, value json.RawMessage) {
				switch key {
				case "spent_cents":
					b.SpentCents, b.HasSpent = plainNumber(value, 0)
				case "limit_cents":
					hasNoLimit = value[0] == 'n'
					b.LimitCents, b.HasLimit = plainNumber(value, 0)
				}
			})
		}
	})
	if !b.HasBlocked {
		b.Missing = "blocked"
	}
	if b.LimitCents < 0 {
		b.HasLimit = false
	}
	if !b.HasLimit {
		b.LimitCents = 0
		if !hasNoLimit {
			b.Missing += ", project_spend.limit_cents"
		}
	}
	if !b.HasSpent {
		b.SpentCents = 0
		b.Missing += ", project_spend.spent_cents"
	}
	b.Missing = strings.TrimPrefix(b.Missing, ", ")
	return b
}

// What decodeBudget reads is what encoding/json does.
func FuzzDecodeBudget(f *testing.F) {
	for _, seed := range []string{
		sampleBudget, `{}`, `[]`, `null`, `{"blocked":true,"blocked":null}`, `{"project_spend":{"spent_cents":"1234.5","limit_cents":1e99},"project_spend":[],"blocked":false}`, `{"project_spend":{"spent_cents":-1,"spent_cents":"x"}} x`, `0`, "0 ",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(6))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		got, err := decodeBudget(&jsonscantest.Pieces{Rest: body, Size: int(size) + 1})
		// A number at the very end may have been cut.
		number := bytes.TrimLeft(body, " \t\r\n-0123456789.eE+")
		if ok := json.Valid(body) && (len(number) > 0 || bytes.ContainsAny(body[len(body)-1:], " \t\r\n")); ok != (err == nil) {
			t.Fatalf("got error %v, encoding/json accepts it: %v", err, ok)
		}
		if want := plainBudget(body); err == nil && got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
