package main

import (
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"time"
)

// withUsage answers requests for usage, of three models and no trace, and for the budget.
// Each key has an Opper project of its own. All else is for next, which would answer
// these with rows of its list: the exporter would ask in smaller and smaller parts.
func withUsage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/analytics/usage"):
			var rows []string
			for model := range 3 {
				rows = append(rows, fmt.Sprintf(`{"time_bucket":%q,"cost":"0.0125","count":7,"prompt_tokens":900,"completion_tokens":120,"model":"provider/model-%d","project.uuid":"%08x"}`,
					time.Now().UTC().Truncate(time.Hour).Format(time.RFC3339), model, crc32.ChecksumIEEE([]byte(r.Header.Get("Authorization")))))
			}
			if strings.Contains(r.URL.RawQuery, "trace_uuid") {
				rows = nil
			}
			printf(w, "[%s]", strings.Join(rows, ","))
		case strings.HasSuffix(r.URL.Path, "/me"):
			printf(w, `{"project_spend":{"spent_cents":1200,"limit_cents":100000},"blocked":false}`)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
