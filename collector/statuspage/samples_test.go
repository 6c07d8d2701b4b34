package statuspage

import (
	"fmt"
	"strings"
	"time"

	"opper_exporter/collector/status"
)

// now is when pages are rendered in tests.
var now = time.Date(2026, 3, 1, 3, 14, 15, 0, time.UTC)

func testConfig() Config {
	return Config{Program: "opper_exporter", Version: "1.2.3", TelemetryPath: "/metrics", TraceURL: "https://platform.opper.ai/traces/{id}"}
}

// healthy is a project that has been collected for days.
func healthy() status.Project {
	p := status.Project{
		Name: "checkout", URL: "https://api.opper.ai/v2", Interval: 30 * time.Second, MaxNames: 200,
		Success: []string{"success", "ok", "completed"}, Failure: []string{"error", "failed", "failure"},
		Sync: status.Sync{
			Up: true, LastSuccess: now.Add(-12 * time.Second), Took: 214 * time.Millisecond,
			LastError: "opper answered 502 Bad Gateway: HTML page", FailedAt: now.Add(-26 * time.Hour),
		},
		Traffic: status.Traffic{
			Since: now.Add(-75 * time.Hour), Bytes: 1.32e9,
			Codes:  []status.Code{{Code: "200", Requests: 18_230}, {Code: "429", Requests: 3}, {Code: "502", Requests: 5}, {Code: "error"}},
			Recent: status.Recent{Over: 10 * time.Minute, Requests: 44, Bytes: 412_000},
		},
		Published: &status.Published{
			Since: now.Add(-40 * 24 * time.Hour), Listed: 48_211, Open: 17, Names: 23, Distinct: 23, ZeroPending: 1,
			Outcomes: []status.Outcome{{Name: "success", Traces: 118_020}, {Name: "failure", Traces: 2_411}, {Name: "unknown", Traces: 312}, {Name: "abandoned", Traces: 41}},
			Unmapped: []status.Unmapped{{Status: "cancelled", Traces: 301}, {Status: "timeout", Traces: 11}},
		},
	}
	p.Usage = &status.Usage{
		Since: now.Add(-24 * 24 * time.Hour), CostsWaiting: 4, CostsUnknown: 1_912,
		Models: []status.Model{
			{Name: "openai/gpt-5-mini", Cost: 912_345_678, Calls: 18_112},
			{Name: "anthropic/claude-sonnet-4.5", Cost: 1_411_250_000_000, Calls: 96_240},
			{Name: "gcp/gemini-2.5-flash", Cost: 61_870_400_000, Calls: 210_977},
			{Name: "(none)", Cost: 40_000, Calls: 3},
			{Name: "openai/gpt-5", Cost: 803_500_100_000, Calls: 40_021},
			{Name: "groq/llama-3.3-70b", Cost: 4_200_000, Calls: 81},
			{Name: "openai/text-embedding-3-large", Cost: 2_130_000, Calls: 7_204},
		},
		Reads:  []status.UsageRead{{Kind: "model", Up: true, LastSuccess: now.Add(-41 * time.Second)}, {Kind: "trace", Up: true, LastSuccess: now.Add(-40 * time.Second)}, {Kind: "budget", Up: true, LastSuccess: now.Add(-3 * time.Minute)}},
		Budget: &status.Budget{SpentCents: 228_154, LimitCents: 500_000, HasSpent: true, HasLimit: true, HasBlocked: true},
	}
	names := []string{"invoice-extractor", "support-router", "contract-review", "summarize-ticket"}
	for i := range 7 {
		f := status.Failure{
			Name: names[i*i%len(names)], ID: "3c90c3cc-0d44-4b50-8888-8dd25736052" + string('a'+rune(i)), Outcome: "failure",
			Time:     now.Add(-time.Duration(i*i*i*7+3) * time.Minute),
			Duration: time.Duration(i*i*i*5300+740) * time.Millisecond, HasDuration: true, Tokens: int64(i*i*8211 + 96), HasTokens: true,
		}
		if i == 3 {
			f.Outcome, f.HasDuration, f.HasTokens = "abandoned", false, false
		}
		p.Published.Failures = append(p.Published.Failures, f)
	}
	return p
}

// initialSync is a project of which nothing is published yet.
func initialSync() status.Project {
	p := healthy()
	p.Published = nil
	p.Sync = status.Sync{Up: true}
	p.Usage = &status.Usage{Reads: []status.UsageRead{{Kind: "model"}, {Kind: "trace"}, {Kind: "budget"}}}
	p.Initial = &status.InitialSync{Read: 20_400, Total: 48_211, Began: now.Add(-2 * time.Minute)}
	p.Traffic = status.Traffic{
		Since: now.Add(-2 * time.Minute), Bytes: 84e6, Codes: []status.Code{{Code: "200", Requests: 212}},
		Recent: status.Recent{Over: 2 * time.Minute, Requests: 212, Bytes: 84e6},
	}
	return p
}

