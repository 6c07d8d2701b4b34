package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents returns the paths of all documents.
func documents(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"../*.md", "*/*.md", "*/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	if len(names) < 15 {
		t.Fatalf("only %d documents: %s", len(names), names)
	}
	return names
}

// recorded matches the names of recording rules, which hold those of metrics.
var recorded = regexp.MustCompile(`\w+(?::\w+)+`)

// mentioned returns what the first group of a pattern matches anywhere in the
// documents of users, and where.
func mentioned(t *testing.T, pattern string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, name := range documents(t) {
		if name == "../CHANGELOG.md" {
			continue // it also names what is no more
		}
		text := recorded.ReplaceAllString(string(read(t, name)), "")
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(found[match[1]], name) {
				found[match[1]] = append(found[match[1]], name)
			}
		}
	}
	if len(found) == 0 {
		t.Errorf("nothing in the documents matches %s", pattern)
	}
	return found
}

func read(t *testing.T, name string) document {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return document(content)
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

var (
	block   = regexp.MustCompile("(?ms)^```.*?^```")
	span    = regexp.MustCompile("`([^`\n]+)`")
	words   = regexp.MustCompile(`^[a-z'():,… -]+ [a-z'():,… -]+$`)
	command = regexp.MustCompile(`^(docker|kubectl|make|restart:|systemctl) `)
)

// quotes returns what a text quotes of the program's messages: code of several
// words that is no command, in pieces where … stands for something else.
func (d document) quotes() (fragments []string) {
	for _, match := range span.FindAllStringSubmatch(block.ReplaceAllString(string(d), ""), -1) {
		if !words.MatchString(match[1]) || command.MatchString(match[1]) {
			continue
		}
		for fragment := range strings.SplitSeq(match[1], "…") {
			if fragment = strings.TrimSpace(fragment); fragment != "" {
				fragments = append(fragments, fragment)
			}
		}
	}
	return fragments
}

// code returns all code blocks of a language.
func (d document) code(language string) string {
	var out strings.Builder
	for _, match := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(string(d), -1) {
		out.WriteString(match[1] + "\n")
	}
	return out.String()
}

// anchors returns the names under which links find the headings.
func (d document) anchors() []string {
	var anchors []string
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(d), -1) {
		anchor := regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(match[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

// flags returns the documented default of each flag.
func (d document) flags(t *testing.T) map[string]string {
	t.Helper()
	flags := map[string]string{}
	for _, row := range d.table(t, "Flags") {
		flags[row[0]] = row[1]
	}
	return flags
}

// metrics returns the documented type and labels of the metrics of a section.
func (d document) metrics(t *testing.T, section string) map[string]string {
	t.Helper()
	metrics := map[string]string{}
	for _, row := range d.table(t, section) {
		metrics[row[0]] = row[1] + " " + labels(strings.Split(row[2], ", "))
	}
	return metrics
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
		for status := range strings.SplitSeq(row[1], ",") {
			outcomes[status] = strings.TrimPrefix(outcome, "--collector.")
		}
	}
	return outcomes
}
