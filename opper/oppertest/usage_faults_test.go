package oppertest

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const hourly = "/v2/analytics/usage?" + january + "granularity=hour&group_by=model&group_by=trace_uuid"

func TestUsageScope(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.Add(call(0, "m", shop, "", 1, 0, 0), call(0, "m", desk, "", 2, 0, 0))
	cost := func(project string) (sum int64) {
		for _, row := range of[project].ReadUsage(sec(0), sec(3600), "project.uuid").Rows {
			sum += row.Cost
		}
		return sum
	}
	if a, b := cost(shop), cost(desk); a != 1 || b != 2 {
		t.Errorf("each key sees its own: %d, %d", a, b)
	}
	u.SetTroubles(UsageTroubles{OrganizationWide: true})
	if a, b := cost(shop), cost(desk); a != 3 || b != 3 {
		t.Errorf("each key sees all: %d, %d", a, b)
	}
	if got, want := of[shop].HighestUsage(), map[ModelKey]Amounts{}; !reflect.DeepEqual(got, want) {
		t.Errorf("without models, as served for counting: %v", got)
	}
}

func TestUsageGroupsAreMissing(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.Add(call(0, "m", shop, "t1", 1, 0, 0), call(0, "m", shop, "t2", 2, 0, 0))
	u.SetTroubles(UsageTroubles{NoGroups: []string{"trace_uuid"}, RefuseGroups: []string{"project.uuid"}})
	if got, want := get(t, of[shop], hourly).Body.String(), `[{"time_bucket":"2026-01-01T00:00:00Z","cost":"0.000000003","count":2,"model":"m"}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a := of[shop].ReadUsage(sec(0), sec(3600), "model", "trace_uuid"); !slices.Equal(a.Groups, []string{"model"}) || len(a.Rows) != 1 {
		t.Errorf("got %+v", a)
	}
	if w := get(t, of[shop], hourly+"&group_by=project.uuid"); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "project.uuid is no group") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if a := of[shop].ReadUsage(sec(0), sec(3600), "project.uuid"); a.Status != http.StatusUnprocessableEntity || a.Rows != nil {
		t.Errorf("got %+v", a)
	}
}

func TestUsageIsCutOff(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	for i := range 10 {
		u.Add(call(0, string(rune('a'+i)), shop, "", 1, 0, 0))
	}
	s := of[shop]
	u.SetTroubles(UsageTroubles{MaxRows: 7})
	if a := s.ReadUsage(sec(0), sec(3600), "model", "project.uuid"); len(a.Rows) != 7 || a.Total != -1 {
		t.Errorf("%d rows of %d", len(a.Rows), a.Total)
	}
	if len(s.HighestUsage()) != 0 {
		t.Error("what is cut off is no answer that can be counted")
	}
	u.SetTroubles(UsageTroubles{MaxRows: 7, Wrapped: true, Shuffle: true})
	seen := map[string]bool{}
	for range 30 {
		var page struct {
			Meta struct {
				Total int `json:"total_count"`
			} `json:"meta"`
			Data []struct {
				Model string `json:"model"`
			} `json:"data"`
		}
		if w := get(t, s, hourly); json.Unmarshal(w.Body.Bytes(), &page) != nil || page.Meta.Total != 10 || len(page.Data) != 7 {
			t.Fatalf("got %s", w.Body)
		}
		for _, row := range page.Data {
			seen[row.Model] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d of 10 rows were ever served", len(seen))
	}
	if a := s.ReadUsage(sec(0), sec(3600), "model"); a.Total != 10 {
		t.Errorf("total %d", a.Total)
	}
	u.SetTroubles(UsageTroubles{})
	s.ReadUsage(sec(0), sec(3600), "model", "project.uuid")
	if len(s.HighestUsage()) != 10 {
		t.Error("a whole answer counts as served")
	}
}

func TestUsageIsRefused(t *testing.T) {
	_, u, of := organization(UsageConfig{Seed: 1})
	s := of[shop]
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound} {
		u.SetTroubles(UsageTroubles{Status: status})
		if w := get(t, s, hourly); w.Code != status || s.ReadUsage(sec(0), sec(1)).Status != status || get(t, s, "/v3/me").Code != http.StatusOK {
			t.Errorf("usage: got %d, want %d", w.Code, status)
		}
		u.SetTroubles(UsageTroubles{BudgetStatus: status})
		if w := get(t, s, "/v3/me"); w.Code != status || s.ReadBudget().Status != status || get(t, s, hourly).Code != http.StatusOK {
			t.Errorf("budget: got %d, want %d", w.Code, status)
		}
	}
	u.SetTroubles(UsageTroubles{Errors: 0.5})
	failed := map[int]int{}
	for range 100 {
		failed[get(t, s, hourly).Code]++
		failed[get(t, s, "/v3/me").Code]++
		failed[s.ReadUsage(sec(0), sec(1)).Status]++
	}
	if ok := failed[http.StatusOK]; ok < 100 || ok > 200 || len(failed) != 5 || failed[http.StatusBadGateway] == 0 {
		t.Errorf("answers by status: %v", failed)
	}
	if w := get(t, s, "/v2/traces"); w.Code != http.StatusOK {
		t.Errorf("the list: %d", w.Code)
	}
}

// Who counts requests of the list, waits for them or lets them fail does not notice
// those of usage.
func TestEndpointsAreApart(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.Add(call(0, "m", shop, "", 1, 0, 0))
	s := of[shop]
	var lists, reads []string
	s.OnRequest(func(r Request) { lists = append(lists, r.Method) })
	s.OnRequest(func(r Request) { reads = append(reads, r.Method) }, UsageEndpoint, BudgetEndpoint)
	s.Fail(Fault{Answer: Respond(http.StatusTeapot, "", "")})
	s.Fail(Fault{Answer: Truncated, Endpoint: UsageEndpoint, Times: 2})
	paths := []string{"/v3/me", hourly + "&fields=prompt_tokens", "/v2/traces", "/v2/traces/x", "/v3/me", hourly}
	var codes []int
	for _, path := range paths {
		codes = append(codes, get(t, s, path).Code)
	}
	if want := []int{200, 200, 418, 404, 200, 200}; !slices.Equal(codes, want) {
		t.Errorf("answers %v, want %v", codes, want)
	}
	if len(lists) != 2 || len(reads) != 4 {
		t.Errorf("the hooks saw %d and %d requests", len(lists), len(reads))
	}
	if len(s.HighestUsage()) != 0 {
		t.Error("a replaced answer counts as served")
	}
	s.Fail(Fault{Answer: Hang, Endpoint: UsageEndpoint})
	if a := s.ReadUsage(sec(0), sec(3600)); a.Status != 0 {
		t.Errorf("with a fault: %+v", a)
	}
	if counts := []int{s.RequestCount(), s.RequestCount(UsageEndpoint), s.RequestCount(TraceEndpoint, UsageEndpoint, BudgetEndpoint)}; !slices.Equal(counts, []int{2, 3, 7}) {
		t.Errorf("counted %v requests", counts)
	}
	all := s.Requests(TraceEndpoint, UsageEndpoint, BudgetEndpoint)
	if len(all) != 6 || len(s.Requests()) != 2 || len(s.Requests(BudgetEndpoint)) != 2 {
		t.Errorf("recorded: %v", all)
	}
	r := all[1]
	want := UsageQuery{From: sec(0), To: sec(31 * 24 * 3600), Granularity: "hour", GroupBy: []string{"model", "trace_uuid"}, Fields: []string{"prompt_tokens"}}
	if r.Endpoint != UsageEndpoint || r.N != 1 || r.Status != http.StatusOK || !reflect.DeepEqual(r.Usage, want) {
		t.Errorf("recorded: %+v, want %+v", r, want)
	}
	s.ResetRequests()
	if s.RequestCount(TraceEndpoint, UsageEndpoint, BudgetEndpoint) != 0 {
		t.Error("requests are not forgotten")
	}
}

func TestUsageIsSlow(t *testing.T) {
	_, u, of := organization(UsageConfig{})
	u.SetTroubles(UsageTroubles{Latency: time.Hour})
	server := of[shop]
	ctx, cancel := context.WithCancel(t.Context())
	server.OnRequest(func(Request) { cancel() }, UsageEndpoint)
	w := getWith(ctx, server, hourly)
	if r := server.Requests(UsageEndpoint); w.Body.Len() != 0 || len(r) != 1 || r[0].Status != 0 {
		t.Errorf("answered %s: %+v", w.Body, r)
	}
	if w := get(t, server, "/v2/traces"); w.Code != http.StatusOK {
		t.Errorf("the list: %d", w.Code)
	}
}

// The direct way says the same as the one by HTTP.
func TestUsageWithoutHTTP(t *testing.T) {
	troubles := UsageTroubles{Duplicates: 0.5, Nulls: 0.1, Shuffle: true, MaxRows: 9, Wrapped: true, Errors: 0.2, Corrections: 0.2, BudgetGaps: 0.3}
	of := func() *Server {
		_, u, of := organization(UsageConfig{Seed: 4})
		u.SetTroubles(troubles)
		u.SetBudget(shop, Budget{LimitCents: new(int64(5)), Blocked: true})
		fill(u, 1)
		return of[shop]
	}
	direct, served := of(), of()
	for i := range 50 {
		a := direct.ReadUsage(epoch, sec(31*24*3600), "model", "trace_uuid")
		w := get(t, served, hourly)
		var page struct {
			Data []struct {
				Cost  string  `json:"cost"`
				Model *string `json:"model"`
				Trace *string `json:"trace_uuid"`
			} `json:"data"`
		}
		if a.Status != w.Code || w.Code == http.StatusOK && json.Unmarshal(w.Body.Bytes(), &page) != nil || len(page.Data) != len(a.Rows) {
			t.Fatalf("read %d: %d and %d with %d and %d rows", i, a.Status, w.Code, len(a.Rows), len(page.Data))
		}
		for j, row := range page.Data {
			if d := a.Rows[j]; costShape(nil, d.Cost, false) != quote(row.Cost) || d.Model != textOr(row.Model) || d.Trace != textOr(row.Trace) {
				t.Fatalf("row %d: %+v and %+v", j, d, row)
			}
		}
		b, w := direct.ReadBudget(), get(t, served, "/v3/me")
		var budget struct {
			Spend json.RawMessage `json:"project_spend"`
			parts
		}
		if b.Status != w.Code || w.Code == http.StatusOK && json.Unmarshal(w.Body.Bytes(), &budget) != nil {
			t.Fatalf("budget %d: %+v and %d %s", i, b, w.Code, w.Body)
		}
		_ = json.Unmarshal(budget.Spend, &budget.parts) // it may be no object
		if w.Code == http.StatusOK && !reflect.DeepEqual(budget.parts, parts{b.SpentCents, b.LimitCents, b.Blocked}) {
			t.Fatalf("budget %d: %+v and %s", i, b, w.Body)
		}
	}
}

type parts struct {
	Spent   *int64 `json:"spent_cents"`
	Limit   *int64 `json:"limit_cents"`
	Blocked *bool  `json:"blocked"`
}

func TestBudget(t *testing.T) {
	c, u, of := organization(UsageConfig{Seed: 2})
	body := func(s *Server) string {
		t.Helper()
		w := get(t, s, "/v3/me")
		if w.Code != http.StatusOK || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	u.Add(call(0, "m", shop, "", 1_239_999_999, 0, 0), call(-10, "m", shop, "", 9e9, 0, 0), call(0, "m", desk, "", 5e9, 0, 0))
	if got, want := body(of[shop]), `{"project_spend":{"spent_cents":123,"limit_cents":null},"blocked":false,"block_reason":null}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	u.SetBudget(shop, Budget{LimitCents: new(int64(200)), Blocked: true})
	u.SetTroubles(UsageTroubles{OrganizationWide: true})
	if got, want := body(of[shop]), `{"project_spend":{"spent_cents":123,"limit_cents":200},"blocked":true,"block_reason":"blocked: `+Secret+`"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	u.SetTroubles(UsageTroubles{BudgetGaps: 0.3, Shapes: true, UnknownFields: true})
	var all []string
	for range 200 {
		all = append(all, body(of[shop]))
	}
	text := strings.Join(all, "\n")
	for _, shape := range []string{
		`"spent_cents":123,`, `"spent_cents":"123.0"`, `"project_spend":{}`, `"project_spend":null`, `"project_spend":[]`, `{"limit_cents":200`, `"member_spend":{"spent_cents":1,`, Secret + `":"` + Secret,
	} {
		if !strings.Contains(text, shape) {
			t.Errorf("never %s in\n%s", shape, strings.Join(all[:5], "\n"))
		}
	}
	if n := strings.Count(text, `"blocked":true`); n < 100 || n > 180 {
		t.Errorf("%d of 200 budgets say whether it is blocked", n)
	}
	c.set(31 * 24 * 3600)
	u.SetTroubles(UsageTroubles{})
	if got := of[shop].ReadBudget(); *got.SpentCents != 0 || *got.LimitCents != 200 || !*got.Blocked {
		t.Errorf("in the next month: %+v", got)
	}
}

// Calls are summed up when they are old and nothing more will become of them.
func TestUsageForgetsOldTraces(t *testing.T) {
	c, all, _ := organization(UsageConfig{})
	old := NewUsage(UsageConfig{Now: c.now, Keep: 2 * time.Hour})
	c.set(0)
	for _, u := range []*Usage{all, old} {
		u.SetTroubles(UsageTroubles{Corrections: 0.5, CorrectWithin: 3 * time.Hour, Nulls: 0.1})
		fill(u, 1)
	}
	for hour := 1; hour < 12; hour++ {
		c.set(3600*hour + 1)
		next := Call{Time: sec(3600 * hour), Project: shop}
		all.Add(next)
		old.Add(next)
		if got, want := old.ByHour(), all.ByHour(); !reflect.DeepEqual(got, want) {
			t.Fatalf("in hour %d: %v, want %v", hour, got, want)
		}
		if n := len(old.hours[epoch.Unix()]); hour < 3 && n != 60 || hour >= 10 && n > 20 {
			t.Errorf("in hour %d: %d entries", hour, n)
		}
	}
	if len(old.ByTrace()) != 0 || len(all.ByTrace()) == 0 {
		t.Error("traces are kept")
	}
}
