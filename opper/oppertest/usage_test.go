package oppertest

import (
	"encoding/json"
	"maps"
	"math"
	"math/big"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	shop = "5f0c1a9e-0000-4000-8000-000000000001"
	desk = "5f0c1a9e-0000-4000-8000-000000000002"
)

// organization is two projects, whose clock stands at an hour after the epoch.
func organization(cfg UsageConfig) (c *clock, u *Usage, of map[string]*Server) {
	c = newClock()
	c.set(3600)
	cfg.Now = c.now
	u = NewUsage(cfg)
	of = map[string]*Server{}
	for _, project := range []string{shop, desk} {
		of[project] = New(Config{Usage: u, Project: project, Now: c.now})
	}
	return c, u, of
}

// call is one at some seconds after the epoch.
func call(seconds int, model, project, trace string, amounts ...int64) Call {
	return Call{Time: sec(seconds), Model: &model, Project: project, Trace: trace, Amounts: Amounts{Cost: amounts[0], InputTokens: amounts[1], OutputTokens: amounts[2]}}
}

// fill adds calls of every kind in each of some hours.
func fill(u *Usage, hours int) {
	for i := range 60 * hours {
		c := call(60*i+i%60, []string{"openai/gpt-4o", "mistral/large", "(none)", "a \"b\"\n"}[i%4], []string{shop, desk, shop}[i%3],
			[]string{"", "t1", "t2"}[i%3], int64(i)*10_000_019, int64(i), int64(i%7))
		if i%11 == 0 {
			c.Model = nil
		}
		u.Add(c)
	}
}

func usage(t testing.TB, s *Server, query string) []map[string]any {
	t.Helper()
	w := get(t, s, "/v2/analytics/usage?"+query)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	var rows []map[string]any
	d := json.NewDecoder(w.Body)
	d.UseNumber()
	if err := d.Decode(&rows); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return rows
}

const january = "from_date=2026-01-01T00:00:00Z&to_date=2026-02-01T00:00:00Z&"