// failing is a project whose key is refused.
func failing() status.Project {
	p := healthy()
	p.Sync.Up = false
	p.Sync.LastSuccess = now.Add(-64 * time.Minute)
	p.Sync.LastError, p.Sync.FailedAt, p.Sync.FailingSince = "opper answered 401 Unauthorized: invalid key", now.Add(-9*time.Second), now.Add(-63*time.Minute)
	p.Published.Gaps, p.Published.Overflow, p.Published.NoID, p.Published.VanishedOpen, p.Published.Names, p.Published.Distinct = 2, 1_204, 1, 3, 200, 341
	p.Usage.Budget.SpentCents, p.Usage.Budget.Blocked = 500_021, true
	p.Usage.Reads[0] = status.UsageRead{Kind: "model", LastSuccess: now.Add(-63 * time.Minute), LastError: "read usage: opper answered 502 Bad Gateway: HTML page"}
	p.Usage.Reads[1] = status.UsageRead{Kind: "trace", Refused: true, LastError: "read usage: opper answered 403 Forbidden: key has no access, or the account is suspended"}
	return p
}

// noTraces is a project without a retention rule.
func noTraces() status.Project {
	p := healthy()
	p.Usage.CostsWaiting, p.Usage.CostsUnknown = 0, 0
	p.Published = &status.Published{Since: p.Published.Since}
	for _, o := range healthy().Published.Outcomes {
		p.Published.Outcomes = append(p.Published.Outcomes, status.Outcome{Name: o.Name})
	}
	return p
}

// stalled is a project for which Opper does not answer any more.
func stalled() status.Project {
	p := healthy()
	p.Sync.Up, p.Sync.Unanswered = false, 4*time.Minute
	return p
}

// hostileTexts are names that clients may choose, each up to 128 bytes.
var hostileTexts = []string{
	`<script>document.title = "injected"</script>`,
	`"><img src=x onerror="document.title='injected'">`,
	`' onmouseover='document.title=1' style='position:fixed;inset:0`,
	"{{.Now}} </th></tr></table></main><h1>injected</h1>",
	strings.Repeat("W", 128),
	strings.Repeat("\u202e\u2067", 10) + "reversed",
	"\u0627\u0644\u0641\u0627\u062a\u0648\u0631\u0629 12 \u05d0\u05d1",
	"nul\x00 escape\x1b[31m \x7f line\nbreak\ttab \u0085 zero\u200bwidth\ufeff",
	"tall" + strings.Repeat("\u0301\u0327", 30),
	strings.Repeat("\u5f71", 42),
	"javascript:document.title='injected'",
	"\U0001f468\u200d\U0001f469\u200d\U0001f467 \ufdfd\ufdfd\ufdfd",
	strings.Repeat(" ", 60) + "x",
}

// hostile is a project in which every text that others choose is hostile.
func hostile() status.Project {
	p := failing()
	p.Name, p.NameFilter = strings.Join(hostileTexts[:2], "\u202e"), hostileTexts[4]
	p.URL = "https://" + strings.Repeat("a", 200) + ".example/v2"
	p.Sync.LastError = strings.Repeat(hostileTexts[4], 4) + hostileTexts[0] + "\u202e"
	p.Success, p.Failure = hostileTexts, hostileTexts
	p.Published.Unmapped, p.Published.Failures = nil, nil
	p.Usage.Models = nil
	p.Usage.Budget = &status.Budget{SpentCents: 1<<63 - 1, LimitCents: 1, HasSpent: true, HasLimit: true, Blocked: true, HasBlocked: true}
	for i := range p.Usage.Reads {
		p.Usage.Reads[i] = status.UsageRead{Kind: p.Usage.Reads[i].Kind, LastError: p.Sync.LastError}
	}
	for i, text := range hostileTexts {
		p.Usage.Models = append(p.Usage.Models, status.Model{Name: text, OpperProject: hostileTexts[len(hostileTexts)-1-i], Cost: 1 << 53, Calls: 1 << 33})
		p.Published.Unmapped = append(p.Published.Unmapped, status.Unmapped{Status: text[:min(len(text), 32)], Traces: 1 << 60})
		p.Published.Failures = append(p.Published.Failures, status.Failure{
			Name: text, ID: strings.ToValidUTF8(text[:min(len(text), 120)], "?"), Outcome: "failure", Time: now.Add(-time.Duration(i) * time.Hour),
			Duration: 1<<63 - 1, HasDuration: true, Tokens: 1<<63 - 1, HasTokens: true,
		})
	}
	return p
}

// many are projects in all states, of which the first is hostile.
func many(n int) []status.Project {
	projects := []status.Project{hostile()}
	for i := 1; i < n; i++ {
		p := []func() status.Project{healthy, initialSync, failing, stalled}[i%4]()
		p.Name = fmt.Sprintf("customer-%04d", i)
		projects = append(projects, p)
	}
	return projects
}
