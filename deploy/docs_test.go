// Package deploy_test holds the documents to what the program does.
package deploy_test

import (
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

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

func TestMain(m *testing.M) { exportertest.Main(m) }

func TestDocumentationIsTrue(t *testing.T) {
	readme := read(t, "../README.md")
	configuration, metrics, operations, logging := read(t, "docs/configuration.md"), read(t, "docs/metrics.md"), read(t, "docs/operations.md"), read(t, "docs/logging.md")
	// Reading them also keeps go test from taking a cached result for good
	// when they have changed.
	sources := readSources(t)
	binary := exportertest.Binary(t)
	storage := t.TempDir()
	outcomes := configuration.outcomes(t)
	address, families := start(t, binary, storage, outcomes)

	// What the README says of some flags and metrics is what the reference says of
	// all, which is generated from the program.
	t.Run("flags", func(t *testing.T) {
		reference := configuration.flags(t)
		for name, value := range readme.flags(t) {
			if want, ok := reference[name]; !ok || value != want {
				t.Errorf("the README has %s as %q, the program as %q", name, value, want)
			}
		}
		help, err := exec.CommandContext(t.Context(), binary, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		demo := string(read(t, "demo/main.go"))
		for name, documents := range mentioned(t, `--(?:\[?no-\]?)?((?:opper|collector|storage|web|log|config)\.[a-z][a-z.-]*[a-z])`) {
			if strings.Contains(demo, "Flag("+strconv.Quote(name)) || strings.HasPrefix(name, "storage.tsdb.") {
				continue // of the demo, or of Prometheus
			}
			if !regexp.MustCompile(`--(\[no-\])?` + regexp.QuoteMeta(name) + `\b[^.-]`).Match(help) {
				t.Errorf("the program has no flag --%s: %s", name, documents)
			}
		}
	})
	t.Run("metrics", func(t *testing.T) {
		reference := metrics.metrics(t, "Traces")
		compare(t, readme.metrics(t, "Trace metrics"), reference)
		maps.Copy(reference, metrics.metrics(t, "Cost"))
		maps.Copy(reference, metrics.metrics(t, "Exporter"))
		exposed := map[string]string{}
		for name, family := range families {
			if strings.HasPrefix(name, "opper_") {
				exposed[name] = kind(family)
			}
		}
		compare(t, reference, exposed)
		for name, documents := range mentioned(t, `\b(opper_(?:up|usage|cost_usd|trace|token|project_|exporter_)[a-z_]*)\b`) {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			// One is the name of a volume.
			if _, ok := exposed[name]; !ok && name != "opper_exporter_exporter" {
				t.Errorf("the program has no metric %s: %s", name, documents)
			}
		}
	})
	t.Run("outcomes", func(t *testing.T) {
		got := map[string]string{}
		for _, m := range families["opper_traces_total"].GetMetric() {
			if m.GetCounter().GetValue() == 1 {
				got[label(m, "trace_name")] = label(m, "outcome")
			}
		}
		compare(t, outcomes, got)
	})
	t.Run("log", func(t *testing.T) {
		got, want := map[string]string{}, map[string]string{}
		for _, row := range logging.table(t, "Messages") {
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
	t.Run("quotes", func(t *testing.T) {
		quotes := 0
		for _, name := range []string{"docs/configuration.md", "docs/cost.md", "docs/operations.md", "prometheus/runbook.md"} {
			for _, fragment := range read(t, name).quotes() {
				quotes++
				if !strings.Contains(sources, fragment) {
					t.Errorf("%s: the program does not say %q", name, fragment)
				}
			}
		}
		if quotes < 10 {
			t.Errorf("only %d quotes", quotes)
		}
	})
	t.Run("endpoints", func(t *testing.T) {
		for _, row := range operations.table(t, "Endpoints") {
			method, path, status := http.MethodGet, strings.ReplaceAll(row[0], "NAME", "default"), http.StatusOK
			if path == "/-/reload" {
				status = http.StatusNotFound // there is no --config.file
			}
			if strings.HasPrefix(row[1], "POST: ") {
				method = http.MethodPost
			}
			request, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := http.DefaultClient.Do(request); err != nil {
				t.Error(err)
			} else if resp.Body.Close(); resp.StatusCode != status {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
	})
	t.Run("commands", func(t *testing.T) {
		commands := readme.code("sh") + read(t, "../CONTRIBUTING.md").code("sh")
		for _, match := range regexp.MustCompile(`\bmake ([a-z-]+)\b`).FindAllStringSubmatch(commands, -1) {
			if out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "-n", match[1]).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	})
	t.Run("state", func(t *testing.T) {
		got, want := map[string]string{}, map[string]string{}
		for _, match := range regexp.MustCompile("`([^` ]+\\.db)`").FindAllStringSubmatch(string(read(t, "docs/state.md")), -1) {
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
	t.Run("prometheus", func(t *testing.T) {
		var queries strings.Builder
		for _, name := range documents(t) {
			if dir := filepath.Dir(name); dir == ".." || dir == "docs" { // elsewhere the rules are needed
				queries.WriteString(read(t, name).code("promql"))
			}
		}
		prometheus(t, readme, queries.String(), address)
	})
}

// A person who has never seen the project reads all of README.
func TestReadmeIsShort(t *testing.T) {
	if lines := strings.Count(string(read(t, "../README.md")), "\n"); lines > 180 {
		t.Errorf("%d lines", lines)
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, name := range documents(t) {
		for _, match := range regexp.MustCompile(`\]\(([^):]+)\)|\bgo run (\./\S+?)\b[^/\w]`).FindAllStringSubmatch(string(read(t, name)), -1) {
			to, section, _ := strings.Cut(match[1], "#")
			path := filepath.Join(filepath.Dir(name), to)
			switch {
			case match[2] != "":
				path = filepath.Join("..", match[2])
			case to == "":
				path = name
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if section != "" && !slices.Contains(read(t, path).anchors(), section) {
				t.Errorf("%s: %s has no section %s", name, path, section)
			}
		}
	}
}

// The changelog has the format of Prometheus.
func TestChangelogHasItsFormat(t *testing.T) {
	kinds := []string{"CHANGE", "FEATURE", "ENHANCEMENT", "BUGFIX"}
	entry := regexp.MustCompile(`^\* \[([A-Z]+)\] [a-z-]+: [A-Z].*\.$`)
	last := 0
	for line := range strings.Lines(string(read(t, "../CHANGELOG.md"))) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			last = 0
			continue
		}
		match := entry.FindStringSubmatch(line)
		if match == nil || slices.Index(kinds, match[1]) < last {
			t.Errorf("not an entry, or not in the order of %s: %s", kinds, line)
			continue
		}
		last = slices.Index(kinds, match[1])
	}
}

// What CONTRIBUTING.md says of where things live is true.
func TestContributingSaysWhereThingsLive(t *testing.T) {
	rows := read(t, "../CONTRIBUTING.md").table(t, "Where things live")
	if len(rows) == 0 {
		t.Error("no places")
	}
	for _, row := range rows {
		for path := range strings.SplitSeq(row[0], ", ") {
			if _, err := os.Stat(filepath.Join("..", path)); err != nil {
				t.Error(err)
			}
		}
	}
}

// prometheus runs a server with the scrape configuration of the README, and asks
// it all queries of the documentation.
func prometheus(t *testing.T, readme document, queries, address string) {
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
	// A comment begins a query, also without an empty line before it.
	queries = regexp.MustCompile(`(?m)^([^#\n].*)\n#`).ReplaceAllString(strings.TrimSpace(queries), "$1\n\n#")
	asked := strings.Split(queries, "\n\n")
	if len(asked) < 20 {
		t.Errorf("only %d queries", len(asked))
	}
	for _, query := range asked {
		if result, err := server.Query(t.Context(), query, time.Now()); err != nil || len(result) == 0 {
			t.Errorf("%d results and error %v of %s", len(result), err, query)
		}
	}
}

func compare(t *testing.T, documented, real map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if is, ok := real[name]; !ok {
			t.Errorf("the documentation has %s, the program has not", name)
		} else if documented[name] != is {
			t.Errorf("%s is %q, the documentation says %q", name, is, documented[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(real)) {
		if _, ok := documented[name]; !ok {
			t.Errorf("the program has %s, the documentation has not", name)
		}
	}
	if len(real) == 0 {
		t.Error("the program has none at all")
	}
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

// start runs the exporter, as it is without flags, against an Opper that lists
// one old trace of each status, which is also its name. It keeps its state in
// storage. It returns the address of the exporter once that is ready, and what it
// exposes once usage has been read.
func start(t *testing.T, binary, storage string, statuses map[string]string) (address string, families map[string]*dto.MetricFamily) {
	t.Helper()
	opper := exportertest.NewOpper()
	end := time.Now().Add(-time.Hour)
	begin := end.Add(-time.Second)
	for status := range statuses {
		opper.Add(oppertest.Trace{ID: "trace-" + status, Name: &status, Status: &status, Start: &begin, End: &end, Tokens: new(int64(100))})
	}
	server := httptest.NewServer(opper)
	t.Cleanup(server.Close)

	cmd := exec.Command(binary, "--opper.url="+server.URL, "--web.listen-address=127.0.0.1:0", "--storage.path="+storage, "--web.enable-lifecycle")
	cmd.Env = append(os.Environ(), "OPPER_API_KEY=test")
	exporter := exportertest.MustStart(t, cmd)
	address = exporter.AwaitReady(t)
	families, err := exporter.FamiliesWithUsage(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return address, families
}
