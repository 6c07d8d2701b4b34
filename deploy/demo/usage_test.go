package main

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// checkUsage reads usage and the budget of a running demo as its users are told to.
func checkUsage(t *testing.T, opper string) {
	t.Helper()
	read := func(path string, into any) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+opper+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil {
			err = json.Unmarshal(body, into)
		}
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v, %s", path, response.Status, err, body)
		}
		return string(body)
	}
	var rows []struct {
		Model string `json:"model"`
		Count int64  `json:"count"`
	}
	// The history may have begun in the month before.
	body := read("/v2/analytics/usage?granularity=hour&group_by=model&from_date=2026-01-01&to_date=2100-01-01", &rows)
	models, calls := map[string]bool{}, int64(0)
	for _, row := range rows {
		models[row.Model] = true
		calls += row.Count
	}
	if len(models) != 5 || calls < 500 {
		t.Errorf("%d calls of the models %v: %s", calls, models, body)
	}
	var budget struct {
		Spend struct {
			Spent *int64 `json:"spent_cents"`
			Limit int64  `json:"limit_cents"`
		} `json:"project_spend"`
		Blocked *bool `json:"blocked"`
	}
	body = read("/v3/me", &budget)
	if spent := budget.Spend.Spent; spent == nil || budget.Blocked == nil || *budget.Blocked || *spent < 0 || budget.Spend.Limit < 100 || *spent > budget.Spend.Limit/2 {
		t.Errorf("the budget is %s", body)
	}
}

func TestTheLimitIsPartlyUsed(t *testing.T) {
	usage := newUsage(1)
	project := oppertest.New(oppertest.Config{Usage: usage, Project: opperProject})
	now := time.Now()
	for range 41 {
		usage.Add(oppertest.Call{Time: now, Shown: now, Project: opperProject, Amounts: oppertest.Amounts{Cost: 100_000_000}})
	}
	setBudget(usage)
	b := project.ReadBudget()
	if b.SpentCents == nil || *b.SpentCents != 410 || b.LimitCents == nil || *b.LimitCents != 1100 || b.Blocked == nil || *b.Blocked {
		t.Errorf("the budget is %+v", b)
	}
}