func TestUsageAsDocumented(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.SetProjectName(shop, "the shop")
	u.Add(
		call(10, "m", shop, "t", 74_816_500, 1500, 0),
		call(3599, "m", shop, "", 3, 2, 7),
		call(20, "n", shop, "t", -5, 0, 0),
		call(30, "m", desk, "t", 1, 1, 1),
	)
	for query, want := range map[string]string{
		january + "granularity=hour&fields=prompt_tokens,completion_tokens&group_by=model&group_by=project.uuid": `[` +
			`{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.074816503","count":2,"prompt_tokens":"1502","completion_tokens":"7","model":"m","project.uuid":"` + shop + `"},` +
			`{"time_bucket":"2026-01-01T00:00:00Z","cost":"-0.000000005","count":1,"prompt_tokens":null,"completion_tokens":null,"model":"n","project.uuid":"` + shop + `"}]`,
		"": `[{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.074816498","count":3}]`,
		"granularity=minute&group_by=trace_uuid,project.name&fields=total_tokens": `[` +
			`{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.074816495","count":2,"total_tokens":"1500","trace_uuid":"t","project.name":"the shop"},` +
			`{"time_bucket":"2026-01-01T00:59:00Z","cost":"0.000000003","count":1,"total_tokens":"9","trace_uuid":null,"project.name":"the shop"}]`,
		"from_date=2026-01-01T00:00:20%2B00:00&to_date=2026-01-01T00:59:59Z&granularity=hour&group_by=customer": `[` +
			`{"time_bucket":"2026-01-01T00:00:00Z","cost":"-0.000000005","count":1,"customer":null}]`,
		"from_date=2026-01-01T00:00:10Z&to_date=2026-01-01T00:00:11Z&granularity=year":           `[{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.07481650","count":1}]`,
		"from_date=2026-01-02&granularity=month":                                                 `[]`,
		"from_date=2026-01-01T00:00:10Z&to_date=2026-01-01T00:00:11Z&group_by=span_uuid&fields=": "",
	} {
		w := get(t, of[shop], "/v2/analytics/usage?"+query)
		if want == "" {
			if w.Code != http.StatusUnprocessableEntity {
				t.Errorf("%s: %d %s", query, w.Code, w.Body)
			}
			continue
		}
		if w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d\n%s, want\n%s", query, w.Code, w.Body, want)
		}
	}
	for _, query := range []string{"granularity=week", "fields=count", "from_date=yesterday", "to_date="} {
		if w := get(t, of[shop], "/v2/analytics/usage?"+query); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/v3/analytics/usage", "/v2/me", "/v2/analytics"} {
		if w := get(t, of[shop], path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(t, New(Config{Key: "another"}), "/v2/analytics/usage"); w.Code != http.StatusUnauthorized {
		t.Errorf("with a wrong key: %d", w.Code)
	}
	if w := get(t, New(Config{}), "/v2/analytics/usage"); w.Body.String() != "[]" {
		t.Errorf("without usage: %s", w.Body)
	}
}

func TestMonthIsTheDefault(t *testing.T) {
	c, u, of := organization(UsageConfig{})
	month := 31 * 24 * 3600
	u.Add(call(month-1, "m", shop, "", 1, 0, 0), call(month, "m", shop, "", 2, 0, 0), call(month+27*24*3600+3599, "m", shop, "", 4, 0, 0))
	c.set(month + 27*24*3600 + 3599)
	if rows := usage(t, of[shop], "granularity=month"); len(rows) != 1 || rows[0]["cost"] != "0.000000006" || rows[0]["time_bucket"] != "2026-02-01T00:00:00Z" {
		t.Errorf("in February: %v", rows)
	}
}

// A row shows when its time has come, and never twice.
func TestUsageIsRolledUpLate(t *testing.T) {
	c, u, of := organization(UsageConfig{})
	u.SetTroubles(UsageTroubles{RollUp: 30 * time.Second})
	u.Add(call(3590, "m", shop, "t", 1, 0, 0), call(3600, "m", shop, "t", 2, 0, 0), call(10, "m", shop, "t", 4, 0, 0))
	late := call(4000, "m", shop, "t", 8, 0, 0)
	late.Shown = sec(3610)
	u.Add(late)
	for _, step := range []struct {
		at   int
		want int64
	}{{3600, 4}, {3610, 12}, {3619, 12}, {3620, 13}, {3629, 13}, {3630, 15}} {
		c.set(step.at)
		if got := u.ByTrace()["t"].Cost; got != step.want {
			t.Errorf("at %d s: %d, want %d", step.at, got, step.want)
		}
	}
	a := of[shop].ReadUsage(sec(3600), sec(7200), "model")
	if want := []UsageRow{{Bucket: sec(3600), Amounts: Amounts{Cost: 10, Calls: 2}, Model: "m"}}; !reflect.DeepEqual(a.Rows, want) || a.Total != -1 {
		t.Errorf("got %+v, want %+v", a, want)
	}

	u.SetTroubles(UsageTroubles{RollUpSpread: time.Minute})
	for range 100 {
		u.Add(call(3630, "spread", shop, "", 1, 0, 0))
	}
	c.set(3660)
	if n := u.ByModel()[ModelKey{shop, "spread"}].Calls; n < 20 || n > 80 {
		t.Errorf("%d of 100 calls show after half of the spread", n)
	}
	c.set(3690)
	if n := u.ByModel()[ModelKey{shop, "spread"}].Calls; n != 100 {
		t.Errorf("%d of 100 calls show", n)
	}
}

func TestUsageIsStale(t *testing.T) {
	c, u, of := organization(UsageConfig{})
	u.SetTroubles(UsageTroubles{Stale: 0.5, StaleBy: time.Minute})
	c.set(0)
	u.Add(call(3000, "m", shop, "", 1, 0, 0), call(3630, "m", shop, "", 2, 0, 0))
	c.set(3640)
	seen := map[string]int{}
	for range 100 {
		seen[get(t, of[shop], "/v2/analytics/usage?granularity=month").Body.String()]++
	}
	row := func(cost string) int {
		return seen[`[{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.00000000`+cost+`}]`]
	}
	if present, old := row(`3","count":2`), row(`1","count":1`); present < 30 || old < 30 || present+old != 100 {
		t.Errorf("got %v", seen)
	}
	if u.ByModel()[ModelKey{shop, "m"}].Calls != 2 {
		t.Error("the truth is stale")
	}
}

// By the seed, hours become smaller and grow again; what was served at its highest is
// what a reader has that adds up increases.
func TestUsageIsCorrected(t *testing.T) {
	c, u, of := organization(UsageConfig{Seed: 3})
	u.SetTroubles(UsageTroubles{Corrections: 0.3, CorrectWithin: 20 * time.Minute})
	fill(u, 3)
	highest := map[HourKey]Amounts{}
	last := map[HourKey]int64{}
	smaller, again := 0, 0
	for at := 0; at < 5*3600; at += 60 {
		c.set(at)
		a := of[shop].ReadUsage(sec(0), sec(86400), "model", "project.uuid")
		now := map[HourKey]Amounts{}
		for _, r := range a.Rows {
			now[HourKey{r.Bucket, ModelKey{r.Project, r.Model}}] = r.Amounts
		}
		for k, before := range last {
			switch {
			case now[k].Cost < before:
				smaller++
			case now[k].Cost > before && before < highest[k].Cost:
				again++
			}
		}
		for k, a := range now {
			last[k] = a.Cost
			h := highest[k]
			h.raise(a)
			highest[k] = h
		}
		byHour := u.ByHour()
		maps.DeleteFunc(byHour, func(k HourKey, _ Amounts) bool { return k.Project != shop })
		if !reflect.DeepEqual(byHour, now) {
			t.Fatalf("at %d s: served %v, true is %v", at, now, byHour)
		}
	}
	if smaller < 5 || again < 5 {
		t.Errorf("hours became smaller %d times, and grew again %d times", smaller, again)
	}
	if got, want := of[shop].HighestUsage(), overHours(highest); !reflect.DeepEqual(got, want) || got[ModelKey{shop, "mistral/large"}] == u.ByModel()[ModelKey{shop, "mistral/large"}] {
		t.Errorf("highest: %v, want %v", got, want)
	}
	if len(of[desk].HighestUsage()) != 0 {
		t.Error("the other server has served nothing")
	}

	u.SetTroubles(UsageTroubles{})
	cut := call(0, "openai/gpt-4o", shop, "", -7, 0, 0)
	cut.Adjustment = true
	before := u.ByModel()[ModelKey{shop, "openai/gpt-4o"}]
	u.Add(cut)
	before.Cost -= 7
	if after := u.ByModel()[ModelKey{shop, "openai/gpt-4o"}]; after != before {
		t.Errorf("adjusted to %v, want %v", after, before)
	}
}

// What is read in each of the troubles of answers adds up to the truth.
func TestUsageAddsUpInTroubles(t *testing.T) {
	for name, troubles := range map[string]UsageTroubles{
		"none":        {},
		"duplicates":  {Duplicates: 0.8},
		"nulls":       {Nulls: 0.3, NullsAbsent: true},
		"shuffle":     {Shuffle: true},
		"shapes":      {Shapes: true},
		"underscores": {Underscores: true, UnknownFields: true},
		"everything":  {Duplicates: 0.5, Nulls: 0.1, NullsAbsent: true, Shuffle: true, Shapes: true, UnknownFields: true, OrganizationWide: true},
	} {
		_, u, of := organization(UsageConfig{Seed: 9})
		u.SetTroubles(troubles)
		fill(u, 1)
		cut := call(0, "mistral/large", shop, "", -1_234_567_891, 0, 0)
		cut.Adjustment = true
		u.Add(cut)
		want := u.ByHour()
		rows := 0
		for _, project := range []string{shop, desk} {
			sums := map[HourKey]Amounts{}
			for range 20 {
				clear(sums)
				all := usage(t, of[project], january+"granularity=hour&fields=prompt_tokens,completion_tokens&group_by=model,project.uuid")
				rows = max(rows, len(all))
				for _, row := range all {
					k, a := readRow(t, row)
					sum := sums[k]
					sum.add(a, 1)
					sums[k] = sum
				}
				expected := maps.Clone(want)
				if !troubles.OrganizationWide {
					// What has no project any more is still of one.
					maps.DeleteFunc(expected, func(k HourKey, _ Amounts) bool { return k.Project != project && k.Project != "" })
					for k := range expected {
						if k.Project == "" {
							delete(expected, k)
							delete(sums, k)
						}
					}
				}
				if !reflect.DeepEqual(sums, expected) {
					t.Fatalf("%s: got %v, want %v", name, sums, expected)
				}
			}
		}
		if keys := len(want); troubles.Duplicates > 0 && rows <= keys/2 || troubles.Nulls > 0 && want[HourKey{epoch, ModelKey{}}].Calls == 0 {
			t.Errorf("%s: %d rows of %d keys: %v", name, rows, keys, want)
		}
	}
}

// readRow reads a row without the decoder that this package is there to test.
func readRow(t *testing.T, row map[string]any) (HourKey, Amounts) {
	t.Helper()
	number := func(field string, unit int64) int64 {
		v := row[field]
		if n, ok := v.(json.Number); ok {
			v = n.String()
		}
		text, ok := v.(string)
		if !ok && v != nil {
			t.Fatalf("%s is %v", field, v)
		}
		if v == nil {
			return 0
		}
		r, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s is %q", field, text)
		}
		nearest, _ := r.Mul(r, big.NewRat(unit, 1)).Float64()
		rounded := int64(math.Round(nearest))
		if off, _ := r.Sub(r, big.NewRat(rounded, 1)).Float64(); math.Abs(off) >= 0.5 {
			t.Fatalf("%s %q is %v away from %d", field, text, off, rounded)
		}
		return rounded
	}
	k := HourKey{Hour: epoch}
	if bucket, _ := row["time_bucket"].(string); !strings.HasPrefix(strings.Replace(bucket, " ", "T", 1), "2026-01-01T00:00:00") {
		t.Fatalf("time_bucket is %v", bucket)
	}
	k.Model, _ = row["model"].(string)
	if k.Project, _ = row["project.uuid"].(string); k.Project == "" {
		k.Project, _ = row["project_uuid"].(string)
	}
	return k, Amounts{number("cost", 1e9), number("count", 1), number("prompt_tokens", 1), number("completion_tokens", 1)}
}

