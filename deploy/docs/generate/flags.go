package main

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// flag is one of the program's flags.
type flag struct {
	name     string // without dashes
	isSwitch bool
	defaults []string
	help     string
}

var (
	flagLine     = regexp.MustCompile(`^ {2}(?:-\w, | {4})--(\[no-\])?([a-z0-9.-]+)(?:=(.*?))?(?: \.\.\.)?(?: {2,}(.*))?$`)
	continuation = regexp.MustCompile(`^ {20,}(\S.*)$`)
)

// parseHelp returns the flags of a help text in their order.
func parseHelp(help string) ([]flag, error) {
	_, text, ok := strings.Cut(help, "\nFlags:\n")
	if !ok {
		return nil, errors.New("--help lists no flags")
	}
	var flags []flag
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if match := flagLine.FindStringSubmatch(line); match != nil {
			f := flag{name: match[2], isSwitch: match[1] != "", help: match[4]}
			value := strings.Trim(match[3], `"`)
			switch {
			case f.isSwitch:
				f.defaults = []string{"off"}
			case value != "" && value != strings.ToUpper(f.name):
				f.defaults = []string{value}
			}
			flags = append(flags, f)
		} else if match := continuation.FindStringSubmatch(line); match != nil && len(flags) > 0 {
			last := &flags[len(flags)-1]
			last.help = strings.TrimSpace(last.help + " " + match[1])
		} else if line != "" {
			break // what follows the flags
		}
	}
	return flags, nil
}

// setDefaults adds what --help leaves out: whether a switch is on, and all values
// of a list. The exposition shows them.
func setDefaults(flags []flag, families map[string]*dto.MetricFamily) {
	durations := families["opper_trace_duration_seconds"].GetMetric()[0].GetHistogram()
	isOn := map[string]bool{
		"collector.classic-histograms": len(durations.GetBucket()) > 0,
		"collector.native-histograms":  durations.Schema != nil,
	}
	for i, f := range flags {
		if isOn[f.name] {
			flags[i].defaults = []string{"on"}
		}
		if outcome, ok := strings.CutSuffix(f.name, "-status"); ok {
			outcome = strings.TrimPrefix(outcome, "collector.")
			flags[i].defaults = nil
			for _, status := range statuses {
				if outcomeOf(families, status) == outcome {
					flags[i].defaults = append(flags[i].defaults, status)
				}
			}
		}
	}
}

// general is the section of flags whose names have one part.
const general = "General"

// flagTables returns a table for each first part of the names.
func flagTables(flags []flag) string {
	var sections []string
	tables := map[string]string{}
	for _, f := range flags {
		section := general
		if prefix, _, ok := strings.Cut(f.name, "."); ok {
			section = code("--" + prefix + ".*")
		}
		if !slices.Contains(sections, section) {
			sections = append(sections, section)
			tables[section] = head("flag", "default", "meaning")
		}
		name, value := "--"+f.name, code(f.defaults...)
		if f.isSwitch {
			name, value = "--[no-]"+f.name, f.defaults[0]
		}
		tables[section] += row(code(name), value, escaper.Replace(f.help))
	}
	if i := slices.Index(sections, general); i >= 0 {
		sections = append(slices.Delete(sections, i, i+1), general)
	}
	var out strings.Builder
	for _, section := range sections {
		out.WriteString("\n### " + section + "\n\n" + tables[section])
	}
	out.WriteString("\n")
	return out.String()
}
