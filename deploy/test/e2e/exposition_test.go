package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// parsed is what the command textparse writes.
type parsed struct {
	Series             int
	Exemplars, Created []int64
}

// textparse builds the command that reads an exposition as a server does, and
// returns a function that runs it.
func textparse(t *testing.T) func(contentType string, body []byte) (parsed, error) {
	t.Helper()
	promtest.DependOnSources(t)
	binary := filepath.Join(t.TempDir(), "textparse")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../tools/textparse", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(contentType string, body []byte) (p parsed, err error) {
		cmd := exec.CommandContext(t.Context(), binary, contentType)
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return p, fmt.Errorf("%w: %s", err, &stderr)
		}
		return p, json.Unmarshal(stdout.Bytes(), &p)
	}
}

// hostileTraces are rows as they stand in a list. Each has a name of its own,
// made from a prefix.
func hostileTraces(prefix string) (out []oppertest.Trace) {
	now := time.Now().UTC()
	past, just := now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339)
	row := func(fields map[string]any) {
		name := fmt.Sprint(prefix, len(out))
		all := map[string]any{
			"id": fmt.Sprintf("%s-%d", prefix, len(out)), "name": name, "status": "success",
			"start_time": past, "end_time": just, "duration_ms": 1500, "total_tokens": 100,
		}
		for k, v := range fields {
			if all[k] = v; v == nil {
				delete(all, k)
			}
		}
		raw, err := json.Marshal(all)
		if err != nil {
			panic(err)
		}
		end := now
		out = append(out, oppertest.Trace{ID: fmt.Sprint(all["id"]), Name: &name, End: &end, Raw: raw})
	}
	for _, at := range []string{
		"0000-12-31T23:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+02:00", "0001-01-01T00:00:00-05:00", "0001-01-01T12:00:00.0000001Z", "1600-01-01T00:00:00Z", "1601-01-01T00:00:00Z",
		"1677-09-21T00:12:43Z", "1677-09-21T00:12:44Z", "1899-12-30T00:00:00+14:00", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00-12:00", "1999-12-31T23:59:59Z",
		"2000-01-01T00:00:00+01:00", "2038-01-19T03:14:08Z", "2262-04-11T23:47:17Z", "2554-07-21T23:34:34Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00",
	} {
		row(map[string]any{"end_time": at})
		row(map[string]any{"start_time": at})
		row(map[string]any{"start_time": at, "end_time": at, "duration_ms": nil})
	}
	for _, ms := range []any{-1, -1e300, 1e300, 1e15, 0.0001, 5e-324, "NaN", "Infinity", nil, true, json.Number("1e999"), math.MaxInt64} {
		row(map[string]any{"duration_ms": ms, "start_time": nil})
	}
	for _, tokens := range []any{-1, math.MaxInt64, math.MaxInt64, json.Number("18446744073709551616"), 1e300, 0.5, "NaN", []int{1}, nil} {
		row(map[string]any{"total_tokens": tokens})
	}
	for i, id := range []string{`"`, `\`, "new\nline", "\x00", "\x7f", "\u0085", "\u2028", "{}", "# EOF", `"} 1 1`, "é", "\ufffd", " ", strings.Repeat("x", 119), strings.Repeat("x", 120), strings.Repeat("日", 40), strings.Repeat("x", 200), "🤖"} {
		row(map[string]any{"id": fmt.Sprint(id, prefix[:1], i)})
	}
	for _, name := range []string{`"`, `\`, "\n# EOF\n", "\x00", "\u2028", "{}", `"} NaN`, " ", strings.Repeat("日", 4000), "\u202e", "\ufffd", "(other)", "(unnamed)"} {
		row(map[string]any{"name": name + prefix})
	}
	return out
}

var lastEnd = regexp.MustCompile(`(?m)^opper_trace_last_end_timestamp_seconds\{.*\} (\S+)$`)

// Whatever clients send, Prometheus' own parser takes the whole exposition in
// each format, and no time in it is before 2000 or in the future.
func TestPrometheusParsesWhateverClientsSend(t *testing.T) {
	t.Parallel()
	parse := textparse(t)
	if got, err := parse("application/openmetrics-text; version=1.0.0", []byte("# TYPE a counter\na_total 1\n")); err == nil {
		t.Errorf("half a text is parsed: %+v", got)
	}
	for _, flags := range [][]string{{"--no-web.openmetrics-created"}, {"--web.openmetrics-created"}} {
		s := oppertest.New(oppertest.Config{})
		early, late := hostileTraces("early"), hostileTraces("late")
		s.Add(early...)
		address := exporter(t, s, append(flags, fast, noSettle, "--collector.max-trace-names=1000", "--collector.duration-buckets=1,60", "--collector.token-buckets=100")...)
		s.Add(late...)
		counted := float64(len(early) + len(late))
		promtest.Eventually(t, func() error {
			got := exportertest.MustScrape(t, address)
			if n := got.Lasting.Total("opper_traces_total", ""); n != counted {
				return fmt.Errorf("%v traces are shown, want %v", n, counted)
			}
			return nil
		})
		var sizes []int
		for _, accept := range []string{
			"", "*/*", "text/plain;version=0.0.4", "text/plain;version=1.0.0;escaping=allow-utf-8", "text/plain;version=0.0.4;escaping=values",
			"application/openmetrics-text;version=0.0.1", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
			"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
			"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
		} {
			body, contentType := exposed(t, address, accept)
			got, err := parse(contentType, body)
			if err != nil {
				t.Errorf("%v, %q: %s: %v", flags, accept, contentType, err)
				continue
			}
			sizes = append(sizes, got.Series)
			now := time.Now().UnixMilli()
			for _, ms := range append(got.Exemplars, got.Created...) {
				if at := time.UnixMilli(ms).UTC(); at.Year() < 2000 || ms > now {
					t.Errorf("%v, %q: a time of %v", flags, accept, at)
				}
			}
			if hasTimes := strings.Contains(contentType, "protobuf"); hasTimes && (len(got.Exemplars) == 0 || len(got.Created) == 0) {
				t.Errorf("%v, %q: %d exemplars, %d created", flags, accept, len(got.Exemplars), len(got.Created))
			}
			if !strings.Contains(contentType, "text/plain") {
				continue
			}
			ends := lastEnd.FindAllSubmatch(body, -1)
			if len(ends) == 0 {
				t.Error("no last end")
			}
			for _, end := range ends {
				seconds, err := strconv.ParseFloat(string(end[1]), 64)
				if err != nil || seconds < 946684800 || seconds*1e3 > float64(now) {
					t.Errorf("%s: %v", end[0], err)
				}
			}
		}
		t.Logf("%v: series by format: %v", flags, sizes)
	}
}

// exposed returns /metrics as an Accept header asks for it.
func exposed(t *testing.T, address, accept string) (body []byte, contentType string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		t.Fatalf("%q: %v: %.200s", accept, err, body)
	}
	return body, resp.Header.Get("Content-Type")
}
