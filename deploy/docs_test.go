// Package deploy_test holds the documents to what the program does.
package deploy_test

import (
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

func TestReadme(t *testing.T) {
	content, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := document(content)
	// Reading them also keeps go test from taking a cached result for good
	// when they have changed.
	sources := readSources(t)
	binary := filepath.Join(t.TempDir(), "opper_exporter")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, "opper_exporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	storage := t.TempDir()
	address := start(t, binary, storage, readme.outcomes(t))
	families := promtest.Scrape(t, "http://"+address+"/metrics")

	t.Run("flags", func(t *testing.T) {
		help, err := exec.CommandContext(t.Context(), binary, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		want := programFlags(string(help))
		if _, ok := families["go_info"]; !ok {
			want["--[no-]web.disable-exporter-metrics"] = "on"
		}
		if families["opper_trace_duration_seconds"].GetMetric()[0].GetHistogram().Schema != nil {
			want["--[no-]collector.native-histograms"] = "on"
		}
		if len(families["opper_trace_duration_seconds"].GetMetric()[0].GetHistogram().GetBucket()) > 0 {
			want["--[no-]collector.classic-histograms"] = "on"
		}
		compare(t, readme.flags(t), want)
	})
	t.Run("metrics", func(t *testing.T) {
		got := map[string]string{}
		for _, row := range readme.table(t, "Metrics") {
			got[row[0]] = row[1] + " " + labels(strings.Split(row[2], ", "))
		}
		want := map[string]string{}
		for name, family := range families {
			if strings.HasPrefix(name, "opper_") {
				want[name] = kind(family)
			}
		}
		compare(t, got, want)
	})
	t.Run("outcomes", func(t *testing.T) {
		got := map[string]string{}
		for _, m := range families["opper_traces_total"].GetMetric() {
			if m.GetCounter().GetValue() == 1 {
				got[label(m, "trace_name")] = label(m, "outcome")
			}
		}
		compare(t, readme.outcomes(t), got)
	})
	t.Run("log", func(t *testing.T) {
		got, want := map[string]string{}, map[string]string{}
		for _, row := range readme.table(t, "Log") {
			got[row[1]] = row[0]
			// Of those at info, only some are worth a row.
			if row[0] == "info" && strings.Contains(sources, strconv.Quote(row[1])) {
				want[row[1]] = "info"
			}
		}
		for _, match := range regexp.MustCompile(`level\.(Error|Warn)\(.*?\)\.Log\("msg", "(.*?)"`).FindAllStringSubmatch(sources, -1) {
			want[match[2]] = strings.ToLower(match[1])
		}
		compare(t, got, want)
	})
	t.Run("endpoints", func(t *testing.T) {
		for _, row := range readme.table(t, "Endpoints") {
			if resp, err := http.Get("http://" + address + row[0]); err != nil {
				t.Error(err)
			} else if resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", row[0], resp.Status)
			}
		}
	})
	t.Run("commands", func(t *testing.T) {
		for _, match := range regexp.MustCompile(`\bmake ([a-z]+)\b`).FindAllStringSubmatch(readme.code("sh"), -1) {
			if out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "-n", match[1]).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	})
	t.Run("files", func(t *testing.T) {
		var anchors []string
		for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(readme), -1) {
			anchors = append(anchors, strings.ReplaceAll(strings.ToLower(match[1]), " ", "-"))
		}
		for _, match := range regexp.MustCompile(`\]\(([^):]+)\)|\bgo run (\./\S+?)\b[^/\w]`).FindAllStringSubmatch(string(readme), -1) {
			name, section, _ := strings.Cut(match[1]+match[2], "#")
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Error(err)
			}
			if name == "" && !slices.Contains(anchors, section) {
				t.Errorf("no section %s", section)
			}
		}
	})
	t.Run("state", func(t *testing.T) {
		got, want := map[string]string{}, map[string]string{}
		for _, match := range regexp.MustCompile("`([^` ]+\\.db)`").FindAllStringSubmatch(string(readme), -1) {
			got[match[1]] = ""
		}
		entries, err := os.ReadDir(storage)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			want[entry.Name()] = ""
		}
		compare(t, got, want)
	})
	t.Run("prometheus", func(t *testing.T) { prometheus(t, readme, address) })
}

// prometheus runs a server with the example configuration, and asks it all the
// example queries.
func prometheus(t *testing.T, readme document, address string) {
	t.Helper()
	yaml := readme.code("yaml")
	for from, to := range map[string]string{"localhost:16773": address, "scrape_interval: 30s": "scrape_interval: 1s\n    scrape_timeout: 1s"} {
		if strings.Count(yaml, from) != 1 {
			t.Fatalf("not once in the scrape configuration: %s", from)
		}
		yaml = strings.Replace(yaml, from, to, 1)
	}
	server := promtest.Start(t, promtest.Config{YAML: yaml})
	server.WaitScrapes(t, "opper", 2)
	queries := strings.Split(strings.TrimSpace(readme.code("promql")), "\n\n")
	if len(queries) < 10 {
		t.Errorf("only %d queries", len(queries))
	}
	for _, query := range queries {
		if result, err := server.Query(t.Context(), query, time.Now()); err != nil || len(result) == 0 {
			t.Errorf("%d results and error %v of %s", len(result), err, query)
		}
	}
}

