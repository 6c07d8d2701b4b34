package server

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/promtest"
)

// The labels, the first sample, the retention and the head are those of a real server.
func TestLookAtAServer(t *testing.T) {
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "# TYPE opper_traces_total counter\n") // the server notices a cut answer
		for _, project := range []string{"one", "two"} {
			for _, outcome := range []string{"success", "failure"} {
				_, _ = fmt.Fprintf(w, "opper_traces_total{project=%q,trace_name=\"a\",outcome=%q} 7\n", project, outcome)
			}
		}
	}))
	t.Cleanup(exporter.Close)
	address := exporter.Listener.Addr().String()
	p := promtest.Start(t, promtest.Config{
		YAML: strings.ReplaceAll(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
- job_name: opper
  static_configs: [{targets: [TARGET], labels: {region: eu, a.b: c}}]
- job_name: second
  static_configs: [{targets: [TARGET]}]
`, "TARGET", address),
		Flags: []string{"--storage.tsdb.retention.time=33d", "--storage.tsdb.retention.size=10GB"},
	})
	p.WaitScrapes(t, "opper", 3)
	p.WaitScrapes(t, "second", 3)

	both := []string{"one", "two"}
	at := parse(t, p.URL())
	live, err := Look(t.Context(), at, both, map[string]string{"job": "opper"})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"job": "opper", "instance": address, "region": "eu", "a.b": "c"}; !maps.Equal(live.Labels, want) {
		t.Errorf("the labels are %v, want %v", live.Labels, want)
	}
	samples, err := p.Samples(t.Context(), `opper_traces_total{job="opper"}`, time.Hour)
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	for _, series := range samples {
		if first := series.Values[0].Timestamp.Time(); !first.Equal(live.First) {
			t.Errorf("the first sample of %v is of %v, found %v", series.Metric, first, live.First)
		}
	}
	if want := 33 * 24 * time.Hour; live.Retention != want {
		t.Errorf("the retention is %v, want %v", live.Retention, want)
	}
	if live.Head.IsZero() || live.Head.After(live.First) || time.Since(live.Head) > time.Hour {
		t.Errorf("the head begins at %v, the first sample is of %v", live.Head, live.First)
	}

	for name, test := range map[string]struct {
		projects []string
		labels   map[string]string
		want     string
	}{
		"several instances":         {both, nil, `has the live series of several instances, choose one with --label: "a.b"="c", instance=`},
		"a label that is not there": {both, map[string]string{"job": "opper", "instance": "b"}, `--label: no live series has instance="b", job="opper": they have "a.b"="c", instance=`},
		"another project":           {[]string{"three"}, nil, `has no series opper_traces_total of project three, only of project="one", project="two"`},
	} {
		_, err := Look(t.Context(), at, test.projects, test.labels)
		if err == nil || !strings.HasPrefix(err.Error(), "--from-server="+p.URL()+": "+test.want) {
			t.Errorf("%s: the error is %v, want %s", name, err, test.want)
		}
	}

	empty := promtest.Start(t, promtest.Config{YAML: "global: {}\n"})
	if _, err := Look(t.Context(), parse(t, empty.URL()), both, nil); err == nil || !strings.HasSuffix(err.Error(), "has no series opper_traces_total of the last 32 days: does it scrape the exporter?") {
		t.Errorf("without series the error is %v", err)
	}
}

func parse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestURL(t *testing.T) {
	for _, address := range []string{"", "localhost:9090", "/prometheus", "ftp://localhost", "http://", "http://a b"} {
		if u, err := ParseURL(address); err == nil || !strings.HasPrefix(err.Error(), "expected a URL such as http://localhost:9090, got ") {
			t.Errorf("%q: %v, %v", address, u, err)
		}
	}
}

// Series of another instance that began before have the traces of a history, too.
func TestOlderInstance(t *testing.T) {
	set := func(instance, project string, begin model.Time) *model.SampleStream {
		return &model.SampleStream{
			Metric: model.Metric{"instance": model.LabelValue(instance), "project": model.LabelValue(project)},
			Values: []model.SamplePair{{Timestamp: begin}, {Timestamp: begin + 9}},
		}
	}
	sets := model.Matrix{set("a", "one", 5), set("b", "one", 4), set("b", "two", 3), set("c", "three", 1)}
	for instance, want := range map[string]string{"a": "b", "b": ""} {
		chosen, older, err := choose(sets, []string{"one", "two"}, map[string]string{"instance": instance})
		if err != nil || chosen["instance"] != instance || older["instance"] != want {
			t.Errorf("%s: chosen is %v, older %v, want %q, %v", instance, chosen, older, want, err)
		}
	}
}

// Whatever else is behind the URL, there is one line that says so and shows no password.
func TestLookAtSomethingElse(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	answer := func(status int, kind, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body) // the client has gone away
		}))
		t.Cleanup(s.Close)
		return strings.Replace(s.URL, "http://", "http://user:private@", 1)
	}
	for name, test := range map[string]struct{ url, want string }{
		"not reachable": {closed.URL, "connect: connection refused"},
		"a login page":  {answer(200, "text/html; charset=utf-8", "<html>"), "answers /api/v1/query_range with text/html (200 OK), expected JSON of Prometheus' API"},
		"no Prometheus": {answer(404, "text/plain", "not found"), "answers /api/v1/query_range with text/plain (404 Not Found), expected JSON"},
		"unauthorized":  {answer(401, "", "no"), "answers /api/v1/query_range with no type of content (401 Unauthorized)"},
		"other JSON":    {answer(200, "application/json", "[]"), "bad_response: "},
		"an error":      {answer(503, "application/json", `{"status":"error","errorType":"unavailable","error":"starting up"}`), "server error: 503"},
		"other result":  {answer(200, "application/json", `{"status":"success","data":{"resultType":"vector","result":[]}}`), "with a vector, expected a matrix"},
	} {
		_, err := Look(t.Context(), parse(t, test.url), []string{"default"}, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "private") {
			t.Errorf("%s: the error is %v, want %s", name, err, test.want)
		}
	}
}

// onlyQueries answers for one series that has been scraped from first on.
type onlyQueries struct {
	first time.Time
	every time.Duration
}

func (o onlyQueries) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := func(param string) time.Time {
		seconds, err := strconv.ParseFloat(r.FormValue(param), 64)
		if err != nil {
			panic(err)
		}
		return time.UnixMilli(int64(math.Round(seconds * 1e3)))
	}
	var start, end time.Time
	var step time.Duration
	switch r.URL.Path {
	case "/api/v1/query_range":
		start, end = at("start"), at("end")
		step = time.Duration(at("step").UnixMilli()) * time.Millisecond
	case "/api/v1/query":
		end = at("time")
		start, step = end.Add(-time.Minute+time.Millisecond), time.Millisecond
	default:
		http.NotFound(w, r)
		return
	}
	var values []string
	for t := start; !t.After(end); t = t.Add(step) {
		// The last sample at t or before.
		last := t.Add(-(t.Sub(o.first) % o.every))
		if !t.Before(o.first) && last.After(t.Add(-step)) {
			values = append(values, fmt.Sprintf(`[%d.%03d,"1"]`, t.Unix(), t.UnixMilli()%1000))
		}
	}
	series := ""
	if len(values) > 0 {
		series = `{"metric":{"job":"opper","project":"default"},"values":[` + strings.Join(values, ",") + `]}`
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, series) // the client notices a cut answer
}

// The first sample is found wherever it lies between the hours and minutes that are
// asked for, on a server that has nothing but queries.
func TestFirstSample(t *testing.T) {
	now := time.UnixMilli(1_800_000_123_456)
	for range 200 {
		first := now.Add(-time.Duration(rand.Int64N(int64(oldest)))).Truncate(time.Millisecond)
		s := httptest.NewServer(onlyQueries{first: first, every: 15 * time.Second})
		live, err := lookAt(t.Context(), now, parse(t, s.URL), []string{"default"}, nil)
		s.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !live.First.Equal(first) || live.Retention != 0 || !live.Head.IsZero() {
			t.Fatalf("the first sample is of %v, found %+v", first, live)
		}
	}
}

func TestRetention(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"15d": 15 * 24 * time.Hour, "30d or 10GiB": 30 * 24 * time.Hour, "10GiB": 0, "": 0, "1w or 80%": 7 * 24 * time.Hour,
	} {
		if got := retention(text); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
