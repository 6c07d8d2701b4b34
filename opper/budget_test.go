package opper

import (
	"net/http"
	"strings"
	"testing"
)

const sampleBudget = `{"id":"u","project_spend":{"spent_cents":1234,"limit_cents":5000},"member_spend":{"spent_cents":1,"limit_cents":2,"limit_scope":"x"},"blocked":false,"block_reason":null}`

func TestMonthlyBudget(t *testing.T) {
	for base, want := range map[string]string{"": "/v3/me", "/v2/": "/v3/me", "/proxy/v3": "/proxy/v3/me"} {
		var got *http.Request
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			got = r
			answer(200, sampleBudget)(w, r)
		}, func(o *Options) { o.URL += base })
		budget, err := f.Budget(t.Context())
		if want := (Budget{1234, 5000, true, true, false, true, ""}); err != nil || budget != want {
			t.Errorf("got %+v, %v, want %+v", budget, err, want)
		}
		if got.Method != "GET" || got.RequestURI != want || got.Header.Get("Authorization") != "Bearer "+testKey {
			t.Errorf("got %s %s, want GET %s with the key", got.Method, got.RequestURI, want)
		}
	}
}

// Any part may be missing, which is what a value of the wrong type is.
func TestPartsOfBudget(t *testing.T) {
	spent, limit := Budget{SpentCents: 1234, HasSpent: true}, Budget{LimitCents: 5000, HasLimit: true}
	without := func(b Budget, missing string) Budget {
		b.Missing = missing
		return b
	}
	const spentCents, limitCents = "project_spend.spent_cents", "project_spend.limit_cents"
	for body, want := range map[string]Budget{
		`{"project_spend":{"spent_cents":1234,"limit_cents":null}}`:                                                    without(spent, "blocked"),
		`{"project_spend":{"spent_cents":1234.0},"blocked":null}`:                                                      without(spent, "blocked"),
		`{"project_spend":{"spent_cents":"1234"},"blocked":"no"}`:                                                      without(spent, "blocked"),
		`{"project_spend":{"spent_cents":"1233.5","limit_cents":"none"},"blocked":0}`:                                  without(spent, "blocked, "+limitCents),
		`{"project_spend":{"spent_cents":1.234e3,"limit_cents":1e30},"block_reason":"x"}`:                              without(spent, "blocked, "+limitCents),
		`{"project_spend":{"spent_cents":1,"limit_cents":2},"project_spend":{"spent_cents":1234}}`:                     without(spent, "blocked"),
		`{"project_spend":{"limit_cents":5000,"spent_cents":true}}`:                                                    without(limit, "blocked, "+spentCents),
		`{"project_spend":{"limit_cents":"5e3","spent_cents":[1]}}`:                                                    without(limit, "blocked, "+spentCents),
		`{"project_spend":{"spent_cents":1234,"limit_cents":-1}}`:                                                      without(spent, "blocked, "+limitCents),
		`{"project_spend":{"spent_cents":0,"limit_cents":0}}`:                                                          {HasSpent: true, HasLimit: true, Missing: "blocked"},
		`{"project_spend":{"spent_cents":-5}}`:                                                                         {SpentCents: -5, HasSpent: true, Missing: "blocked"},
		`{"project_spend":null,"blocked":true,"block_reason":"over budget"}`:                                           {Blocked: true, HasBlocked: true, Missing: spentCents},
		`{"project_spend":[],"blocked":false}`:                                                                         {HasBlocked: true, Missing: spentCents},
		`{"project_spend":{"spent_cents":0,"limit_cents":{"usd":5}},"blocked":false}`:                                  {HasSpent: true, HasBlocked: true, Missing: limitCents},
		`{"project_spend":{"spent_cents":0,"limit_cents":null},"blocked":false}`:                                       {HasSpent: true, HasBlocked: true},
		`{"member_spend":{"spent_cents":1},"project_spend":{"spent_cents":{}},"x":[{"blocked":true}],"blocked":false}`: {HasBlocked: true, Missing: spentCents},
	} {
		if got, err := newFixture(t, answer(200, body)).Budget(t.Context()); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", body, got, err, want)
		}
	}
}

func TestNoBudget(t *testing.T) {
	const want = `read budget: JSON without a budget (expected "project_spend" with "spent_cents" or "limit_cents", or "blocked")`
	for _, body := range []string{
		`{}`, `[]`, `null`, `"blocked"`, `{"project_spend":{}}`, `{"project_spend":{"spent_cents":null,"limit_cents":null},"blocked":null}`, `{"project_spend":{"spent_cents":"private"},"blocked":"private"}`,
		`{"member_spend":{"spent_cents":1}}`, `{"spent_cents":1}`, `{"data":{"blocked":true}}`, `{"error":{"code":"x"}}`, `{"blocked":true,"blocked":5}`,
	} {
		f := newFixture(t, answer(200, body))
		if got, err := f.Budget(t.Context()); err == nil || err.Error() != want || got != (Budget{}) || !Permanent(err) || f.requests.Load() != 1 {
			t.Errorf("%s: got %+v, %v after %d requests, want %s", body, got, err, f.requests.Load(), want)
		}
	}
	for n := range len(sampleBudget) {
		if got, err := decodeBudget(strings.NewReader(sampleBudget[:n])); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want an error", n, got)
		}
	}
}
