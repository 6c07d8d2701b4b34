package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	usageModels = 5
	usageHours  = 48
	// usageLag is how old the latest usage is, so that none changes while it is measured.
	usageLag = 2 * time.Hour
)

// usage answers requests for usage by model and for the budget. Each key has an Opper
// project of its own. All else is for next, which would answer these with rows of its
// list: the exporter would ask in smaller and smaller parts.
type usage struct {
	next     http.Handler
	requests atomic.Int64
}

// ServeHTTP also says, to GET /requests/usage, how many requests it has answered.
func (u *usage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body string
	switch query := r.URL.Query(); {
	case r.URL.Path == "/requests/usage":
		printf(w, "%d", u.requests.Load())
		return
	case r.URL.Path == "/v3/me":
		body = `{"project_spend":{"spent_cents":1234,"limit_cents":10000},"blocked":false}`
	case r.URL.Path != "/v2/analytics/usage":
		u.next.ServeHTTP(w, r)
		return
	case slices.Contains(query["group_by"], "trace_uuid"):
		body = "[]"
	default:
		from, _ := time.Parse(time.RFC3339, query.Get("from_date")) // it is ours
		to, _ := time.Parse(time.RFC3339, query.Get("to_date"))
		body = usageByModel(projectID(r.Header.Get("Authorization"))+"-0000-4000-8000-000000000000", from, to)
	}
	u.requests.Add(1)
	w.Header().Set("Content-Type", "application/json")
	printf(w, "%s", body)
}

// usageByModel returns the usage of a project in a window.
func usageByModel(project string, from, to time.Time) string {
	latest := time.Now().Add(-usageLag).UTC().Truncate(time.Hour)
	var rows []string
	for i := range usageHours {
		hour := latest.Add(-time.Duration(i) * time.Hour)
		if hour.Before(from) || !hour.Before(to) {
			continue
		}
		for model := range usageModels {
			rows = append(rows, fmt.Sprintf(`{"time_bucket":%q,"cost":"0.%08d","count":%d,"prompt_tokens":"%d","completion_tokens":"%d","model":"provider/model-%d","project.uuid":%q}`,
				hour.Format(time.RFC3339), 1000*(model+1), 10+model, 9000+model, 500+model, model, project))
		}
	}
	return "[" + strings.Join(rows, ",") + "]"
}
