package statuspage

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/status"
)

func rendered(t *testing.T, cfg Config, projects ...status.Project) string {
	t.Helper()
	var text strings.Builder
	if err := render(&text, cfg, projects, len(projects) > 1, now); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestAnswer(t *testing.T) {
	handler := New(testConfig(), func() []status.Project { return []status.Project{healthy()} })
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	header := w.Header()
	if w.Code != http.StatusOK || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d, %v", w.Code, header)
	}
	text := w.Body.String()
	// The policy is for the style as a browser sees it.
	_, style, _ := strings.Cut(text, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	if !strings.Contains(ContentSecurityPolicy, "style-src 'sha256-"+hashOf(style)+"'") || strings.Contains(ContentSecurityPolicy, "unsafe") {
		t.Errorf("the policy is not for the style: %s", ContentSecurityPolicy)
	}
	if strings.Contains(text, " style=") || !strings.Contains(text, `<link rel="icon" href="data:image/svg+xml,`) {
		t.Error("the page has a style that the policy forbids, or no icon of its own")
	}
}

// What others choose is text and nothing else: without them, the page has the same tags.
func TestHostileTextsAreText(t *testing.T) {
	p := hostile()
	harmless := hostile()
	harmless.Name, harmless.NameFilter, harmless.URL, harmless.Sync.LastError = "a", "a", "a", "a"
	harmless.Success, harmless.Failure = make([]string, len(p.Success)), make([]string, len(p.Failure))
	for i := range harmless.Usage.Models {
		harmless.Usage.Models[i].Name, harmless.Usage.Models[i].OpperProject = "a", "a"
	}
	for i := range harmless.Usage.Reads {
		harmless.Usage.Reads[i].LastError = "a"
	}
	for i := range harmless.Published.Failures {
		harmless.Published.Failures[i].Name, harmless.Published.Failures[i].ID = "a", "a"
		harmless.Published.Unmapped[i].Status = "a"
	}
	tags := func(p status.Project) string {
		return strings.Join(regexp.MustCompile(`<[^>]*>`).FindAllString(regexp.MustCompile(` href="(https:|\./probe\?target=)[^"]*"`).ReplaceAllString(rendered(t, testConfig(), p), ""), -1), "\n")
	}
	if got, want := tags(p), tags(harmless); got != want {
		t.Errorf("%d and %d bytes of tags", len(got), len(want))
	}
	if text := rendered(t, testConfig(), p); strings.ContainsAny(text, "\x00\x1b\u202e\u2067\u200b\ufeff") {
		t.Error("characters that cannot be seen are on the page")
	}
}

// Once a status is in a list, the page asks for nothing more, and says why there are
// traces without an outcome.
func TestStatusMapsNow(t *testing.T) {
	p := healthy()
	for _, mapsNow := range []bool{false, true} {
		p.Published.Unmapped = []status.Unmapped{{Status: "cancelled", Traces: 60, MapsNow: mapsNow}}
		page := rendered(t, testConfig(), p)
		for _, advice := range []string{"Unmapped statuses", "Map more with"} {
			if strings.Contains(page, advice) == mapsNow {
				t.Errorf("maps now: %v, on the page is %q: %v", mapsNow, advice, !mapsNow)
			}
		}
		if strings.Contains(page, "60 traces before it was mapped") != mapsNow {
			t.Errorf("maps now: %v, said: %v", mapsNow, !mapsNow)
		}
	}
}

func TestTraceLinks(t *testing.T) {
	for id, want := range map[string]string{
		"3c90c3cc-0d44":         "https://opper.example/t/3c90c3cc-0d44?x=1",
		"a/../b?c=d&e#f%":       "https://opper.example/t/a%2F..%2Fb%3Fc%3Dd%26e%23f%25?x=1",
		`" onclick="x`:          "https://opper.example/t/%22%20onclick%3D%22x?x=1",
		"{id}":                  "https://opper.example/t/%7Bid%7D?x=1",
		"javascript:alert(1)\n": "https://opper.example/t/javascript%3Aalert%281%29%0A?x=1",
		"":                      "",
	} {
		if got := traceURL("https://opper.example/t/{id}?x=1", id); got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
	link := `<a href="https://platform.opper.ai/traces/3c90c3cc-0d44-4b50-8888-8dd25736052a" rel="noreferrer">3c90c3cc-0d44-4b50-8888-8dd25736052a</a>`
	cfg := testConfig()
	if text := rendered(t, cfg, healthy()); !strings.Contains(text, link) {
		t.Error("no link to a trace")
	}
	cfg.TraceURL = ""
	if text := rendered(t, cfg, healthy()); strings.Contains(text, "https://platform") || !strings.Contains(text, "3c90c3cc-0d44-4b50-8888-8dd25736052a") {
		t.Error("without an address, there is a link or no id")
	}
}

func TestBadges(t *testing.T) {
	starting := healthy()
	starting.Sync.Up = false
	resumed := initialSync()
	resumed.Initial = &status.InitialSync{}
	unknown := initialSync()
	unknown.Initial.Read, unknown.Initial.Total = 100, 0
	last := initialSync()
	last.Initial.Read = last.Initial.Total
	failingInitially := initialSync()
	failingInitially.Sync.FailingSince, failingInitially.Sync.LastError = now, "opper answered 403 Forbidden"
	for name, c := range map[string]struct {
		project           status.Project
		level, word, text string
	}{
		"healthy":                  {healthy(), "good", "Collecting", "last sync 12 s ago"},
		"initial sync":             {initialSync(), "busy", "Initial sync", "42 %, about 3 min left"},
		"no answer yet":            {resumed, "busy", "Initial sync", "waiting for Opper"},
		"no total":                 {unknown, "busy", "Initial sync", "100 traces read"},
		"all is read":              {last, "busy", "Initial sync", "100 %"},
		"failing initial sync":     {failingInitially, "bad", "Failing", "opper answered 403 Forbidden"},
		"failing":                  {failing(), "bad", "Failing", "opper answered 401 Unauthorized: invalid key"},
		"stalled":                  {stalled(), "bad", "Stalled", "no answer from Opper for 4 min"},
		"restored, no sync so far": {starting, "busy", "Waiting for a sync", "the last one that succeeded was 12 s ago"},
	} {
		if got := newBadge(&c.project, now); got.Level != c.level || got.Word != c.word || got.Text != c.text {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A tab among many tells whether a project is in trouble.
func TestTitle(t *testing.T) {
	for want, projects := range map[string][]status.Project{
		"opper_exporter":              nil,
		"Collecting – opper_exporter": {healthy(), initialSync()},
		"Stalled – opper_exporter":    {healthy(), stalled(), healthy()},
	} {
		if text := rendered(t, testConfig(), projects...); !strings.Contains(text, "<title>"+want+"</title>") {
			t.Errorf("the title is not %q", want)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{count(0), "0"},
		{count(999), "999"},
		{count(1000), "1,000"},
		{count(-1234567), "-1,234,567"},
		{count(uint64(1) << 63), "9,223,372,036,854,775,808"},
		{count(12345.6), "12,346"},
		{fromCents(0), "$0.00"},
		{fromCents(7), "$0.07"},
		{fromCents(-1250), "-$12.50"},
		{fromCents(1<<63 - 1), "$92,233,720,368,547,760.00"},
		{fromNanodollars(0), "$0.00"},
		{fromNanodollars(99_999), "< $0.0001"},
		{fromNanodollars(160_000), "$0.0002"},
		{fromNanodollars(994_900_000), "$0.9949"},
		{fromNanodollars(1_234_567_891_000_000), "$1,234,567.89"},
		{rate(4.44), "4.4"},
		{rate(99.96), "100"},
		{rate(7606.7), "7,607"},
		{percent(0, 0), "–"},
		{percent(0, 7), "0 %"},
		{percent(7, 7), "100 %"},
		{percent(1, 3), "33.3 %"},
		{percent(99_999, 100_000), "99.9 %"},
		{percent(1, 100_000), "< 0.1 %"},
		{duration(0), "0 s"},
		{duration(740 * time.Millisecond), "740 ms"},
		{duration(1500 * time.Millisecond), "1.5 s"},
		{duration(59_900 * time.Millisecond), "59 s"},
		{duration(200 * time.Second), "3 min 20 s"},
		{duration(2 * time.Hour), "2 h"},
		{duration(76 * time.Hour), "3 d 4 h"},
		{duration(1<<63 - 1), "106751 d 23 h"},
		{roughly(59 * time.Second), "less than a minute"},
		{roughly(164 * time.Second), "about 3 min"},
		{roughly(3 * time.Hour), "about 3 h"},
		{age(now.Add(time.Second), now), "just now"},
		{age(now.Add(-2500*time.Millisecond), now), "2 s ago"},
		{age(now.Add(-26*time.Hour), now), "1 d 2 h ago"},
		{size(0), "0 B"},
		{size(999), "999 B"},
		{size(1234), "1.2 kB"},
		{size(463_000), "463 kB"},
		{size(1.3e9), "1.3 GB"},
		{size(4.2e12), "4.2 TB"},
		{visible("Ünïcode 日本 ' \" \\"), "Ünïcode 日本 ' \" \\"},
		{visible("a\u202eb\x00\xff\n"), `a\u202eb\x00` + "\ufffd" + `\n`},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