func compare(t *testing.T, documented, real map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if is, ok := real[name]; !ok {
			t.Errorf("the README has %s, the program has not", name)
		} else if documented[name] != is {
			t.Errorf("%s is %q, the README says %q", name, is, documented[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(real)) {
		if _, ok := documented[name]; !ok {
			t.Errorf("the program has %s, the README has not", name)
		}
	}
	if len(real) == 0 {
		t.Error("the program has none at all")
	}
}

// document is a text in Markdown.
type document string

// table returns the rows of all tables of a section, without the back quotes.
func (d document) table(t *testing.T, section string) [][]string {
	t.Helper()
	_, text, ok := strings.Cut(string(d), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("no section %s", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows [][]string
	head := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			head = true
		case strings.HasPrefix(line, "|---"):
			head = false
		case !head:
			cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "|"), "`", ""), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

// code returns all code blocks of a language.
func (d document) code(language string) string {
	var out strings.Builder
	for _, match := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(string(d), -1) {
		out.WriteString(match[1] + "\n")
	}
	return out.String()
}

// flags returns the documented default of each flag, as --help has it.
func (d document) flags(t *testing.T) map[string]string {
	t.Helper()
	flags := map[string]string{}
	for _, row := range d.table(t, "Flags") {
		value := row[1]
		if first, _, several := strings.Cut(value, ", "); several {
			value = first + "..."
		}
		flags[row[0]] = value
	}
	return flags
}

// outcomes returns the documented outcome of each status, and of some that are
// in neither list.
func (d document) outcomes(t *testing.T) map[string]string {
	t.Helper()
	outcomes := map[string]string{}
	for _, status := range []string{"success", "ok", "completed", "error", "failed", "failure", "running", "pending", "cancelled", "timeout"} {
		outcomes[status] = "unknown"
	}
	for _, row := range d.table(t, "Flags") {
		outcome, ok := strings.CutSuffix(row[0], "-status")
		if !ok {
			continue
		}
		for status := range strings.SplitSeq(row[1], ", ") {
			outcomes[status] = strings.TrimPrefix(outcome, "--collector.")
		}
	}
	return outcomes
}

var helpLine = regexp.MustCompile(`(?m)^ {2}(?:-\w, | {4})--(\[no-\])?([a-z.-]+)(?:=("[^"\n]*"|\S*))?`)

// programFlags returns the default of each flag in a help text: that of a flag
// that is on or off is not in there, and taken for off.
func programFlags(help string) map[string]string {
	flags := map[string]string{}
	for _, match := range helpLine.FindAllStringSubmatch(help, -1) {
		name, value := match[2], strings.ReplaceAll(match[3], `"`, "")
		switch {
		case match[1] != "":
			value = "off"
		case value == strings.ToUpper(name):
			value = ""
		}
		flags["--"+match[1]+name] = value
	}
	return flags
}

// kind returns the type and the labels of a metric family.
func kind(family *dto.MetricFamily) string {
	var names []string
	for _, m := range family.GetMetric() {
		for _, pair := range m.GetLabel() {
			names = append(names, pair.GetName())
		}
	}
	return strings.ToLower(family.GetType().String()) + " " + labels(names)
}

func labels(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func readSources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(d.Name()) > 2 && d.Name()[0] == '.':
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

var listening = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// start runs the exporter, as it is without flags, against an Opper that lists
// one old trace of each status, which is also its name. It keeps its state in
// storage. It returns the address of the exporter once that is ready.
func start(t *testing.T, binary, storage string, statuses map[string]string) string {
	t.Helper()
	opper := oppertest.New(oppertest.Config{})
	end := time.Now().Add(-time.Hour)
	begin := end.Add(-time.Second)
	for status := range statuses {
		opper.Add(oppertest.Trace{ID: "trace-" + status, Name: &status, Status: &status, Start: &begin, End: &end, Tokens: new(int64(100))})
	}
	server := httptest.NewServer(opper)
	t.Cleanup(server.Close)

	exporter := exec.CommandContext(t.Context(), binary, "--opper.url="+server.URL, "--web.listen-address=127.0.0.1:0", "--storage.path="+storage)
	exporter.Env = append(os.Environ(), "OPPER_API_KEY=test")
	out := new(promtest.Output)
	exporter.Stderr = out
	if err := exporter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exporter.Wait() // ends with the test's context
		if t.Failed() {
			t.Logf("log of the exporter:\n%s", out)
		}
	})
	var address string
	promtest.Eventually(t, func() error {
		match := listening.FindStringSubmatch(out.String())
		if match == nil {
			return fmt.Errorf("not listening yet:\n%s", out)
		}
		address = match[1]
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", resp.Status)
		}
		return nil
	})
	return address
}