// Each shape of a cost occurs.
func TestCostShapes(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.SetTroubles(UsageTroubles{Shapes: true})
	u.Add(call(0, "whole", shop, "", 3e9, 1, 0), call(0, "part", shop, "", 74_816_500, 1, 0), call(0, "zero", shop, "", 0, 0, 0), call(0, "negative", shop, "", -20_000_000_001, 0, 0))
	var all []string
	for range 500 {
		all = append(all, get(t, of[shop], "/v2/analytics/usage?group_by=model&fields=prompt_tokens").Body.String())
	}
	text := strings.Join(all, "\n")
	for _, shape := range []string{
		`"cost":"3.00000000"`, `"cost":"3"`, `"cost":3`, `"cost":"+3"`, `"cost":"3000000000E-9"`, `"cost":3000000000e-09`, `"cost":"3.0000000000e0"`, `"cost":"003.00000000"`,
		`"cost":"0.07481650"`, `"cost":0.07481650`, `"cost":"+0.0748165"`, `"cost":"7.48165000e-2"`, `"cost":".074816500000"`, `"cost":"0.0748165000`, `"cost":"0.0748165004`,
		`"cost":null`, `"cost":"-0.00000000"`, `"cost":"0E-8"`, `"cost":"-20.000000001"`, `"cost":-20.000000001`,
		`"count":1`, `"count":"1"`, `"count":1.0`, `"prompt_tokens":null`, `"prompt_tokens":1e0`, `"prompt_tokens":"0"`, `"time_bucket":"2026-01-01 00:00:00+00:00"`,
	} {
		if !strings.Contains(text, shape) {
			t.Errorf("never %s", shape)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(slices.Compact(slices.Sorted(slices.Values(strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '{' || r == '}' })))), "\n"))
	}
}
